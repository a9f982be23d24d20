/** Starting the thread that empties rings before there is one. Imports next to nothing, so that it can come first. */
import { MessageChannel, type MessagePort } from 'node:worker_threads';
import { startThread, type LoadingThread } from '../linux/loading-thread.js';

export interface DrainThread extends LoadingThread {
  readonly port: MessagePort;
}

let early: DrainThread | undefined;

/** Load its code now. Without effect on how long this process lives. */
export function prepareDrain(): void {
  early ??= makeThread();
}

export function takeDrain(): DrainThread {
  const thread = early ?? makeThread();
  early = undefined;
  return thread;
}

function makeThread(): DrainThread {
  const { port1: port, port2: theirs } = new MessageChannel();
  const url = new URL('./drain-thread.js', import.meta.url);
  const thread = startThread(url, 'uprobe-drain', { port: theirs }, [theirs]);
  port.unref();
  return { ...thread, port };
}
