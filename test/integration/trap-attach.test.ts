import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { ProcessError, registerUprobe, spawnTarget } from 'uprobe';
import { compileFixture, privateCopy } from '../helpers/compile.js';
import { startProgram, tracerOf, until } from '../helpers/running.js';

const ROUND = 100n;

for (const mode of ['none', 'filter', 'strict']) {
  const needsRoot =
    mode !== 'none' && process.getuid?.() !== 0 ? 'holding seccomp off needs CAP_SYS_ADMIN' : false;
  test(`a running process (seccomp: ${mode}) is probed and left as it was`, { skip: needsRoot }, async () => {
    const program = privateCopy(compileFixture('seccomp', { flags: ['-O1'] }));
    const running = await startProgram(program, [mode]);
    const maps = readFileSync(`/proc/${running.pid}/maps`, 'utf8');
    const seen: bigint[] = [];
    const probe = await registerUprobe({
      pathname: program,
      symbol: 'work',
      processes: running.pid,
      preHandler: (hit) => void seen.push(hit.arg(0)),
    });
    await running.feed(3);
    await until('all is counted', () => probe.nhits >= 3n * ROUND);
    await probe.unregister();
    assert.equal(probe.nhits, 3n * ROUND);
    assert.equal(probe.nmissed, 0n);
    assert.deepEqual(
      seen,
      Array.from({ length: 300 }, (_, i) => BigInt(i % 100)),
    );
    assert.equal(readFileSync(`/proc/${running.pid}/maps`, 'utf8'), maps);
    await running.feed(2);
    assert.equal(tracerOf(running.pid), '0');
    assert.equal(await running.finish(), 'fine status 7');
    assert.equal(probe.nhits, 3n * ROUND);
  });
}

test('a child that node:child_process waits for is refused by name', async () => {
  const child = spawn('sleep', ['60'], { stdio: 'ignore' });
  try {
    await assert.rejects(registerUprobe({ pathname: 'libc', symbol: 'malloc', processes: child.pid! }), {
      code: 'is-our-child',
    });
  } finally {
    child.kill('SIGKILL');
  }
});

test('attaching to and leaving a running process, again and again, loses nothing', async () => {
  const program = privateCopy(compileFixture('seccomp', { flags: ['-O1'] }));
  const running = await startProgram(program, ['none']);
  let hits = 0n;
  for (let i = 0; i < 50; i++) {
    const probe = await registerUprobe({ pathname: program, symbol: 'work', processes: running.pid });
    await running.feed(1);
    await until('all is counted', () => probe.nhits >= ROUND);
    await probe.unregister();
    hits += probe.nhits;
  }
  assert.equal(hits, 50n * ROUND);
  assert.equal(await running.finish(), 'fine status 7');
});

const stateOf = (pid: number): string | undefined =>
  /^State:\t(\w)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1];

test('a process stopped by job control is probed and left, stays stopped, and is hit when it goes on', async () => {
  const program = privateCopy(compileFixture('seccomp', { flags: ['-O1'] }));
  const running = await startProgram(program, ['none']);
  const place = { pathname: program, symbol: 'work', processes: running.pid };
  process.kill(running.pid, 'SIGSTOP');
  await until('it is stopped', () => stateOf(running.pid) === 'T');
  const passing = await registerUprobe(place);
  await passing.unregister();
  assert.equal(stateOf(running.pid), 'T');
  const probe = await registerUprobe({ ...place, preHandler: () => undefined });
  process.kill(running.pid, 'SIGCONT');
  await running.feed(2);
  await until('every hit is counted', () => probe.nhits >= 2n * ROUND);
  process.kill(running.pid, 'SIGSTOP');
  await until('it is stopped again', () => /[Tt]/.test(stateOf(running.pid) ?? ''));
  await probe.unregister();
  process.kill(running.pid, 'SIGCONT');
  await running.feed(1);
  assert.equal(await running.finish(), 'fine status 7');
  assert.equal(probe.nhits, 2n * ROUND);
});

test('sites that go one by one while threads wait in hits of them leave every thread at its own instruction', async () => {
  const program = privateCopy(compileFixture('threads'));
  const target = await spawnTarget(program, ['4', '5000', '0', '50'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const output = text(target.stdout!);
  await target.resume();
  let ended = false;
  void target.exited.then(() => (ended = true));
  const slow = (): void => {
    for (const end = performance.now() + 0.2; performance.now() < end;);
  };
  const places = [
    { pathname: 'libc', symbol: 'usleep' },
    { pathname: program, symbol: 'work' },
  ];
  let rounds = 0;
  for (; rounds < 20 && !ended; rounds++) {
    const probes = await Promise.all(
      places.map((place) => registerUprobe({ ...place, processes: target, preHandler: slow })),
    ).catch((e: unknown) => {
      if (!(e instanceof ProcessError) || !/^(no-such-process|is-a-zombie)$/.test(e.code)) throw e;
    });
    if (probes === undefined) break; // it was quicker
    await new Promise((resolve) => setTimeout(resolve, 5));
    if (rounds % 2 === 0) await Promise.all(probes.map((p) => p.unregister()));
    else for (const probe of probes) await probe.unregister();
  }
  assert.equal((await target.exited).code, 0);
  assert.equal(await output, 'threads=4 work=20000\n');
  assert.ok(rounds > 3, `${rounds} rounds`);
});
