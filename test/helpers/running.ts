/** Programs that run already when they are probed, and work when they are fed. */
import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';

export interface RunningProgram {
  readonly pid: number;
  /** Write so many bytes to its stdin, and wait until it has eaten them. */
  feed(rounds: number): Promise<void>;
  /** Its end: what it printed after `ready`, and its status as the shell says. */
  finish(): Promise<string>;
}

/** Start a program that says `ready` and then reads its stdin. Its parent is a shell: Node's own children are not for a tracer. */
export async function startProgram(program: string, argument: string): Promise<RunningProgram> {
  const script = 'exec 3<&0; "$0" "$1" <&3 & echo pid $!; wait $!; echo status $?';
  const shell: ChildProcess = spawn('sh', ['-c', script, program, argument], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  let output = '';
  shell.stdout!.on('data', (chunk: Buffer) => (output += chunk.toString()));
  await until(() => /pid \d+/.test(output) && output.includes('ready'));
  const pid = Number(/pid (\d+)/.exec(output)?.[1]);
  return {
    pid,
    feed: async (rounds) => {
      shell.stdin!.write('x'.repeat(rounds));
      await until(() => sleepsInRead(pid));
    },
    finish: async () => {
      const closed = once(shell, 'close');
      shell.stdin!.end();
      await closed;
      return output
        .replace(/pid \d+\n|ready\n/g, '')
        .replaceAll('\n', ' ')
        .trim();
    },
  };
}

export async function until(condition: () => boolean): Promise<void> {
  for (let i = 0; i < 1000 && !condition(); i++) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.ok(condition(), 'in time');
}

/** It has eaten everything: it sleeps, twice in a row, in its read. */
const sleepsInRead = (pid: number): boolean =>
  /^State:\tS/m.test(readFileSync(`/proc/${pid}/status`, 'latin1'));
