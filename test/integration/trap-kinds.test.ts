/** Every kind of process, and of end: what it computes and how it ends are as without probes, and every hit is counted. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, readdirSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { test, type TestContext } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { registerUprobe, registerUprobes, spawnTarget, type Target } from 'uprobe';
import {
  compileFixture,
  linkedPair,
  privateCopies,
  privateCopy,
  variants,
  whyNoMusl,
} from '../helpers/compile.js';
import { startProgram, until } from '../helpers/running.js';

async function start(
  t: TestContext,
  program: string,
  args: readonly string[],
  stdin: 'ignore' | 'pipe' = 'ignore',
): Promise<Target> {
  const target = await spawnTarget(program, args, { stdio: [stdin, 'pipe', 'ignore'] });
  t.after(() => target.kill('SIGKILL'));
  return target;
}
const printed = (output: string, word: string): bigint =>
  [...output.matchAll(new RegExp(`\\b${word}=(\\d+)`, 'g'))].reduce((sum, m) => sum + BigInt(m[1]!), 0n);
const stateOf = (pid: number, field = 'State'): string =>
  new RegExp(`^${field}:\\s*(.*)$`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1] ?? '';
const threadsOf = (pid: number): number[] => readdirSync(`/proc/${pid}/task`).map(Number);

// ---- ends

const ENDS: readonly (readonly [string, readonly string[], bigint | undefined])[] = [
  ['by exit', ['code', '3'], 10n],
  ['by _exit', ['_exit', '3'], 10n],
  ['by SIGTERM', ['signal', '15'], 10n],
  ['by SIGKILL', ['signal', '9'], 10n],
  ['by abort', ['abort'], 10n],
  ['by a fault', ['fault'], 10n],
  ['by an exec', ['exec', 'sh', '-c', 'exit 5'], 10n],
  ['when its first thread has ended before', ['main-first'], 20n],
  ['in a second thread, while the first one is hit', ['thread', '4'], undefined],
  ['in one of eight threads that are hit', ['storm', '4'], undefined],
];

for (const [title, args, hits] of ENDS)
  test(`a process that ends ${title} ends so with probes, too`, async (t) => {
    const program = privateCopy(compileFixture('exits'));
    const plain = spawnSync(program, args, { encoding: 'utf8' });
    const target = await start(t, program, args);
    const place = { pathname: program, symbol: 'work', processes: target };
    const group = await registerUprobes([place, { ...place, preHandler: () => undefined }]);
    const output = text(target.stdout!);
    await target.resume();
    const { code, signal } = await target.exited;
    assert.deepEqual([code, signal], [plain.status, plain.signal]);
    assert.equal(await output, plain.stdout);
    await until('it is gone', () => group.at(0)!.state === 'gone');
    const [counted, handled] = [...group].map((u) => u.nhits + u.nmissed);
    if (hits === undefined) assert.ok(counted! >= 20n);
    else assert.deepEqual([counted, handled], [hits, hits]);
    await group.unregister();
  });

test('a process that is killed while eight threads are hit is gone, again and again', async (t) => {
  const program = privateCopy(compileFixture('threads'));
  for (let i = 0; i < 10; i++) {
    const target = await start(t, program, ['8', '100000', '0']);
    const probe = await registerUprobe({
      pathname: program,
      symbol: 'work',
      processes: i % 2 === 0 ? target : { tree: target.pid },
      preHandler: () => undefined,
    });
    await target.resume();
    await until('it is hit', () => probe.nhits > 100n);
    target.kill('SIGKILL');
    assert.deepEqual(await target.exited, { code: null, signal: 'SIGKILL' });
    await until('it is gone', () => probe.state === 'gone');
    await probe.unregister();
  }
});

test('a process whose first thread has ended is hit, takes more probes and loads libraries', async (t) => {
  const [program = '', library = ''] = privateCopies(compileFixture('leaderless'), compileFixture('library'));
  const target = await start(t, program, [library], 'pipe');
  const counted = await registerUprobe({ pathname: program, symbol: 'work', processes: target });
  const output = text(target.stdout!);
  await target.resume();
  await until('its leader has ended', () => stateOf(target.pid).startsWith('Z'));
  target.stdin!.write('x');
  await until('it is hit', () => counted.nhits === 100n);
  const began = performance.now();
  const handled = await registerUprobe({
    pathname: program,
    symbol: 'work',
    processes: target,
    preHandler: () => undefined,
  });
  const second = await registerUprobe({ pathname: library, symbol: 'lib_work', processes: target });
  assert.ok(performance.now() - began < 2000, 'nobody waits for a thread that has ended');
  assert.equal(second.state, 'pending');
  target.stdin!.end('xx');
  assert.equal((await target.exited).code, 7);
  assert.equal(await output, 'ready\nwork=300 lib_work=10\n');
  assert.deepEqual([counted.nhits, handled.nhits, second.nhits], [300n, 200n, 10n]);
  for (const probe of [counted, handled, second]) await probe.unregister();
});

test('a running process whose first thread has ended is probed and left, again and again', async () => {
  const [program = '', library = ''] = privateCopies(compileFixture('leaderless'), compileFixture('library'));
  const running = await startProgram(program, [library]);
  for (let i = 0; i < 3; i++) {
    const probe = await registerUprobe({
      pathname: program,
      symbol: 'work',
      processes: i === 1 ? { tree: running.pid } : running.pid,
      preHandler: () => undefined,
    });
    await running.feed(2);
    await until('it is hit', () => probe.nhits === 200n);
    await probe.unregister();
  }
  const last = await registerUprobe({ pathname: library, symbol: 'lib_work', processes: running.pid });
  assert.equal(await running.finish(), 'work=600 lib_work=10 status 7');
  assert.equal(last.nhits, 10n);
  await until('it is gone', () => last.state === 'gone');
  await last.unregister();
});

// ---- stops

/** All threads are in a stop, and none of them for a hit: nothing has changed since the last look. */
function stopped(pid: number, hits: () => bigint): () => boolean {
  let before = -1n;
  return () => {
    const now = hits();
    const isStill = now === before && threadsOf(pid).every((tid) => /^[Tt]/.test(stateOf(tid)));
    before = now;
    return isStill;
  };
}

for (const signal of ['SIGSTOP', 'SIGTSTP', 'SIGTTIN'] as const)
  test(`${signal} stops all threads, hits wait, and SIGCONT lets them go on`, async (t) => {
    const program = privateCopy(compileFixture('threads'));
    // a process group of its own whose parent is in another one of the session: orphaned ones ignore the terminal's signals
    const running = await start(t, 'sh', [
      '-c',
      `perl -e 'setpgrp; exec @ARGV' "$0" 4 3000 2 100 & child=$!; echo pid $child; wait $child`,
      program,
    ]);
    let output = '';
    running.stdout!.on('data', (chunk: Buffer) => (output += chunk.toString()));
    const place = { pathname: program, symbol: 'work', processes: { tree: running.pid } };
    const group = await registerUprobes([place, { ...place, preHandler: () => undefined }]);
    const closed = once(running.stdout!, 'close');
    await running.resume();
    await until('it runs', () => /pid \d+/.test(output) && group.at(0)!.nhits > 0n);
    const pid = Number(/pid (\d+)/.exec(output)![1]);
    for (let i = 0; i < 10; i++) {
      process.kill(pid, signal);
      const hits = (): bigint => group.at(0)!.nhits;
      await until('it is stopped', stopped(pid, hits));
      const before = hits();
      await new Promise((resolve) => setTimeout(resolve, 20));
      assert.equal(hits(), before, 'no hits of threads that are stopped');
      if (i % 2 === 1) await (await registerUprobe({ ...place, symbol: 'run' })).unregister();
      assert.equal(hits(), before, 'nor of threads that were made to do something meanwhile');
      process.kill(pid, 'SIGCONT');
      await until('it goes on', () => hits() > before || stateOf(pid).startsWith('Z'));
    }
    await closed;
    assert.equal((await running.exited).code, 0);
    const calls = printed(output, 'work');
    assert.equal(calls, 18_000n);
    assert.deepEqual([...group].map((u) => [u.nhits, u.nmissed]), [[calls, 0n], [calls, 0n]]); // prettier-ignore
    await group.unregister();
  });

for (const stays of [true, false])
  test(
    `SIGCONT is not lost while probes come and go${stays ? '' : ', and the process with them'}`,
    { timeout: 60_000 },
    async (t) => {
      const program = privateCopy(compileFixture('stops'));
      const running = await start(t, program, ['1500']);
      const output = text(running.stdout!);
      const places = ['work', 'more'].map((symbol) => ({ pathname: program, symbol, processes: running }));
      if (stays) await registerUprobe({ ...places[0]!, preHandler: () => undefined });
      let over = false;
      void running.exited.then(() => (over = true));
      await running.resume();
      let times = 0;
      for (; !over && times < 10_000; times++) {
        const handlers = times % 2 === 0 ? { preHandler: () => undefined } : { postHandler: () => undefined };
        try {
          const group = await registerUprobes(places.map((place) => ({ ...place, ...handlers })));
          await pause(times % 7);
          await group.unregister();
        } catch (e) {
          assert.match(String(e), /has ended|no-such-process|no process/, 'only its end ends it');
          await pause(1);
        }
      }
      assert.equal(await output, 'stuck 0\n');
      assert.deepEqual(await running.exited, { code: 0, signal: null });
      assert.ok(times > 20, `${times} times`);
    },
  );

for (const call of ['nanosleep', 'pause', 'sigsuspend'])
  test(
    `signals that come while ${call} is broken off for us are delivered, and end it with EINTR`,
    { timeout: 20_000 },
    async () => {
      const program = privateCopy(compileFixture('interrupted'));
      for (const stays of [true, false]) {
        const running = await startProgram(program, [call]);
        await until('it waits', () => stateOf(running.pid).startsWith('S'));
        process.kill(running.pid, 'SIGSTOP');
        await until('it is stopped', () => stateOf(running.pid).startsWith('T'));
        for (const signal of ['SIGUSR1', 'SIGUSR2']) process.kill(running.pid, signal); // they wait with the process
        const probe = await registerUprobe({ pathname: program, symbol: 'work', processes: running.pid });
        if (!stays) await probe.unregister();
        process.kill(running.pid, 'SIGCONT');
        assert.equal(await running.finish(), 'handled=2 broken_off=1 status 0');
        await probe.unregister();
      }
    },
  );

// ---- text that moves

test('text that is made writable, inaccessible, and executable again stays probed', async (t) => {
  const program = privateCopy(compileFixture('protector'));
  const target = await start(t, program, ['100', '100']);
  const place = { pathname: program, symbol: 'work', processes: target };
  const probe = await registerUprobe({ ...place, preHandler: () => undefined });
  const output = text(target.stdout!);
  await target.resume();
  let ended = false;
  void target.exited.then(() => (ended = true));
  // others come and go at any moment of it
  while (!ended)
    try {
      await (await registerUprobe({ ...place, symbol: 'ten' })).unregister();
    } catch (e) {
      assert.match((e as { code: string }).code, /^(no-such-process|is-a-zombie)$/);
      await target.exited; // the only reason there is
    }
  assert.equal((await target.exited).code, 0);
  assert.equal(await output, 'work=2000\n');
  assert.equal(probe.nhits, 2000n);
  await probe.unregister();
});

for (const way of ['dlmopen', 'mmap'])
  test(`a library that is in a process three times (${way}) is probed in each place`, async () => {
    const [program = '', library = ''] = privateCopies(compileFixture('twice'), compileFixture('library'));
    const running = await startProgram(program, [library, way]);
    const place = { pathname: library, symbol: 'lib_work', processes: running.pid };
    const group = await registerUprobes([place, { ...place, postHandler: () => undefined }]);
    assert.equal(await running.finish(), 'lib_work=30 status 0');
    assert.deepEqual([...group].map((u) => u.nhits), [30n, 30n]); // prettier-ignore
    await group.unregister();
  });

test('a library that is unloaded under its probe, and another process that keeps it: each is counted', async (t) => {
  const { program, library } = linkedPair();
  const opener = privateCopy(compileFixture('dlopener'));
  const targets = [await start(t, opener, [library, '10', '5', '5']), await start(t, program, ['7'])];
  const probe = await registerUprobe({
    pathname: library,
    symbol: 'lib_work',
    processes: targets.map((target) => target.pid),
  });
  const outputs = targets.map(({ stdout }) => text(stdout!));
  for (const target of targets) await target.resume();
  for (const target of targets) assert.equal((await target.exited).code, 0);
  const calls = (await Promise.all(outputs)).map((output) => printed(output, 'lib_work'));
  assert.equal(calls[0], 50n);
  assert.equal(
    probe.nhits,
    calls.reduce((a, b) => a + b),
  );
  await probe.unregister();
});

// ---- ways to be built

const BUILDS: readonly (readonly [string, readonly string[], 'gcc' | 'musl-gcc'])[] = [
  ...variants.map(({ name, flags }) => [name, flags, 'gcc'] as const),
  ['musl', ['-O1'], 'musl-gcc'],
  ['static musl', ['-O1', '-static'], 'musl-gcc'],
];

for (const [name, flags, compiler] of BUILDS)
  test(
    `children by every means of a program that was built with ${name}`,
    { skip: compiler === 'musl-gcc' && whyNoMusl() },
    async (t) => {
      const program = privateCopy(compileFixture('forker', { flags, compiler }));
      const target = await start(t, program, ['10']);
      const place = { pathname: program, symbol: 'work', processes: { tree: target.pid } };
      const group = await registerUprobes([place, { ...place, preHandler: () => undefined }]);
      const output = text(target.stdout!);
      await target.resume();
      assert.equal(printed(await output, 'work'), 62n);
      assert.equal((await target.exited).code, 0);
      await until('all have ended', () => group.at(0)!.state === 'gone');
      assert.deepEqual([...group].map((u) => [u.nhits, u.nmissed]), [[62n, 0n], [62n, 0n]]); // prettier-ignore
      await group.unregister();
    },
  );
