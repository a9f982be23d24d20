/** A few lines at the bottom of a terminal, written anew in place. */
import { writeSync } from 'node:fs';

/** ECMA-48: CUU moves up, ED 0 erases from there to the end; DECAWM off keeps a long line from becoming two. */
const upAndErase = (lines: number): string => (lines > 0 ? `\x1b[${lines}A\r\x1b[J` : '\r\x1b[J');
const WRAP_OFF = '\x1b[?7l';
const WRAP_ON = '\x1b[?7h';

export interface TerminalSize {
  readonly rows: number;
  readonly columns: number;
}

export class LiveLines {
  readonly #fd: number;
  readonly #size: () => TerminalSize;
  #drawn = 0;

  constructor(fd: number, size: () => TerminalSize) {
    this.#fd = fd;
    this.#size = size;
  }

  /** How many lines fit: one row stays free for the cursor. */
  get height(): number {
    return Math.max(1, this.#size().rows - 1);
  }

  /** The lines must be escaped already; what does not fit is cut off. */
  draw(lines: readonly string[]): void {
    const { columns } = this.#size();
    const shown = lines.slice(0, this.height).map((line) => `${line.slice(0, columns)}\n`);
    this.#put(`${upAndErase(this.#drawn)}${WRAP_OFF}${shown.join('')}${WRAP_ON}`);
    this.#drawn = shown.length;
  }

  /** Take the lines away. */
  clear(): void {
    if (this.#drawn > 0) this.#put(upAndErase(this.#drawn));
    this.#drawn = 0;
  }

  /** A terminal that takes nothing now gets the next picture instead. */
  #put(text: string): void {
    try {
      writeSync(this.#fd, text);
    } catch {
      this.#drawn = 0;
    }
  }
}
