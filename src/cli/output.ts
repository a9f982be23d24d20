/** Where our lines go, as with strace: to stderr beside a command, else to stdout; with -o FILE there. */
import { openSync, writeSync } from 'node:fs';
import { escapeText } from '../base/escape.js';
import { messageOf } from '../base/errors.js';
import { UsageError } from './usage-error.js';

/** The descriptor. The file is made here: call it when everything else has been found right. */
export function openOutput(file: string | undefined, beside: 'command' | 'nothing'): number {
  if (file === undefined) return beside === 'command' ? 2 : 1;
  try {
    return openSync(file, 'w');
  } catch (e) {
    throw new UsageError(`-o ${file}: ${messageOf(e)}`);
  }
}

/** A word to the user beside the lines. */
export function note(text: string): void {
  try {
    writeSync(2, `uprobe: ${escapeText(text)}\n`);
  } catch {
    // stderr is closed: there is nobody to tell.
  }
}
