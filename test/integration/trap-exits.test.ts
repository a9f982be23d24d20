import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { compileFixture, privateCopy, repositoryRoot } from '../helpers/compile.js';

const program = privateCopy(compileFixture('loop'));
const leaver = join(repositoryRoot, 'build', 'test', 'helpers', 'leaver.js');

const status = (pid: number, field: string): string | undefined =>
  new RegExp(`^${field}:\\s*(\\S+)`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1];

/** The program's executable mapping is byte for byte the file's. */
function textIsTheFiles(pid: number): boolean {
  const file = readFileSync(program);
  const line = readFileSync(`/proc/${pid}/maps`, 'latin1')
    .split('\n')
    .find((l) => l.includes(' r-xp ') && l.endsWith(program));
  const [, start = '', end = '', offset = ''] = /^(\w+)-(\w+) r-xp (\w+)/.exec(line ?? '') ?? [];
  const from = parseInt(offset, 16);
  const memory = Buffer.alloc(Math.min(parseInt(end, 16) - parseInt(start, 16), file.length - from));
  const fd = openSync(`/proc/${pid}/mem`, 'r');
  readSync(fd, memory, 0, memory.length, parseInt(start, 16));
  closeSync(fd);
  return memory.equals(file.subarray(from, from + memory.length));
}

interface Way {
  readonly title: string;
  readonly way: string;
  readonly signal?: NodeJS.Signals;
  readonly ends: { code: number | null; signal: NodeJS.Signals | null };
}
const ways: readonly Way[] = [
  { title: 'calls process.exit', way: 'exit', ends: { code: 5, signal: null } },
  { title: 'throws', way: 'throw', ends: { code: 1, signal: null } },
  { title: 'gets SIGINT', way: 'hang', signal: 'SIGINT', ends: { code: null, signal: 'SIGINT' } },
  { title: 'gets SIGTERM', way: 'hang', signal: 'SIGTERM', ends: { code: null, signal: 'SIGTERM' } },
  { title: 'gets SIGHUP', way: 'hang', signal: 'SIGHUP', ends: { code: null, signal: 'SIGHUP' } },
];

for (const { title, way, signal, ends } of ways) {
  test(`a program that ${title} while it probes leaves the target running, its text as it was`, async () => {
    const target = spawn(program, ['hot'], { stdio: ['pipe', 'pipe', 'inherit'] });
    let output = '';
    target.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
    const gone = once(target, 'exit');
    try {
      for (let i = 0; i < 500 && !output.includes('ready'); i++) await new Promise((r) => setTimeout(r, 10));
      const maps = readFileSync(`/proc/${target.pid!}/maps`, 'utf8');
      const us = spawn(process.execPath, [leaver, program, String(target.pid), way], {
        stdio: ['ignore', 'pipe', 'ignore'],
      });
      const ended = once(us, 'exit');
      await once(us.stdout, 'data');
      if (signal !== undefined) us.kill(signal);
      const [code, by] = (await ended) as [number | null, NodeJS.Signals | null];
      assert.deepEqual({ code, signal: by }, ends);
      assert.equal(status(target.pid!, 'TracerPid'), '0');
      assert.ok(textIsTheFiles(target.pid!));
      assert.equal(readFileSync(`/proc/${target.pid!}/maps`, 'utf8'), maps);
      await new Promise((r) => setTimeout(r, 50));
      target.stdin.end();
      assert.deepEqual(await gone, [0, null]);
    } finally {
      target.kill('SIGKILL');
    }
  });
}
