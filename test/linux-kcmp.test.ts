/** Which processes share a memory: kcmp(2). */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, readdirSync } from 'node:fs';
import { test } from 'node:test';
import { sharersOf } from '#uprobe/engines/trap/sharers.js';
import { shareMemory } from '#uprobe/linux/kcmp.js';
import { until } from './helpers/running.js';

void test('a process shares its memory with itself and its threads only', () => {
  for (const tid of readdirSync('/proc/self/task').map(Number)) assert.ok(shareMemory(process.pid, tid));
  assert.ok(!shareMemory(process.pid, process.ppid));
  assert.deepEqual(sharersOf(process.pid, process.pid), []);
});

void test('a process that has ended shares memory with nobody, though others have none either', async () => {
  const script = '$| = 1; for (1, 2) { my $pid = fork; exit unless $pid; print "$pid\\n" } sleep 60';
  const parent = spawn('perl', ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] }); // waits for none of them
  try {
    let said = '';
    parent.stdout.setEncoding('utf8').on('data', (text: string) => (said += text));
    await until('both are there', () => said.split('\n').length === 3);
    const [one = 0, two = 0] = said.split('\n').map(Number);
    const isZombie = (pid: number): boolean =>
      /^State:\tZ/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
    await until('both have ended', () => isZombie(one) && isZombie(two));
    assert.ok(!shareMemory(one, two));
    assert.deepEqual(sharersOf(one, one), []);
  } finally {
    parent.kill('SIGKILL');
    await once(parent, 'exit');
  }
});
