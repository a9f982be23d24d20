/**
 * Keeping a guardian (guardian.ts): a process that mends the targets when we are killed. Until then a shell waits, which
 * takes a tenth of a Node's memory and start; it becomes the guardian when our end of its pipe closes without a word.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { writeSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { ignoreChildStops } from '../../linux/child-stops.js';
import { closeFd, pipe } from '../../linux/fds.js';
import type { Ledger } from './ledger.js';

const SHELL = '/bin/sh';
/** Neither the terminal's signals nor a polite end: it must outlive us. */
const SCRIPT = 'trap "" INT HUP QUIT TERM; read -r word && exit; exec "$0" "$@"';
/** What its pipe says when we end as we should. */
export const FAREWELL = 'done\n';
/** The descriptor on which it finds the ledger. */
export const LEDGER_FD = 3;
const MOST_STARTS = 20;

export class Guard {
  readonly #program = fileURLToPath(new URL('./guardian.js', import.meta.url));
  #pipe: number | undefined;
  #starts = 0;
  #hasShell = true;

  #dismissed = false;

  constructor(
    private readonly ledger: Ledger,
    private readonly ledgerFd: number,
  ) {}

  /** Without effect where it runs already. */
  start(): void {
    if (this.#starts === 0 && !this.#dismissed) this.#start();
  }

  #start(): void {
    this.#starts++;
    const [theirs, ours] = pipe();
    this.#pipe = ours;
    try {
      const child = this.#spawn(theirs);
      child.unref();
      ignoreChildStops();
      child.once('error', () => this.#ended(ours, this.#hasShell && !(this.#hasShell = false)));
      child.once('exit', () => this.#ended(ours, true));
    } finally {
      closeFd(theirs);
    }
  }

  #spawn(stdin: number): ChildProcess {
    const { NODE_OPTIONS: _options, NODE_V8_COVERAGE: _coverage, ...env } = process.env;
    const guardian = [process.execPath, this.#program];
    const [file, args] = this.#hasShell
      ? [SHELL, ['-c', SCRIPT, ...guardian]]
      : [process.execPath, [this.#program]];
    return spawn(file, args, {
      cwd: '/',
      detached: true,
      env,
      stdio: [stdin, 'ignore', 'ignore', this.ledgerFd],
    });
  }

  /** Somebody has killed it. */
  #ended(itsPipe: number, again: boolean): void {
    if (this.#pipe !== itsPipe) return;
    closeFd(itsPipe);
    this.#pipe = undefined;
    if (again && this.#starts < MOST_STARTS) this.#start();
  }

  /** We have let go of all targets. What the ledger still says is for the guardian to do. */
  dismiss(): void {
    const ourPipe = this.#pipe;
    this.#pipe = undefined;
    if (ourPipe !== undefined) {
      if (this.ledger.isEmpty) this.#sayFarewell(ourPipe);
      closeFd(ourPipe);
    }
    if (!this.#dismissed) closeFd(this.ledgerFd);
    this.#dismissed = true;
  }

  #sayFarewell(ourPipe: number): void {
    try {
      writeSync(ourPipe, FAREWELL);
    } catch {
      // it was killed, and nothing needs it any more
    }
  }
}
