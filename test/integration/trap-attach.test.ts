import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { registerUprobe } from 'uprobe';
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
