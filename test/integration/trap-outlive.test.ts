import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { test } from 'node:test';
import { compileFixture, privateCopy, repositoryRoot } from '../helpers/compile.js';
import { until } from '../helpers/running.js';
import { outlive, type Round } from '../helpers/outlive.js';

const program = privateCopy(compileFixture('hammer'));

const ways = ['handlers', 'counts', 'both', 'churn'] as const;
const rounds: readonly (readonly [title: string, Omit<Round, 'after'>])[] = [
  ...ways.map((way) => [`is killed (${way})`, { way, end: 'SIGKILL' }] as const),
  ['is killed while signals come', { way: 'handlers', end: 'SIGKILL', target: ['signals'] }],
  ['aborts', { way: 'handlers', end: 'SIGABRT' }],
  ['crashes', { way: 'both', end: 'SIGSEGV' }],
  ['has no memory left', { way: 'heap', end: 'heap' }],
  ['gets Ctrl-C', { way: 'churn', end: 'SIGINT' }],
  ['is asked to end', { way: 'both', end: 'SIGTERM' }],
  ['is killed after its guardian was', { way: 'handlers', end: 'guardian' }],
];
for (const [title, round] of rounds) {
  test(`a prober that ${title} leaves four busy threads running right, and their text as it was`, async () => {
    for (let i = 0; i < 2; i++)
      assert.deepEqual(await outlive(program, { ...round, after: Math.random() * 100 }), []);
  });
}

test('where the guardian is killed together with the prober the target goes on, and is right', async () => {
  for (const way of ways)
    assert.deepEqual(await outlive(program, { way, end: 'all', after: Math.random() * 100 }), []);
});

test('instructions that have no slot go on in their own place when the prober is killed', async () => {
  const crowd = privateCopy(compileFixture('crowd'));
  const prober = join(repositoryRoot, 'build', 'test', 'helpers', 'in-place-prober.js');
  for (let i = 0; i < 3; i++) {
    // every hit lets all other threads stand still: this takes minutes while we probe, and no time at all afterwards
    const child = spawn(process.execPath, [prober, crowd, '4', '50000'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let said = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => (said += text));
    const closed = once(child.stdout, 'close');
    await until('it probes', () => said.includes('armed\n'));
    await new Promise((resolve) => setTimeout(resolve, 50 + Math.random() * 100));
    child.kill('SIGKILL');
    await closed;
    assert.equal(said, `armed\n${'thread=50000\n'.repeat(4)}`);
  }
});
