/** Where modules print: one writer on this thread, whoever prints and however, so that the order is kept. */
import { writeSync } from 'node:fs';
import { format } from 'node:util';
import { escapeText } from '../base/escape.js';
import { LineWriter } from '../outputs/line-writer.js';

export class ModuleOutput {
  #lines: LineWriter;
  readonly #onBroken: (error: NodeJS.ErrnoException) => void;

  constructor(fd: number, onBroken: (error: NodeJS.ErrnoException) => void) {
    this.#onBroken = onBroken;
    this.#lines = new LineWriter(fd, onBroken);
  }

  /** From here on to another descriptor. */
  switchTo(fd: number): void {
    this.#lines.flush();
    this.#lines = new LineWriter(fd, this.#onBroken);
  }

  readonly print = (...values: readonly unknown[]): void => {
    this.#lines.line(
      format(...values)
        .split(/([\n\t])/)
        .map(escapePart)
        .join(''),
    );
  };

  flush(): void {
    this.#lines.flush();
  }

  /** `console` and `process.stdout` of a Worker ask the main thread to write, which may have ended by then. Here they write. */
  takeConsole(): void {
    takeStream(process.stdout, (text) => this.#lines.text(text));
    takeStream(process.stderr, writeError);
  }
}

/** Every second part is a line end or a tab. */
const escapePart = (part: string, i: number): string => (i % 2 === 1 ? part : escapeText(part));

type Callback = (error?: Error | null) => void;

function takeStream(stream: NodeJS.WriteStream, take: (text: string) => void): void {
  stream.write = (
    chunk: string | Uint8Array,
    encoding?: BufferEncoding | Callback,
    done?: Callback,
  ): boolean => {
    take(typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString('utf8'));
    const callback = typeof encoding === 'function' ? encoding : done;
    if (callback !== undefined) queueMicrotask(() => callback());
    return true;
  };
}

function writeError(text: string): void {
  try {
    writeSync(2, text);
  } catch {
    // Nobody can be told any more.
  }
}
