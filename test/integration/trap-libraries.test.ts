import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { registerUprobe, registerUprobes, spawnTarget } from 'uprobe';
import { compileFixture, linkedPair, privateCopies } from '../helpers/compile.js';

test('a library is armed before its first instruction runs: its constructor is counted', async () => {
  const { program, library } = linkedPair();
  const target = await spawnTarget(program, ['7']);
  const place = { pathname: library, processes: target };
  const group = await registerUprobes([
    { ...place, symbol: 'lib_work' },
    { ...place, symbol: 'lib_setup', preHandler: () => undefined },
  ]);
  assert.deepEqual(
    [...group].map((u) => u.state),
    ['pending', 'pending'],
  );
  const output = text(target.stdout!);
  await target.resume();
  assert.equal((await target.exited).code, 0);
  const [, work, setup] = /lib_work=(\d+) lib_setup=(\d+)/.exec(await output) ?? [];
  assert.equal(group.at(0)?.nhits, BigInt(work!));
  assert.equal(group.at(1)?.nhits, BigInt(setup!));
});

test('a library loaded and unloaded again and again is probed each time', async () => {
  const [program = '', library = ''] = privateCopies(compileFixture('dlopener'), compileFixture('library'));
  const plain = spawnSync(program, [library, '20', '5'], { encoding: 'utf8' });
  const target = await spawnTarget(program, [library, '20', '5']);
  const states: string[] = [];
  const place = { pathname: library, processes: target };
  const work = await registerUprobe({
    ...place,
    symbol: 'lib_work',
    onState: (s) => void states.push(s.state),
  });
  const setup = await registerUprobe({ ...place, symbol: 'lib_setup', preHandler: () => undefined });
  const output = text(target.stdout!);
  await target.resume();
  assert.equal((await target.exited).code, 0);
  assert.equal(await output, plain.stdout);
  const [, calls, setups] = /lib_work=(\d+) lib_setup=(\d+)/.exec(plain.stdout) ?? [];
  assert.equal(work.nhits, BigInt(calls!));
  assert.equal(setup.nhits, BigInt(setups!));
  assert.equal(states.filter((s) => s === 'armed').length, 20);
});
