/** Processes that have one memory: what is put into it for one of them concerns the others. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { registerUprobe } from 'uprobe';
import { compileFixture, privateCopy } from '../helpers/compile.js';
import { startProgram, tracerOf, until } from '../helpers/running.js';

const childOf = (pid: number): number =>
  Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').trim());

const start = async (): ReturnType<typeof startProgram> =>
  startProgram(privateCopy(compileFixture('vforker', { flags: ['-O1'] })));
const programOf = (pid: number): string => readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0')[0]!;

test('a process that waits for its child by vfork is probed; hits of the child are none of its own', async () => {
  const running = await start();
  const child = childOf(running.pid);
  const probe = await registerUprobe({
    pathname: programOf(running.pid),
    symbol: 'work',
    processes: running.pid,
  });
  assert.equal(tracerOf(child), tracerOf(running.pid));
  await running.feed(2, child);
  assert.equal(probe.nhits, 0n);
  assert.equal(await running.finish(), 'fine status 7');
  assert.equal(probe.nhits, 100n);
  await probe.unregister();
});

test('a child by vfork is probed; when it ends, its parent goes on without anything of ours', async () => {
  const running = await start();
  const child = childOf(running.pid);
  const pathname = programOf(running.pid);
  const probe = await registerUprobe({
    pathname,
    symbol: 'work',
    processes: child,
    preHandler: () => undefined,
  });
  await running.feed(2, child);
  await until('its hits are counted', () => probe.nhits === 200n);
  assert.equal(await running.finish(), 'fine status 7');
  assert.equal(probe.nhits, 200n);
  assert.equal(probe.state, 'gone');
  await probe.unregister();
});

test('a child by vfork is probed and left while its parent waits', async () => {
  const running = await start();
  const child = childOf(running.pid);
  const pathname = programOf(running.pid);
  for (let i = 1; i <= 3; i++) {
    const probe = await registerUprobe({ pathname, symbol: 'work', processes: child });
    await running.feed(1, child);
    await until('its hits are counted', () => probe.nhits === 100n);
    await probe.unregister();
    assert.equal(tracerOf(child), '0');
    await running.feed(1, child);
    assert.equal(probe.nhits, 100n);
  }
  assert.equal(await running.finish(), 'fine status 7');
});

test('both are probed in their tree, each for itself', async () => {
  const running = await start();
  const child = childOf(running.pid);
  const pids: number[] = [];
  const probe = await registerUprobe({
    pathname: programOf(running.pid),
    symbol: 'work',
    processes: { tree: running.pid },
    preHandler: (hit) => void pids.push(hit.pid),
  });
  await running.feed(2, child);
  assert.equal(await running.finish(), 'fine status 7');
  assert.deepEqual(pids, [...Array<number>(200).fill(child), ...Array<number>(100).fill(running.pid)]);
  assert.equal(probe.state, 'gone');
  await probe.unregister();
});
