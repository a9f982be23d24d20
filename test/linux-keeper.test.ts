import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { UprobeError } from '#uprobe/base/errors.js';
import { Keeper } from '#uprobe/linux/keeper.js';
import { NR } from '#uprobe/linux/numbers.js';
import { pipe } from '#uprobe/linux/fds.js';
import { until } from './helpers/running.js';

const commOf = (pid: number): string => readFileSync(`/proc/${pid}/comm`, 'latin1').trim();

/** It runs nothing any more, not even what it had begun. */
async function killed(pid: number): Promise<void> {
  process.kill(pid, 'SIGKILL');
  await until('it has ended', () => /^State:\tZ/m.test(readFileSync(`/proc/${pid}/status`, 'latin1')));
}

void describe('the keeper of links', () => {
  void it('makes system calls with our descriptors', async () => {
    const keeper = new Keeper();
    const [read, write] = pipe();
    await until('it has its name', () => commOf(keeper.pid!) === 'uprobe-keeper');
    assert.equal(await keeper.call(NR.close, write), 0);
    assert.equal(await keeper.call(NR.close, write), -9); // EBADF
    assert.equal(keeper.callNow(1000, NR.close, read), 0);
    const { pid } = keeper;
    keeper.close();
    assert.ok(!existsSync(`/proc/${pid}`), 'it has been waited for');
  });

  void it('has a successor when it was killed, which makes the calls', async () => {
    const keeper = new Keeper();
    const first = keeper.pid!;
    await killed(first);
    const results = await Promise.all([1, 2, 3].map(() => keeper.call(NR.gettid)));
    assert.notEqual(keeper.pid, first);
    assert.deepEqual(new Set(results), new Set([keeper.pid]));
    await killed(keeper.pid!);
    assert.ok(keeper.callNow(1000, NR.gettid)! > 0);
    keeper.close();
  });

  void it('says so when it was killed in the middle of a call, and goes on', async () => {
    const keeper = new Keeper();
    const long = keeper.call(NR.poll, 0, 0, 60_000);
    await until('it waits', () => /^State:\tS/m.test(readFileSync(`/proc/${keeper.pid}/status`, 'latin1')));
    process.kill(keeper.pid!, 'SIGKILL');
    await assert.rejects(long, (e) => e instanceof UprobeError && e.code === 'keeper-killed');
    assert.equal(await keeper.call(NR.gettid), keeper.pid);
    keeper.close();
  });

  void it('takes no signal', async () => {
    const keeper = new Keeper();
    const { pid } = keeper;
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR1'] as const) process.kill(pid!, signal);
    assert.equal(await keeper.call(NR.gettid), pid);
    keeper.close();
  });
});
