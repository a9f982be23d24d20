/** Where our lines go, as with strace: to stderr beside a command, else to stdout; with -o FILE there. */
import { constants, fstatSync, openSync, writeSync } from 'node:fs';
import { isatty } from 'node:tty';
import { escapeText } from '../base/escape.js';
import { messageOf } from '../base/errors.js';
import { UsageError } from './usage-error.js';

/** A terminal that says less does not know its size. */
const LEAST_COLUMNS = 20;

/** The descriptor. The file is made here: call it when everything else has been found right. */
export function openOutput(file: string | undefined, beside: 'command' | 'nothing'): number {
  if (file === undefined) return beside === 'command' ? 2 : 1;
  try {
    return openSync(file, 'w');
  } catch (e) {
    throw new UsageError(`-o ${file}: ${messageOf(e)}`);
  }
}

/**
 * The same pipe or terminal, opened once more: not to wait for its reader is then a matter of ours alone (O_NONBLOCK belongs to the
 * open file description, which others share; open(2)). A file never makes anybody wait, and has a position that is shared.
 */
export function withoutWaiting(fd: number): number {
  try {
    if (!fstatSync(fd).isFIFO() && !isatty(fd)) return fd;
    return openSync(`/proc/self/fd/${fd}`, constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
  } catch {
    return fd; // another user's terminal: then we wait
  }
}

/** How wide the terminal is that shows messages. */
export function terminalColumns(): number {
  // Not without need: Node makes pipes non-blocking, and whoever shares them.
  const columns = isatty(2) ? process.stderr.columns : 0;
  return columns >= LEAST_COLUMNS ? columns : 80;
}

/** A word to the user beside the lines. */
export function note(text: string): void {
  try {
    writeSync(2, `uprobe: ${escapeText(text)}\n`);
  } catch {
    // stderr is closed: there is nobody to tell.
  }
}
