import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Calls, type Call } from '#uprobe/engines/trap/calls.js';
import type { Process } from '#uprobe/engines/trap/thread.js';
import { x64 } from '#uprobe/arch/x64/x64.js';

let lastId = 0;
const call = (fields: Partial<Call>): Call => ({
  id: ++lastId,
  siteId: 1,
  process: {} as Process,
  tid: 1,
  returnAddress: 0x1000,
  sp: 0x8000,
  time: 0n,
  args: new BigUint64Array(6),
  lastConsumer: 0,
  ...fields,
});
const unexpected = (): void => assert.fail('no call was left');

test('a call returns where it stands on the stack, and nowhere else', () => {
  const calls = new Calls();
  const one = call({});
  calls.enter(one, unexpected);
  assert.deepEqual(calls.returned(0x1000, 0x8000), []);
  assert.deepEqual(calls.returned(0x1004, 0x8008), []);
  assert.deepEqual(calls.returned(0x1000, 0x8008), [one]);
  assert.deepEqual(calls.returned(0x1000, 0x8008), []);
});

test('functions that jumped to each other return together, the innermost first', () => {
  const calls = new Calls();
  const [outer, inner] = [call({ siteId: 1 }), call({ siteId: 2 })];
  calls.enter(outer, unexpected);
  calls.enter(inner, unexpected);
  assert.deepEqual(calls.returned(0x1000, 0x8008), [inner, outer]);
});

test('a frame that is overwritten was left', () => {
  const calls = new Calls();
  const left: Call[] = [];
  const first = call({ siteId: 1 });
  const jumpedTo = call({ siteId: 2 });
  for (const c of [first, jumpedTo]) calls.enter(c, unexpected);
  const again = call({ siteId: 1 });
  calls.enter(again, (c) => left.push(c));
  assert.deepEqual(left, [first, jumpedTo], 'the same function from the same place');
  const elsewhere = call({ siteId: 3, returnAddress: 0x2000 });
  calls.enter(elsewhere, (c) => left.push(c));
  assert.deepEqual(left, [first, jumpedTo, again], 'another return address in the same word');
  assert.deepEqual(calls.returned(0x2000, 0x8008), [elsewhere]);
});

test('when there are many, those whose word holds something else are found', () => {
  const calls = new Calls();
  const left: Call[] = [];
  for (let i = 0; i < 2000; i++) calls.enter(call({ sp: 0x8000 + 8 * i }), unexpected);
  assert.ok(calls.areMany);
  calls.sweep(
    (sp) => (sp < 0x8000 + 8 * 500 ? 0x1000 : sp % 16 === 0 ? undefined : 0),
    (c) => left.push(c),
  );
  assert.equal(left.length, 1500);
  assert.ok(!calls.areMany);
  assert.equal(calls.returned(0x1000, 0x8008).length, 1);
  assert.equal(calls.remove(() => true).length, 499);
});

test('a word is a return address where a call stands before it', () => {
  const before = (hex: string): boolean => x64.mayBeReturnAddress(0x1001, Buffer.from(hex, 'hex'));
  for (const yes of [
    '9090e8aabbccdd',
    '90909090ff15aabbccdd',
    'ffd0',
    '41ffd4',
    'ff5310',
    'ff9424aabbccdd',
    'f2ff10',
  ])
    assert.ok(before(yes), yes);
  for (const no of ['', '90', '9090909090', 'e9aabbccdd', 'ffe0', 'ff35aabbccdd', 'e8aabbcc'])
    assert.ok(!before(no), no);
  assert.ok(x64.mayBeReturnAddress(0x1010, new Uint8Array(0)), 'where a function begins: makecontext');
});
