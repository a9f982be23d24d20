import assert from 'node:assert/strict';
import { test } from 'node:test';
import { compileFixture, privateCopy } from '../helpers/compile.js';
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
