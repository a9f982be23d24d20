/**
 * Starting the tracer's thread before there is anything for it to do: most of the time from starting a program to its
 * first hit is loading code, and two processors can do it at once. Imports next to nothing, so that it can come first.
 */
import type { Worker } from 'node:worker_threads';
import { preparedThread, startThread } from '../../linux/loading-thread.js';

export interface TracerInit {
  /** One word: the address of the mailbox, 0 until there is one. The thread waits for it. */
  readonly mailbox: BigInt64Array;
  /** One word: 1 when the thread has loaded its code. */
  readonly loaded: Int32Array;
}

export interface TracerThread {
  readonly worker: Worker;
  /** Let it begin. */
  start(mailboxAddress: number): void;
}

/** Preparing it loads its code now, without effect on how long this process lives. */
export const { prepare: prepareTracer, take: takeTracer } = preparedThread(makeThread);

function makeThread(): TracerThread {
  const mailbox = new BigInt64Array(new SharedArrayBuffer(8));
  const { worker } = startThread(new URL('./tracer-thread.js', import.meta.url), 'uprobe-tracer', {
    mailbox,
  });
  return {
    worker,
    start: (address) => {
      Atomics.store(mailbox, 0, BigInt(address));
      Atomics.notify(mailbox, 0);
    },
  };
}
