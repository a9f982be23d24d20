/**
 * The kernel's ring buffers for events (kernel/bpf/ringbuf.c), read where they are mapped: the consumer's position is ours to write,
 * the producers' is theirs, and the data is mapped twice in a row, so that no record is ever in two pieces.
 */
import { ringData, type Ring } from './bpf.js';
import { viewRegion } from './memory.js';

/** Headers of records (include/uapi/linux/bpf.h): BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT. */
const BUSY = 0x8000_0000;
const DISCARD = 0x4000_0000;
const HEADER_BYTES = 8;

export class RingReader {
  readonly #consumer: BigInt64Array;
  readonly #producer: BigInt64Array;
  readonly #headers: Int32Array;
  readonly #data: Uint8Array;
  readonly #mask: number;

  constructor(ring: Ring) {
    this.#consumer = new BigInt64Array(viewRegion(ring.consumer, 8));
    this.#producer = new BigInt64Array(viewRegion(ring.producer, 8));
    const data = viewRegion(ringData(ring), 2 * ring.bytes);
    this.#headers = new Int32Array(data);
    this.#data = new Uint8Array(data);
    this.#mask = ring.bytes - 1;
  }

  /** A copy of the records that are finished, at most about so many bytes of them, in the order in which they were begun. They are out of the ring. */
  take(most: number): Uint8Array | undefined {
    const headers = this.#headers;
    const from = Number(Atomics.load(this.#consumer, 0));
    const waiting = Number(Atomics.load(this.#producer, 0)) - from;
    const start = from & this.#mask;
    const end = Math.min(waiting, most);
    let span = 0;
    while (span < end) {
      const header = Atomics.load(headers, (start + span) >> 2) >>> 0;
      if (header >= BUSY) break;
      span += HEADER_BYTES + (((header % DISCARD) + 7) & ~7);
    }
    if (span === 0) return undefined;
    const copy = this.#data.slice(start, start + span);
    Atomics.store(this.#consumer, 0, BigInt(from + span));
    return copy;
  }
}
