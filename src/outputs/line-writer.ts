/**
 * Lines to a file descriptor: in order, nothing lost, written in large pieces. Synchronous, because lines come from
 * handlers for which a thread of some program waits, and because process.stdout would set O_NONBLOCK on a
 * descriptor that the traced command shares with us. Where nobody waits, and more may come than the reader takes, a bound says
 * how much is kept for it; lines beyond that are dropped and counted.
 */
import { writeSync } from 'node:fs';

/** Characters gathered before they are written without waiting for the turn to end. */
const ENOUGH = 64 * 1024;
/** What may wait for a slow reader of a non-blocking descriptor before we stop and wait for it. */
const MOST_WAITING = 8 * 1024 * 1024;
/** How long a reader of a non-blocking descriptor may take nothing at all before the output counts as broken. */
const PATIENCE_MS = 10_000;
const RETRY_MS = 2;

const sleeper = new Int32Array(new SharedArrayBuffer(4));

export class LineWriter {
  readonly #fd: number;
  readonly #onBroken: (error: NodeJS.ErrnoException) => void;
  #gathered = '';
  /** Encoded, and refused so far by a descriptor that would block. */
  #waiting: Uint8Array | undefined;
  #scheduled = false;
  #broken = false;
  readonly #bound: number;
  #dropped = 0;

  /**
   * @param onBroken called once, when the descriptor takes no more: EPIPE, ENOSPC, EIO …
   * @param bound bytes kept for a descriptor that would block; none: it is waited for
   */
  constructor(fd: number, onBroken: (error: NodeJS.ErrnoException) => void, bound = Infinity) {
    this.#fd = fd;
    this.#onBroken = onBroken;
    this.#bound = bound;
  }

  /** Lines that the reader was too slow for. */
  get dropped(): number {
    return this.#dropped;
  }

  /** False: it was dropped. */
  line(text: string): boolean {
    if ((this.#waiting?.length ?? 0) > this.#bound) {
      this.#dropped++;
      return false;
    }
    this.text(`${text}\n`);
    return true;
  }

  /** Some of a line, or several. */
  text(text: string): void {
    if (this.#broken) return;
    this.#gathered += text;
    if (this.#gathered.length > ENOUGH) this.#write(false);
    else if (!this.#scheduled) this.#schedule(setImmediate);
  }

  /** Write everything now, waiting for a slow reader. */
  flush(): void {
    if (!this.#broken) this.#write(true);
  }

  #schedule(when: (then: () => void) => unknown): void {
    this.#scheduled = true;
    when(() => {
      this.#scheduled = false;
      if (!this.#broken) this.#write(false);
    });
  }

  #write(wait: boolean): void {
    let bytes = joined(this.#waiting, Buffer.from(this.#gathered, 'utf8'));
    this.#gathered = '';
    this.#waiting = undefined;
    try {
      bytes = this.#push(bytes, wait || (bytes.length > MOST_WAITING && this.#bound === Infinity));
    } catch (e) {
      this.#broken = true;
      this.#onBroken(e as NodeJS.ErrnoException);
      return;
    }
    if (bytes.length === 0) return;
    this.#waiting = bytes;
    if (!this.#scheduled) this.#schedule((then) => setTimeout(then, RETRY_MS));
  }

  /** What is left after as much was written as the descriptor takes; nothing, when we wait for it. */
  #push(bytes: Uint8Array, wait: boolean): Uint8Array {
    let left = bytes;
    let waited = 0;
    while (left.length > 0) {
      const written = writeSome(this.#fd, left);
      if (written > 0) {
        left = left.subarray(written);
        waited = 0;
      } else if (!wait) {
        return left;
      } else if (waited >= PATIENCE_MS) {
        throw Object.assign(new Error(`nobody reads: ${left.length} bytes were not written`), {
          code: 'ETIMEDOUT',
        });
      } else {
        Atomics.wait(sleeper, 0, 0, RETRY_MS);
        waited += RETRY_MS;
      }
    }
    return left;
  }
}

/** How many bytes were written; 0 where the descriptor would block. */
function writeSome(fd: number, bytes: Uint8Array): number {
  try {
    return writeSync(fd, bytes);
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code === 'EAGAIN') return 0;
    throw e;
  }
}

function joined(first: Uint8Array | undefined, second: Uint8Array): Uint8Array {
  return first === undefined ? second : Buffer.concat([first, second]);
}
