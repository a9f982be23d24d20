/** What the two threads that share a ring say to each other. */
import type { MessagePort } from 'node:worker_threads';
import type { Ring } from '../linux/bpf.js';

export interface DrainInit {
  readonly port: MessagePort;
  /** One word: 1 when the thread has loaded its code. */
  readonly loaded: Int32Array;
}

export type Order =
  | { readonly kind: 'add'; readonly id: number; readonly ring: Ring; readonly words: Int32Array }
  | { readonly kind: 'remove'; readonly id: number };

export interface Chunk {
  readonly id: number;
  readonly bytes: Uint8Array;
}

/** Words of a ring that both threads have. */
export const WORD = {
  /** 1: one of them reads the ring. */
  lock: 0,
  /** Bytes on their way to whoever wants them. */
  underWay: 1,
} as const;
