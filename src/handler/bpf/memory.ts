/** Words and blocks of memory: filled, copied, compared. Sizes are multiples of eight bytes. They use r0–r3. */
import {
  isImmediate,
  R0,
  R1,
  R2,
  R3,
  type Assembler,
  type Label,
  type Reg,
} from '../../arch/bpf/assembler.js';
import { encodeUtf8 } from '../../base/utf8.js';
import { beyond, type Place } from './frame.js';

/** What is longer is done in a loop. */
const UNROLLED_BYTES = 128;

export class Memory {
  constructor(readonly asm: Assembler<unknown>) {}

  load(to: Reg, { base, offset }: Place): void {
    this.asm.load(8, to, base, offset);
  }
  store({ base, offset }: Place, value: Reg | bigint): void {
    this.asm.store(8, base, offset, value);
  }
  /** The address itself. */
  address(to: Reg, { base, offset }: Place): void {
    this.asm.mov(to, base);
    if (offset !== 0) this.asm.alu('add', to, BigInt(offset));
  }

  zero(to: Place, bytes: number): void {
    this.#each(
      bytes,
      (at) => this.store(beyond(to, at), 0n),
      (index) => {
        this.#indexed(R1, to, index);
        this.asm.store(8, R1, 0, 0n);
      },
    );
  }

  copy(to: Place, from: Place, bytes: number): void {
    if (to.base === from.base && to.offset === from.offset) return;
    this.#each(
      bytes,
      (at) => {
        this.load(R0, beyond(from, at));
        this.store(beyond(to, at), R0);
      },
      (index) => {
        this.#indexed(R1, from, index);
        this.asm.load(8, R0, R1, 0);
        this.#indexed(R1, to, index);
        this.asm.store(8, R1, 0, R0);
      },
    );
  }

  /** A few words from where a register other than r1 points. */
  copyFrom(to: Place, from: Reg, words: number): void {
    for (let i = 0; i < words; i++) {
      this.asm.load(8, R1, from, i * 8);
      this.store(beyond(to, i * 8), R1);
    }
  }

  /** A constant, with NULs behind it. */
  text(to: Place, text: string, bytes: number): void {
    const words = wordsOf(text);
    words.forEach((word, i) => {
      const at = beyond(to, i * 8);
      if (isImmediate(word)) return this.store(at, BigInt.asIntN(64, word));
      this.asm.load64(R0, word);
      this.store(at, R0);
    });
    this.zero(beyond(to, words.length * 8), bytes - words.length * 8);
  }

  /** On to `differ` where they differ; what one of them does not have is 0. */
  differ(left: Block, right: Block, differ: Label): void {
    const both = Math.min(left.bytes, right.bytes);
    const { asm } = this;
    this.#each(
      both,
      (at) => {
        this.load(R0, beyond(left.place, at));
        this.load(R1, beyond(right.place, at));
        asm.jumpIf('ne', R0, R1, differ);
      },
      (index) => {
        this.#indexed(R1, left.place, index);
        asm.load(8, R0, R1, 0);
        this.#indexed(R1, right.place, index);
        asm.load(8, R1, R1, 0);
        asm.jumpIf('ne', R0, R1, differ);
      },
    );
    const longer = left.bytes > right.bytes ? left : right;
    if (longer.bytes > both) this.#beginsWithNul(beyond(longer.place, both), differ);
  }

  /** On to `differ` where the block is not this text. */
  differFromText(block: Block, text: string, differ: Label): void {
    const words = wordsOf(text);
    // Nothing that is read has a NUL inside.
    if (words.length * 8 > block.bytes || text.includes('\0')) return this.asm.jump(differ);
    words.forEach((word, i) => {
      this.load(R0, beyond(block.place, i * 8));
      if (isImmediate(word)) return this.asm.jumpIf('ne', R0, BigInt.asIntN(64, word), differ);
      this.asm.load64(R1, word);
      this.asm.jumpIf('ne', R0, R1, differ);
    });
    if (words.length * 8 < block.bytes) this.#beginsWithNul(beyond(block.place, words.length * 8), differ);
  }

  /** The string that comes before this place ends there: behind a NUL there are only NULs. */
  #beginsWithNul({ base, offset }: Place, otherwise: Label): void {
    this.asm.load(1, R0, base, offset);
    this.asm.jumpIf('ne', R0, 0n, otherwise);
  }

  #each(bytes: number, word: (at: number) => void, indexed: (index: Reg) => void): void {
    if (bytes <= UNROLLED_BYTES) {
      for (let at = 0; at < bytes; at += 8) word(at);
      return;
    }
    const again = this.asm.label();
    this.asm.mov(R2, 0n);
    this.asm.place(again);
    indexed(R2);
    this.asm.alu('add', R2, 8n);
    this.asm.jumpIf('lt', R2, BigInt(bytes), again);
  }
  #indexed(to: Reg, place: Place, index: Reg): void {
    this.address(to, place);
    this.asm.alu('add', to, index);
  }

  /** Only the first `bytes` stay; the rest of the word they end in becomes 0. */
  cut({ base, offset }: Place, bytes: number): void {
    if (bytes % 8 === 0) return;
    const last = { base, offset: offset + bytes - (bytes % 8) };
    this.load(R0, last);
    this.asm.load64(R3, (1n << BigInt((bytes % 8) * 8)) - 1n);
    this.asm.alu('and', R0, R3);
    this.store(last, R0);
  }
}

/** A string in memory: NULs behind it, up to `bytes`. */
export interface Block {
  readonly place: Place;
  readonly bytes: number;
}

/** A text's bytes, up to the first NUL, as words of the machine; the last one is filled with NULs. */
function wordsOf(text: string): bigint[] {
  const bytes = encodeUtf8(text.split('\0', 1)[0]!);
  const padded = new Uint8Array((bytes.length + 7) & ~7);
  padded.set(bytes);
  return [...new BigUint64Array(padded.buffer)];
}
