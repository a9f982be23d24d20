/** Rounds in which a program that probes comes to its end, and its target must not: what is wrong afterwards, if anything. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { repositoryRoot } from './compile.js';

const HAMMERER = join(repositoryRoot, 'build', 'test', 'helpers', 'hammerer.js');
/** How long mending may take, ms. Mostly it is a third of a second. */
const MENDED_MS = 15_000;

export interface Round {
  /** What the probing program does (hammerer.ts). */
  readonly way: 'handlers' | 'counts' | 'both' | 'churn' | 'heap';
  /** How it ends. `guardian`: its guardian is killed first; `all`: both at once. */
  readonly end: NodeJS.Signals | 'guardian' | 'all' | 'heap';
  /** Arguments of the target. */
  readonly target?: readonly string[];
  /** How long to let it probe, ms. */
  readonly after: number;
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const field = (pid: number, name: string): string =>
  new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1] ?? '';

/** The executable mappings of files that differ from their files. */
export function changedTexts(pid: number): string[] {
  const memory = openSync(`/proc/${pid}/mem`, 'r');
  try {
    return readFileSync(`/proc/${pid}/maps`, 'latin1')
      .split('\n')
      .flatMap((line) => {
        const [, from = '', to = '', offset = '', path = ''] =
          /^(\w+)-(\w+) r-xp (\w+) \S+ \d+ +(\/.*)$/.exec(line) ?? [];
        if (path === '') return [];
        const start = parseInt(from, 16);
        const at = parseInt(offset, 16);
        const file = readFileSync(path).subarray(at, at + parseInt(to, 16) - start);
        const now = Buffer.alloc(file.length);
        readSync(memory, now, 0, now.length, start);
        return now.equals(file) ? [] : [path];
      });
  } finally {
    closeSync(memory);
  }
}

/** The children of a process's main thread. */
const childrenOf = (pid: number): number[] =>
  readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').trim().split(' ').filter(Boolean).map(Number);

class Target {
  readonly #child: ChildProcess;
  #output = '';
  constructor(program: string, args: readonly string[]) {
    this.#child = spawn(program, [...args], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#child.stdout!.on('data', (chunk: Buffer) => (this.#output += chunk.toString()));
    this.#child.stdin!.on('error', () => undefined);
  }
  get pid(): number {
    return this.#child.pid!;
  }
  async ready(): Promise<void> {
    while (!this.#output.includes('ready')) await pause(5);
  }
  /** How many rounds it has made, and how many of them were wrong. */
  async progress(): Promise<readonly number[]> {
    this.#output = '';
    this.#child.stdin!.write('x');
    for (let i = 0; i < 2000 && !this.#output.includes('\n'); i++) await pause(5);
    return this.#output.trim().split(' ').map(Number);
  }
  async end(): Promise<string> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      const gone = once(this.#child, 'exit');
      this.#child.stdin!.end();
      const late = setTimeout(() => this.#child.kill('SIGKILL'), 10_000);
      await gone;
      clearTimeout(late);
    }
    return `${this.#child.exitCode} ${this.#child.signalCode}`;
  }
}

/** One round. Empty when all is as it shall be. */
export async function outlive(program: string, round: Round): Promise<string[]> {
  const target = new Target(program, round.target ?? []);
  try {
    await target.ready();
    const caught = field(target.pid, 'SigCgt');
    const heap = round.way === 'heap' ? ['--max-old-space-size=60'] : [];
    const us = spawn(
      '/bin/sh',
      [
        '-c',
        'ulimit -c 0; exec "$0" "$@"',
        process.execPath,
        ...heap,
        HAMMERER,
        program,
        `${target.pid}`,
        round.way,
      ],
      { stdio: ['ignore', 'pipe', 'ignore'] },
    );
    const ended = once(us, 'exit');
    await Promise.race([once(us.stdout, 'data'), ended]);
    await pause(round.after);
    await finish(us, round.end);
    await ended;
    const wrong = await whatIsWrong(target, caught, round.end === 'all');
    const status = await target.end();
    return status === '0 null' ? wrong : [...wrong, `the target ended with ${status}`];
  } finally {
    await target.end();
  }
}

async function finish(us: ChildProcess, end: Round['end']): Promise<void> {
  const [guardian] = us.exitCode === null ? childrenOf(us.pid!) : [];
  if (guardian !== undefined && (end === 'guardian' || end === 'all')) process.kill(guardian, 'SIGKILL');
  if (end === 'guardian') while (childrenOf(us.pid!).every((pid) => pid === guardian)) await pause(5);
  if (end !== 'heap') us.kill(end === 'guardian' || end === 'all' ? 'SIGKILL' : end);
}

async function whatIsWrong(target: Target, caught: string, unguarded: boolean): Promise<string[]> {
  let wrong: string[] = [];
  const limit = performance.now() + (unguarded ? 500 : MENDED_MS);
  do {
    await pause(10);
    try {
      wrong = [
        ...changedTexts(target.pid).map((path) => `the text of ${path} is changed`),
        ...(field(target.pid, 'TracerPid') === '0' ? [] : ['it is still traced']),
        ...(field(target.pid, 'SigCgt') === caught ? [] : ['its handlers are others']),
      ];
    } catch {
      return ['the target is gone'];
    }
  } while (wrong.length > 0 && performance.now() < limit);
  if (unguarded) wrong = [];
  const [before = NaN] = await target.progress();
  await pause(30);
  const [now = NaN, wrongs = NaN] = await target.progress();
  if (!(now > before)) wrong.push(`it stands still at ${now}`);
  if (wrongs !== 0) wrong.push(`it computed ${wrongs} wrong results`);
  return wrong;
}
