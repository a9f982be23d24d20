/**
 * The kernel engine where the kernel attaches programs to perf events only, one for each place: everything that its other tests ask of it,
 * and what is different.
 */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import type { ReturnHit } from 'uprobe';

// Read when the engine is first asked for anything; what is started from here has it, too.
process.env['UPROBE_KERNEL'] = 'perf';
const { means } = await import('#uprobe/engines/kernel/machine.js');
const { examineKernel } = await import('#uprobe/engines/kernel/findings.js');
const { compiled, counter, registerUprobe, registerUprobes, spawnTarget } = await import('uprobe');
const { compileFixture, privateCopy, repositoryRoot } = await import('../helpers/compile.js');
const { linksOf, runToEnd, whyNoKernelEngine } = await import('../helpers/kernel.js');
const { until } = await import('../helpers/running.js');
await import('./kernel-counts.test.js');
await import('./kernel-handlers.test.js');
await import('./kernel-handover.test.js');
await import('./kernel-storms.test.js');
await import('./kernel-outlive.test.js');

void describe('programs on perf events', { skip: whyNoKernelEngine() }, () => {
  void it('are what is used here, and doctor says so', () => {
    assert.equal(means(), 'perf');
    assert.match(examineKernel()[0]!.detail, /for perf events, one for each place \(perf\)/);
  });

  void it('are one link for each place, and one that leaves takes its own with it', async () => {
    const program = privateCopy(compileFixture('calls'));
    const before = linksOf();
    const group = await registerUprobes(
      ['add', 'fact', 'text'].map((symbol) => ({ pathname: program, symbol })),
    );
    assert.equal(linksOf(), before + 3);
    await group.at(1)!.unregister();
    await until('its link is closed', () => linksOf() === before + 2);
    const ran = runToEnd(program, '10');
    assert.deepEqual([...group].map((u) => u.nhits), [ran.count('add'), 0n, ran.count('text')]); // prettier-ignore
    await group.unregister();
    await until('all are closed', () => linksOf() === before);
  });

  void it('do nothing in a child that runs in the memory of a process that is named', async () => {
    const program = privateCopy(compileFixture('vforker'));
    const child = spawn(program, { stdio: ['pipe', 'pipe', 'inherit'] });
    await once(child.stdout, 'data');
    await using uprobe = await registerUprobe({
      pathname: program,
      symbol: 'work',
      processes: child.pid!,
      engine: 'kernel',
    });
    child.stdin.end('xxx'); // a hundred calls of the child for each
    assert.deepEqual(await once(child, 'close'), [7, null]);
    assert.equal(uprobe.nhits, 100n);
  });

  void it('see the returns of their own processes, whoever watches those of others', async () => {
    const program = privateCopy(compileFixture('calls'));
    const start = (rounds: string) =>
      spawnTarget(program, [rounds], { stdio: ['ignore', 'pipe', 'inherit'] });
    const targets = [await start('10'), await start('20'), await start('30')];
    const watch = (processes: number[] | 'all') => {
      const returns = counter();
      const returnHandler = compiled({ scope: { returns } }, (_hit: ReturnHit<bigint>, scope) =>
        scope.returns.add(1),
      );
      const spec = { pathname: program, symbol: 'add', processes, returnHandler, engine: 'kernel' } as const;
      return registerUprobe(spec).then((uprobe) => ({ uprobe, returns }));
    };
    const [first, second] = targets.map((t) => t.pid);
    const watched = [await watch([first!]), await watch([first!, second!]), await watch('all')];
    const calls: bigint[] = [];
    for (const target of targets) {
      await target.resume();
      calls.push(BigInt(/\badd=(\d+)/.exec(await text(target.stdout!))![1]!));
      await target.exited;
    }
    const [a, b, c] = calls as [bigint, bigint, bigint];
    for (const { uprobe } of watched) await uprobe.unregister();
    assert.deepEqual(
      watched.map(({ returns, uprobe }) => [returns.value, uprobe.nhits]),
      [a, a + b, a + b + c].map((sum) => [sum, sum]),
    );
  });

  void it('want a descriptor for each place: too-many-places', () => {
    const holder = join(repositoryRoot, 'build', 'test', 'helpers', 'kernel-holder.js');
    const script = 'ulimit -n 300; exec "$@"'; // Node itself opens its modules side by side
    const program = privateCopy(compileFixture('hammer', { flags: ['-O1', '-static'] }));
    const { status, stderr } = spawnSync(
      'sh',
      ['-c', script, 'sh', process.execPath, holder, program, 'many'],
      { encoding: 'utf8', timeout: 60_000 },
    );
    assert.equal(status, 1);
    assert.match(stderr, /\d+ of them, and this process may have 300 open .*\(too-many-places\)/);
  });
});
