/**
 * Threads of ours: most of the time until one does something it loads its code, and meanwhile whoever started it can do something else.
 * Imports nothing of ours, so that it can come before all else.
 */
import { Worker, type Transferable } from 'node:worker_threads';

/** How long loading may take at most before an exit of the process waits no more, ms. */
export const LOADING_MS = 5000;

export interface LoadingThread {
  readonly worker: Worker;
  /** One word: 1 when the thread has loaded its code, which it says itself. */
  readonly loaded: Int32Array;
}

/** `data` becomes its workerData, with `loaded` in it. Whether it keeps the process alive is up to the caller, who comes first. */
export function startThread(
  url: URL,
  name: string,
  data: object,
  transferList: readonly Transferable[] = [],
): LoadingThread {
  const loaded = new Int32Array(new SharedArrayBuffer(4));
  const worker = new Worker(url, {
    workerData: { ...data, loaded },
    transferList: [...transferList],
    execArgv: [],
    name,
  });
  worker.unref();
  // Node aborts when a process exits while one of its threads is loading a native addon
  const waitUntilLoaded = (): void => void Atomics.wait(loaded, 0, 0, LOADING_MS);
  process.on('exit', waitUntilLoaded);
  worker.on('exit', () => process.off('exit', waitUntilLoaded));
  return { worker, loaded };
}

/** One that may be started before it is needed: `prepare` makes it, `take` hands it out, or makes one when it is asked for. */
export function preparedThread<T>(make: () => T): { readonly prepare: () => void; readonly take: () => T } {
  let early: T | undefined;
  return {
    prepare: () => {
      early ??= make();
    },
    take: () => {
      const thread = early ?? make();
      early = undefined;
      return thread;
    },
  };
}
