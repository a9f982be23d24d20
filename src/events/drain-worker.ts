/** Starting the thread that empties rings before there is one. Imports next to nothing, so that it can come first. */
import { MessageChannel, type MessagePort } from 'node:worker_threads';
import { preparedThread, startThread, type LoadingThread } from '../linux/loading-thread.js';

export interface DrainThread extends LoadingThread {
  readonly port: MessagePort;
}

/** Preparing it loads its code now, without effect on how long this process lives. */
export const { prepare: prepareDrain, take: takeDrain } = preparedThread(makeThread);

function makeThread(): DrainThread {
  const { port1: port, port2: theirs } = new MessageChannel();
  const url = new URL('./drain-thread.js', import.meta.url);
  const thread = startThread(url, 'uprobe-drain', { port: theirs }, [theirs]);
  port.unref();
  return { ...thread, port };
}
