/** Ending the tracer without the event loop of whoever started it: at the exit of the process, or from another thread of it. */
import { Bell } from '../../linux/doorbell.js';
import { futexWait } from '../../linux/futex.js';
import { Mailbox, REASON, WORD } from './mailbox.js';

const CLOSE_TIMEOUT = 5000;

/** Returns when every target has been let go, or after five seconds. */
export function closeTracer(mailbox: Mailbox, ring: (reason: number) => void): void {
  const { words } = mailbox;
  Atomics.store(words, WORD.closeRequested, 1);
  const limit = performance.now() + CLOSE_TIMEOUT;
  while (Atomics.load(words, WORD.closed) === 0 && performance.now() < limit) {
    ring(REASON.command);
    futexWait(mailbox.wordAddress(WORD.closed), 0, 50);
  }
}

/** The same for an engine of another thread, by the address of its mailbox. */
export function closeTracerAt(address: number): void {
  const mailbox = Mailbox.open(address);
  const bell = new Bell(address, mailbox.words);
  closeTracer(mailbox, (reason) => bell.ring(reason));
}
