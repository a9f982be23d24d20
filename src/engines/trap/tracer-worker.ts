/**
 * Starting the tracer's thread before there is anything for it to do: most of the time from starting a program to its
 * first hit is loading code, and two processors can do it at once. Imports nothing, so that it can come first.
 */
import { Worker } from 'node:worker_threads';

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

/** How long loading may take at most before an exit of the process waits no more, ms. */
const LOADING_MS = 5000;

let early: TracerThread | undefined;

/** Load the tracer's code now. Without effect on how long this process lives. */
export function prepareTracer(): void {
  early ??= makeThread();
}

export function takeTracer(): TracerThread {
  const thread = early ?? makeThread();
  early = undefined;
  return thread;
}

function makeThread(): TracerThread {
  const mailbox = new BigInt64Array(new SharedArrayBuffer(8));
  const loaded = new Int32Array(new SharedArrayBuffer(4));
  const workerData: TracerInit = { mailbox, loaded };
  const worker = new Worker(new URL('./tracer-thread.js', import.meta.url), {
    workerData,
    execArgv: [],
    name: 'uprobe-tracer',
  });
  worker.unref();
  // Node aborts when a process exits while one of its threads is loading a native addon
  const waitUntilLoaded = (): void => void Atomics.wait(loaded, 0, 0, LOADING_MS);
  process.on('exit', waitUntilLoaded);
  worker.on('exit', () => process.off('exit', waitUntilLoaded));
  return {
    worker,
    start: (address) => {
      Atomics.store(mailbox, 0, BigInt(address));
      Atomics.notify(mailbox, 0);
    },
  };
}
