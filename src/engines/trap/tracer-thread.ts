/** The tracer's OS thread: a Worker whose event loop never turns; it lives in the tracer's own loop. */
import { availableParallelism } from 'node:os';
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { futexWake } from '../../linux/futex.js';
import { Mailbox, WORD } from './mailbox.js';
import { toPlain, type Answer, type Command, type TracerInit } from './protocol.js';
import { Tracer } from './tracer.js';

const port = parentPort;
if (port === null) throw new Error('tracer-thread.js is the worker of the trap engine, not a program');

const mailbox = Mailbox.open((workerData as TracerInit).mailbox);
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
