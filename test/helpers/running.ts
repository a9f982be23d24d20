/** Programs that run already when they are probed: children of a shell, for Node's own children are not for a tracer. */
import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';

export interface RunningProgram {
  readonly pid: number;
  /** What it said until it was ready. */
  readonly greeting: string;
  /** Bytes of input, and wait until it (or who reads it instead) sleeps for more. */
  feed(rounds: number, reader?: number): Promise<void>;
  /** Its end: what it printed after `ready`, and its status as the shell says. */
  finish(): Promise<string>;
}

/** Start a program that says `ready` and then reads its input. `wrapper`: a command that executes it. */
export async function startProgram(
  program: string,
  args: readonly string[] = [],
  wrapper: readonly string[] = [],
): Promise<RunningProgram> {
  const script = 'exec 3<&0; "$@" <&3 & echo pid $!; wait $!; echo status $?';
  const shell: ChildProcess = spawn('sh', ['-c', script, 'sh', ...wrapper, program, ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const closed = once(shell, 'close');
  let output = '';
  shell.stdout!.on('data', (chunk: Buffer) => (output += chunk.toString()));
  await until('it is ready', () => /pid \d+/.test(output) && output.includes('ready'));
  const pid = Number(/pid (\d+)/.exec(output)?.[1]);
  return {
    pid,
    greeting: output,
    feed: async (rounds, reader = pid) => {
      shell.stdin!.write('x'.repeat(rounds));
      await until('it has eaten everything', () => sleepsInRead(reader));
    },
    finish: async () => {
      shell.stdin!.end();
      await closed;
      return output
        .replace(/pid \d+\n|(?:unable )?ready\n/g, '')
        .replaceAll('\n', ' ')
        .trim();
    },
  };
}

export async function until(what: string, condition: () => boolean): Promise<void> {
  let isSo = condition(); // which may be over the next time it is looked at
  for (let i = 0; i < 1000 && !isSo; i++, isSo = condition())
    await new Promise((resolve) => setTimeout(resolve, 10));
  assert.ok(isSo, `${what}, in time`);
}

/** One of its threads, at least: the first one may have ended. */
const sleepsInRead = (pid: number): boolean =>
  readdirSync(`/proc/${pid}/task`).some((tid) =>
    /^State:\tS/m.test(readFileSync(`/proc/${pid}/task/${tid}/status`, 'latin1')),
  );

export const tracerOf = (pid: number): string | undefined =>
  /^TracerPid:\t(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1];
