/** What the two threads that share a ring say to each other. */
import type { MessagePort } from 'node:worker_threads';
import type { Ring } from '../linux/bpf.js';
import type { PerfRing } from '../linux/perf-ring.js';

export interface DrainInit {
  readonly port: MessagePort;
  /** One word: 1 when the thread has loaded its code. */
  readonly loaded: Int32Array;
}

export type Order =
  | { readonly kind: 'add'; readonly id: number; readonly ring: Ring; readonly words: Int32Array }
  | {
      readonly kind: 'addAll';
      readonly id: number;
      readonly rings: readonly PerfRing[];
      readonly words: Int32Array;
    }
  | { readonly kind: 'remove'; readonly id: number };

/** Of one ring; of several, what each had, which is everything that was finished before a time. */
export type Chunk =
  { readonly id: number; readonly bytes: Uint8Array } | ({ readonly id: number } & SampleBatch);

export interface SampleBatch {
  readonly pieces: readonly Uint8Array[];
  /** CLOCK_MONOTONIC, ns: nothing earlier is still in the rings. */
  readonly upTo: number;
}

/** Words of a ring, or of several, that both threads have. */
export const WORD = {
  /** 1: one of them reads the ring. */
  lock: 0,
  /** Bytes on their way to whoever wants them. */
  underWay: 1,
} as const;
