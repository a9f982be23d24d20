/**
 * The memory that the tracer thread and the handlers' thread share: registers travel here, and a hit costs no message.
 *
 * A hit slot belongs to the tracer (free), is posted to the handlers' thread, and comes back through the reply ring.
 * Only the tracer hands slots out, and only the handlers' thread gives them back, so a slot that was abandoned
 * (deadline) is not used again while a late handler still writes to it.
 */
import { mapRegion, regionAt, type Region } from '../../linux/memory.js';
import type { Phase } from '../engine.js';

export const SLOTS = 1024;
/** Counters for uprobes without handlers. */
export const COUNTERS = 1 << 20;
const INDEX_BITS = 10; // SLOTS
const RING_BITS = 11; // twice SLOTS: a ring can never be full
const RING_SIZE = 1 << RING_BITS;
/** A ring's entry: an index and a verdict, and above them the round. */
const VALUE_BITS = 14;
const VALUE_MASK = (1 << VALUE_BITS) - 1;
const LAST_ROUND = 0x1_ffff;
const SLOT_BYTES = 1024;
const SLOT_REGS = 128;
const SLOT_FPREGS = 384;
const HEADER_BYTES = 4096;
const POST_RING_AT = HEADER_BYTES;
const REPLY_RING_AT = POST_RING_AT + RING_SIZE * 4;
const SLOTS_AT = REPLY_RING_AT + RING_SIZE * 4;
const COUNTERS_AT = SLOTS_AT + SLOTS * SLOT_BYTES;
const LENGTH = COUNTERS_AT + COUNTERS * 8;

export const REG_WORDS = 27;

/**
 * Words of the header, behind the bell's (doorbell.ts, BELL_WORDS). What one side writes at every hit has a cache line (16 words) of its
 * own: a line that goes from one CPU to the other and back costs as much as a system call.
 */
export const WORD = {
  closeRequested: 3,
  closed: 4,
  ledger: 6,
  handlersAwake: 16,
  postHead: 32,
  postTail: 48,
  replyHead: 64,
  replyTail: 80,
} as const;

/** Why the tracer's bell rings. */
export const REASON = { reply: 1, command: 2, floatRegs: 4 } as const;

/** What the handlers' thread does: sleeps in its event loop, looks for hits, or waits for one on a futex. */
export const AWAKE = { no: 0, yes: 1, napping: 2 } as const;

/** Words of a slot. `trees` are MOST_TREES words, zeros behind the last. */
export const FIELD = {
  state: 0,
  siteId: 1,
  pid: 2,
  tid: 3,
  phase: 4,
  memFd: 5,
  fp: 6,
  call: 7,
  trees: 8,
  lastConsumer: 224,
  signal: 225,
  signalCode: 226,
} as const;
/** 64-bit words of a slot. `args` are ARGS words. */
export const WIDE = { time: 8, entryTime: 9, args: 10, faultAddress: 114 } as const;
/** The registers of a call's first arguments. */
export const ARGS = 6;
export const STATE = { free: 0, posted: 1, running: 2, done: 3, abandoned: 4 } as const;
export const FP = { none: 0, wanted: 1, ready: 2, failed: 3 } as const;
export const PHASES = ['pre', 'post', 'fault', 'return'] as const satisfies readonly Phase[];
/** What handlers say of a hit: bits. None of them where they were too late, and the hit had been taken back. */
export const VERDICT = { done: 1, skip: 2, changed: 4 } as const;

export class Mailbox {
  readonly address: number;
  readonly words: Int32Array;
  readonly counters: BigUint64Array;
  readonly #region: Region;
  readonly #postRing: Int32Array;
  readonly #replyRing: Int32Array;
  readonly #slotWords: Int32Array[] = [];
  readonly #slotRegs: BigUint64Array[] = [];
  readonly #slotWide: BigUint64Array[] = [];

  private constructor(region: Region) {
    const { buffer } = region.bytes;
    this.#region = region;
    this.address = region.address;
    this.words = new Int32Array(buffer, 0, HEADER_BYTES / 4);
    this.#postRing = new Int32Array(buffer, POST_RING_AT, RING_SIZE);
    this.#replyRing = new Int32Array(buffer, REPLY_RING_AT, RING_SIZE);
    this.counters = new BigUint64Array(buffer, COUNTERS_AT, COUNTERS);
  }

  static create(): Mailbox {
    return new Mailbox(mapRegion(LENGTH));
  }
  static open(address: number): Mailbox {
    return new Mailbox(regionAt(address, LENGTH));
  }

  /** The address of the ledger, told by the handlers' thread before the tracer begins. */
  get ledger(): number {
    return Number(new BigInt64Array(this.#region.bytes.buffer, WORD.ledger * 4, 1)[0]);
  }
  set ledger(address: number) {
    new BigInt64Array(this.#region.bytes.buffer, WORD.ledger * 4, 1)[0] = BigInt(address);
  }

  /** The header words of a slot. Views are made once: they are on the path of every hit. */
  slot(index: number): Int32Array {
    return (this.#slotWords[index] ??= new Int32Array(
      this.#region.bytes.buffer,
      this.#slotAt(index),
      SLOT_BYTES / 4,
    ));
  }
  regs(index: number): BigUint64Array {
    return (this.#slotRegs[index] ??= new BigUint64Array(
      this.#region.bytes.buffer,
      this.#slotAt(index) + SLOT_REGS,
      REG_WORDS,
    ));
  }
  /** All of a slot as 64-bit words. */
  wide(index: number): BigUint64Array {
    return (this.#slotWide[index] ??= new BigUint64Array(
      this.#region.bytes.buffer,
      this.#slotAt(index),
      SLOT_BYTES / 8,
    ));
  }
  fpRegs(index: number): Uint8Array {
    return new Uint8Array(this.#region.bytes.buffer, this.#slotAt(index) + SLOT_FPREGS, 512);
  }
  regsAddress(index: number): number {
    return this.address + this.#slotAt(index) + SLOT_REGS;
  }
  fpRegsAddress(index: number): number {
    return this.address + this.#slotAt(index) + SLOT_FPREGS;
  }
  /** Address of one header word of a slot, for futex(2). */
  fieldAddress(index: number, field: number): number {
    return this.address + this.#slotAt(index) + field * 4;
  }
  /** Address of one word of the header. */
  wordAddress(word: number): number {
    return this.address + word * 4;
  }
  #slotAt(index: number): number {
    return SLOTS_AT + index * SLOT_BYTES;
  }

  /** Tracer → handlers. */
  post(index: number): void {
    this.#push(this.#postRing, WORD.postTail, index);
  }
  /** The next slot, or -1. */
  takePost(): number {
    return this.#pop(this.#postRing, WORD.postHead);
  }
  /** Handlers → tracer. */
  reply(index: number, verdict: number): void {
    this.#push(this.#replyRing, WORD.replyTail, index | (verdict << INDEX_BITS));
  }
  /** The next reply, or -1: `replySlot` and `replyVerdict` say what is in it. */
  takeReply(): number {
    return this.#pop(this.#replyRing, WORD.replyHead);
  }
  /** Whether there is one. */
  get replied(): boolean {
    return this.#entry(this.#replyRing, this.words[WORD.replyHead]!) >= 0;
  }

  /*
   * An entry carries the round of the ring it was written in, so that whoever waits for it looks at it alone: a tail
   * to look at besides would be another cache line on its way between the CPUs at every hit.
   */
  #push(ring: Int32Array, tailWord: number, value: number): void {
    const tail = this.words[tailWord]!;
    this.words[tailWord] = (tail + 1) | 0;
    Atomics.store(ring, tail & (RING_SIZE - 1), value | (roundOf(tail) << VALUE_BITS));
  }
  #pop(ring: Int32Array, headWord: number): number {
    const head = this.words[headWord]!;
    const value = this.#entry(ring, head);
    if (value >= 0) this.words[headWord] = (head + 1) | 0;
    return value;
  }
  #entry(ring: Int32Array, head: number): number {
    const entry = Atomics.load(ring, head & (RING_SIZE - 1));
    return entry >>> VALUE_BITS === roundOf(head) ? entry & VALUE_MASK : -1;
  }
}

/** The round that a position of a ring is in, from 1 on, since rings begin with zeros; it repeats after 2^17 - 1. */
const roundOf = (position: number): number => ((position >>> RING_BITS) % LAST_ROUND) + 1;

export const replySlot = (reply: number): number => reply & (SLOTS - 1);
export const replyVerdict = (reply: number): number => reply >> INDEX_BITS;
