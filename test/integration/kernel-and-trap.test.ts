import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { compiled, counter, registerUprobe, registerUprobes, spawnTarget } from 'uprobe';
import { compileFixture, privateCopy } from '../helpers/compile.js';
import { runToEnd, whyNoKernelEngine } from '../helpers/kernel.js';

void describe('one place of two engines', { skip: whyNoKernelEngine() }, () => {
  void it('stays with the first: who needs another is refused, and nothing is lost', async () => {
    const pathname = privateCopy(compileFixture('calls'));
    const target = await spawnTarget(pathname, ['7'], { stdio: 'ignore' });
    const first = await registerUprobe({ pathname, symbol: 'add', processes: target });
    await assert.rejects(registerUprobe({ pathname, symbol: 'add' }), {
      name: 'RefusedError',
      code: 'other-engine',
      message:
        /armed by the trap engine, which cannot serve this uprobe, too: .+ Register all uprobes of the place together/,
    });
    await target.resume();
    await target.exited;
    assert.equal(first.nhits, runToEnd(pathname, '7').count('add'));
    await first.unregister();
    await using second = await registerUprobe({ pathname, symbol: 'add' });
    assert.equal(runToEnd(pathname, '5').count('add'), second.nhits);
  });

  void it('is armed by the one that serves all who are registered together', async () => {
    const pathname = privateCopy(compileFixture('calls'));
    const target = await spawnTarget(pathname, ['7'], { stdio: 'ignore' });
    const calls = counter();
    const preHandler = compiled({ scope: { calls } }, (hit, scope) => {
      if (hit.arg(0) !== 0n) scope.calls.add();
    });
    const group = await registerUprobes([
      { pathname, symbol: 'add', processes: target, preHandler },
      { pathname, symbol: 'add' },
    ]);
    assert.deepEqual([...group].map((u) => u.processes().every((p) => p.engine === 'kernel')), [true, true]); // prettier-ignore
    await target.resume();
    await target.exited;
    const own = runToEnd(pathname, '7').count('add');
    assert.deepEqual([...group].map((u) => u.nhits), [own, 2n * own]); // prettier-ignore
    await group.unregister();
  });

  void it('is refused to those who cannot have one together', async () => {
    const pathname = privateCopy(compileFixture('calls'));
    const target = await spawnTarget(pathname, ['7'], { stdio: 'ignore' });
    await assert.rejects(
      registerUprobes([
        { pathname, symbol: 'add', processes: target, preHandler: () => undefined },
        { pathname, symbol: 'add' },
      ]),
      { name: 'RefusedError', code: 'plain-handler' },
    );
    target.kill('SIGKILL');
    await target.exited;
  });
});
