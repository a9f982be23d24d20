/** Where a program keeps what it works on: its stack, and where that is too small a slot of the map `scratch`. */
import { R10, R9, type Reg } from '../../arch/bpf/assembler.js';
import { STACK_BYTES } from '../../arch/bpf/opcodes.js';

/** Memory: `base` points there, but for the offset. */
export interface Place {
  readonly base: Reg;
  readonly offset: number;
}
export const beyond = ({ base, offset }: Place, bytes: number): Place => ({ base, offset: offset + bytes });

/** It does not fit on the stack. */
export class StackFull extends Error {}

/** The register that holds the slot of `scratch`. */
export const SCRATCH = R9;
/** The first word of a slot says whether it is taken, the second where it is. */
const HEADER_BYTES = 16;

export class Frame {
  #stack = 0;
  #scratch = HEADER_BYTES;
  #mostScratch = HEADER_BYTES;

  /** Buffers of more bytes than `onStack` are in scratch; undefined: there is no scratch. */
  constructor(readonly onStack: number | undefined) {}

  get scratchBytes(): number {
    return this.#mostScratch;
  }

  word(): Place {
    return this.#onStack(8);
  }

  /** `bytes`: a multiple of eight. */
  buffer(bytes: number): Place {
    if (this.onStack === undefined || bytes <= this.onStack) return this.#onStack(bytes);
    const place = { base: SCRATCH, offset: this.#scratch } as const;
    this.#scratch += bytes;
    this.#mostScratch = Math.max(this.#mostScratch, this.#scratch);
    return place;
  }

  /** What is taken in there is free again behind it. */
  within<T>(use: () => T): T {
    const [stack, scratch] = [this.#stack, this.#scratch];
    const result = use();
    this.#stack = stack;
    this.#scratch = scratch;
    return result;
  }

  #onStack(bytes: number): Place {
    this.#stack += bytes;
    if (this.#stack > STACK_BYTES) throw new StackFull();
    return { base: R10, offset: -this.#stack };
  }
}
