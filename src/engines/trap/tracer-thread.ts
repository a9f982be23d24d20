/** The tracer's OS thread: a Worker whose event loop never turns; it lives in the tracer's own loop. */
import { availableParallelism } from 'node:os';
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { futexWake } from '../../linux/futex.js';
import { Mailbox, WORD } from './mailbox.js';
import { toPlain, type Answer, type Command } from './protocol.js';
import { Tracer } from './tracer.js';
import type { TracerInit } from './tracer-worker.js';

const port = parentPort;
if (port === null) throw new Error('tracer-thread.js is the worker of the trap engine, not a program');

const { mailbox: address, loaded } = workerData as TracerInit;
Atomics.store(loaded, 0, 1);
Atomics.notify(loaded, 0);
Atomics.wait(address, 0, 0n);
const mailbox = Mailbox.open(Number(address[0]));
const answer = (message: Answer): void => port.postMessage(message);
const nextCommand = (): Command | undefined => receiveMessageOnPort(port)?.message as Command | undefined;

try {
  new Tracer(mailbox, answer, nextCommand, availableParallelism()).run();
} catch (e) {
  answer({ kind: 'crashed', error: toPlain(e) });
} finally {
  Atomics.store(mailbox.words, WORD.closed, 1);
  futexWake(mailbox.wordAddress(WORD.closed));
  port.close();
}
