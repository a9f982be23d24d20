/** A program started under the tracer: stopped before its first instruction, so that nothing of it runs unprobed. */
import { accessSync, closeSync, constants, openSync, statSync } from 'node:fs';
import { Socket } from 'node:net';
import { constants as osConstants } from 'node:os';
import { resolve as resolvePath } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { FileError, SpecError, UprobeError } from '../base/errors.js';
import { closeFd, pipe } from '../linux/fds.js';
import { findProgram } from '../process/linker.js';
import type { ExitStatus, SpawnRequest, Spawned } from '../process/spawn.js';
import type { SpawnTargetOptions, TargetStdio } from './types.js';

export type SpawnFunction = (request: SpawnRequest) => Promise<Spawned>;

const SIGKILL = 9;

/** A process made by `spawnTarget`. */
export class Target implements AsyncDisposable {
  readonly pid: number;
  /** Null where stdio is not `'pipe'`. */
  readonly stdin: Writable | null;
  readonly stdout: Readable | null;
  readonly stderr: Readable | null;
  /** How it ended. Never rejects. */
  readonly exited: Promise<ExitStatus>;
  readonly #spawned: Spawned;
  #hasExited = false;

  /** @internal */
  constructor(spawned: Spawned, streams: Streams) {
    this.#spawned = spawned;
    this.pid = spawned.pid;
    this.stdin = streams.stdin;
    this.stdout = streams.stdout;
    this.stderr = streams.stderr;
    this.exited = spawned.exited.then((status) => {
      this.#hasExited = true;
      return status;
    });
  }

  /** Let it run its first instruction. Again: nothing. */
  resume(): Promise<void> {
    return this.#spawned.resume();
  }

  /** Send a signal (default `SIGTERM`). Nothing when it has ended. */
  kill(signal: NodeJS.Signals | number = 'SIGTERM'): void {
    const number = signalNumber(signal);
    if (!this.#hasExited) this.#spawned.kill(number);
  }

  /** End it (SIGKILL) unless it has ended, and close its streams. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#hasExited) this.#spawned.kill(SIGKILL);
    await this.exited;
    for (const stream of [this.stdin, this.stdout, this.stderr]) stream?.destroy();
  }
}

function signalNumber(signal: NodeJS.Signals | number): number {
  const number = typeof signal === 'number' ? signal : osConstants.signals[signal];
  if (!Number.isInteger(number) || number < 0 || number > 64)
    throw new SpecError(
      'bad-signal',
      `kill: ${JSON.stringify(signal)} is not a signal: give a name like 'SIGTERM'`,
    );
  return number;
}

/** Start `command` as execvp(3) finds it. Everything that can be wrong is an error before a process is made. */
export async function startTarget(
  spawn: SpawnFunction,
  command: string,
  args: readonly string[],
  options: SpawnTargetOptions,
): Promise<Target> {
  options.signal?.throwIfAborted();
  const cwd = options.cwd === undefined ? undefined : resolvePath(requireText(options.cwd, 'cwd'));
  if (cwd !== undefined) requireDirectory(cwd);
  const env = options.env ?? process.env;
  const request = {
    file: programFile(requireText(command, 'the command'), env['PATH'], cwd ?? process.cwd()),
    argv: [options.argv0 ?? command, ...args].map((arg, i) => requireText(arg, `argument ${i}`, true)),
    env: environmentList(env),
    cwd,
  };
  const stdio = new Stdio(options.stdio ?? 'pipe');
  try {
    const target = new Target(await spawn({ ...request, fds: stdio.childFds }), stdio.streams());
    followSignal(target, options.signal);
    return target;
  } catch (e) {
    stdio.closeOurs();
    throw e;
  } finally {
    stdio.closeTheirs();
  }
}

function followSignal(target: Target, signal: AbortSignal | undefined): void {
  if (signal === undefined) return;
  const abort = (): void => target.kill('SIGKILL');
  signal.addEventListener('abort', abort, { once: true });
  void target.exited.then(() => signal.removeEventListener('abort', abort));
  if (signal.aborted) abort();
}

// What is run

function programFile(command: string, path: string | undefined, cwd: string): string {
  const found = findProgram(command, path, cwd);
  if (found !== undefined && statSync(found).isFile()) return found;
  if (!command.includes('/'))
    throw spawnError(
      'ENOENT',
      command,
      'there is no such program in $PATH. Give its path, or set PATH in env',
    );
  const file = resolvePath(cwd, command);
  const stat = statSync(file, { throwIfNoEntry: false });
  if (stat === undefined) throw spawnError('ENOENT', command, `${file} does not exist`);
  if (stat.isDirectory()) throw spawnError('EACCES', command, `${file} is a directory`);
  throw spawnError(
    'EACCES',
    command,
    `${file} may not be executed by this user: chmod +x it, or give another program`,
  );
}

const spawnError = (code: string, command: string, why: string): FileError =>
  new FileError(code, `spawn ${command}: ${code}: ${why}`);

function requireDirectory(cwd: string): void {
  try {
    if (!statSync(cwd).isDirectory())
      throw new FileError('ENOTDIR', `spawn: ENOTDIR: cwd ${cwd} is not a directory`);
    accessSync(cwd, constants.X_OK);
  } catch (e) {
    if (e instanceof UprobeError) throw e;
    const code = (e as NodeJS.ErrnoException).code ?? 'ENOENT';
    throw new FileError(code, `spawn: ${code}: cwd ${cwd} cannot be entered`, { cause: e });
  }
}

function requireText(value: unknown, what: string, mayBeEmpty = false): string {
  if (typeof value !== 'string' || value.includes('\0') || (value === '' && !mayBeEmpty))
    throw new SpecError('bad-argument', `spawnTarget: ${what} must be a string without NUL characters`);
  return value;
}

function environmentList(env: Readonly<Record<string, string | undefined>>): string[] {
  const list: string[] = [];
  for (const [key, value] of Object.entries(env)) {
    if (value === undefined) continue;
    if (key === '' || key.includes('='))
      throw new SpecError(
        'bad-argument',
        `spawnTarget: ${JSON.stringify(key)} is no environment variable's name`,
      );
    list.push(`${requireText(key, 'an env name')}=${requireText(value, `env.${key}`, true)}`);
  }
  return list;
}

// Its streams

interface Streams {
  readonly stdin: Writable | null;
  readonly stdout: Readable | null;
  readonly stderr: Readable | null;
}

class Stdio {
  readonly childFds: readonly [number, number, number];
  /** Our ends of pipes; undefined where there is none. */
  readonly #ours: (number | undefined)[] = [];
  /** Descriptors made only to be handed over. */
  readonly #theirs: number[] = [];

  constructor(stdio: NonNullable<SpawnTargetOptions['stdio']>) {
    const [stdin, stdout, stderr] = typeof stdio === 'object' ? stdio : [stdio, stdio, stdio];
    try {
      this.childFds = [this.#connect(stdin, 0), this.#connect(stdout, 1), this.#connect(stderr, 2)];
    } catch (e) {
      this.closeOurs();
      this.closeTheirs();
      throw e;
    }
  }

  #connect(how: TargetStdio, fd: 0 | 1 | 2): number {
    if (how === 'inherit') return fd;
    if (how === 'pipe') {
      const [readEnd, writeEnd] = pipe();
      this.#ours[fd] = fd === 0 ? writeEnd : readEnd;
      return this.#handOver(fd === 0 ? readEnd : writeEnd);
    }
    if (how === 'ignore') return this.#handOver(openSync('/dev/null', fd === 0 ? 'r' : 'w'));
    if (typeof how === 'number' && Number.isInteger(how) && how >= 0) return how;
    throw new SpecError(
      'bad-stdio',
      `spawnTarget: stdio must be 'inherit', 'pipe', 'ignore' or a descriptor, not ${JSON.stringify(how)}`,
    );
  }

  #handOver(fd: number): number {
    this.#theirs.push(fd);
    return fd;
  }

  /** From here on the streams own our ends. */
  streams(): Streams {
    const [stdin, stdout, stderr] = [0, 1, 2].map((i) => this.#ours[i]);
    this.#ours.length = 0;
    return { stdin: writer(stdin), stdout: reader(stdout), stderr: reader(stderr) };
  }

  closeOurs(): void {
    for (const fd of this.#ours) if (fd !== undefined) closeFd(fd);
  }

  closeTheirs(): void {
    for (const fd of this.#theirs) closeSync(fd);
  }
}

const reader = (fd: number | undefined): Readable | null =>
  fd === undefined ? null : new Socket({ fd, readable: true, writable: false });

/** A target that ends without reading all its input is no error of ours: EPIPE only says so. */
function writer(fd: number | undefined): Writable | null {
  if (fd === undefined) return null;
  return new Socket({ fd, readable: false, writable: true }).on('error', (e: NodeJS.ErrnoException) => {
    if (e.code !== 'EPIPE' && e.code !== 'ECONNRESET') process.emitWarning(e);
  });
}
