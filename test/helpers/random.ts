/** A small seeded generator (xorshift32): a failing case can be made again from the seed its message names. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = (Math.imul(seed, 0x9e37_79b1) ^ 0x6d2b_79f5) | 1;
  }

  /** 0 up to, not including, 2³². */
  u32(): number {
    this.#state ^= this.#state << 13;
    this.#state ^= this.#state >>> 17;
    this.#state ^= this.#state << 5;
    return this.#state >>> 0;
  }

  /** 0 up to, not including, `n`. */
  below(n: number): number {
    return this.u32() % n;
  }

  /** True once in `n` times. */
  once(n: number): boolean {
    return this.below(n) === 0;
  }

  u64(): bigint {
    return (BigInt(this.u32()) << 32n) | BigInt(this.u32());
  }

  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)] as T;
  }

  bytes(n: number): number[] {
    return Array.from({ length: n }, () => this.below(256));
  }
}
