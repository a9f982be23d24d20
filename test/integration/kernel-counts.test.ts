import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import {
  ProcessError,
  RefusedError,
  compiled,
  i64,
  openModule,
  registerUprobe,
  registerUprobes,
  stats,
  uprobes,
} from 'uprobe';
import { compileFixture, linkedPair, privateCopy } from '../helpers/compile.js';
import { fewer, runToEnd, whyNoKernelEngine } from '../helpers/kernel.js';
import { startProgram, until } from '../helpers/running.js';

const NAMES = ['add', 'fact', 'many', 'mixed', 'text', 'point_sum', 'by_value', 'variadic', 'small'];

void describe('the kernel engine', { skip: whyNoKernelEngine() }, () => {
  void it('counts in processes that start later, whoever starts them', async () => {
    const program = privateCopy(compileFixture('calls'));
    const group = await registerUprobes(NAMES.map((symbol) => ({ pathname: program, symbol })));
    assert.deepEqual(
      [...group].map((u) => [u.state, u.processes().length]),
      NAMES.map(() => ['armed', 0]),
    );
    const first = runToEnd(program, '7');
    const second = runToEnd(program, '30');
    const counted = [...group].map((u) => u.nhits);
    assert.deepEqual(counted, NAMES.map((name) => first.count(name) + second.count(name))); // prettier-ignore
    await group.unregister();
    runToEnd(program, '5');
    assert.deepEqual([...group].map((u) => u.nhits), counted); // prettier-ignore
    assert.deepEqual([...group].map((u) => [u.state, u.nmissed]), NAMES.map(() => ['gone', 0n])); // prettier-ignore
  });

  void it('stops at the push behind the endbr64 that a function begins with', async () => {
    const flags = ['-O0', '-fcf-protection=full', '-fno-omit-frame-pointer'];
    const program = privateCopy(compileFixture('naps', { flags }));
    const view = openModule(program);
    const { instruction, engines, offset } = view.plan({ symbol: 'rests' }, { preHandler: false });
    assert.equal(instruction.text, 'endbr64');
    assert.match(engines.find((e) => e.engine === 'kernel')?.note ?? '', /at the push behind endbr64/);
    view.close();
    const args = stats();
    const results = stats();
    await using group = await registerUprobes([
      {
        pathname: program,
        symbol: 'naps',
        preHandler: compiled({ scope: { seen: args } }, (hit, { seen }) => seen.add(i64(hit.arg(0)))),
        returnHandler: compiled({ scope: { answers: results } }, (hit, { answers }) =>
          answers.add(i64(hit.returnValue)),
        ),
      },
      { pathname: program, offset },
    ]);
    const ended = runToEnd(program, '1');
    assert.deepEqual([...group].map((u) => u.nhits), [ended.count('naps'), ended.count('rests')]); // prettier-ignore
    assert.deepEqual([BigInt(args.count), args.max, results.min], [ended.count('naps'), 20_000n, -20_000n]);
  });

  void it('counts in a library, and in no other copy of it', async () => {
    const [one, other] = [linkedPair(), linkedPair()];
    await using uprobe = await registerUprobe({ pathname: one.library, symbol: 'lib_work' });
    runToEnd(other.program);
    assert.equal(uprobe.nhits, 0n);
    runToEnd(one.program);
    assert.ok(uprobe.nhits > 0n);
  });

  const short = fewer(1000, 50);
  void it(`misses none of ${short} short processes, 20 at a time`, { timeout: 120_000 }, async () => {
    const program = privateCopy(compileFixture('calls'));
    await using group = await registerUprobes(
      ['add', 'text'].map((symbol) => ({ pathname: program, symbol })),
    );
    let wanted = 0n;
    let started = 0;
    const lane = async (): Promise<void> => {
      while (started < short) {
        const rounds = (started++ % 7) + 1;
        const child = spawn(program, [String(rounds)], { stdio: ['ignore', 'pipe', 'inherit'] });
        const [said, ended] = await Promise.all([text(child.stdout), once(child, 'close')]);
        assert.deepEqual(ended, [0, null]);
        wanted += BigInt(/\badd=(\d+)/.exec(said)![1]!);
      }
    };
    await Promise.all(Array.from({ length: 20 }, lane));
    const [add, textual] = [...group].map((u) => u.nhits);
    assert.deepEqual([add, textual], [wanted, wanted / 2n]);
  });

  void it('counts in the processes that are named only', async () => {
    const program = privateCopy(compileFixture('hammer'));
    const [one, other] = [await startProgram(program), await startProgram(program)];
    const uprobe = await registerUprobe({
      pathname: program,
      symbol: 'mix',
      processes: one.pid,
      engine: 'kernel',
    });
    assert.deepEqual(uprobe.processes(), [{ pid: one.pid, state: 'armed', engine: 'kernel' }]);
    await until('it has been hit', () => uprobe.nhits > 1000n);
    await uprobe.unregister();
    const counted = uprobe.nhits;
    await other.feed(3);
    await using second = await registerUprobe({
      pathname: program,
      symbol: 'mix',
      processes: [other.pid],
      engine: 'kernel',
    });
    await one.finish();
    await until('it has been hit', () => second.nhits > 1000n);
    assert.equal(uprobe.nhits, counted);
    assert.match(await other.finish(), /^.*\b0 wrong/);
  });

  void it('refuses what it cannot do, by name', async () => {
    const program = privateCopy(compileFixture('calls'));
    const spec = { pathname: program, symbol: 'add', engine: 'kernel' as const };
    const refusals: [object, string][] = [
      [{ preHandler: () => undefined, processes: 'all' }, 'plain-handler'],
      [{ postHandler: () => undefined, processes: 'all' }, 'no-such-phase'],
      [{ faultHandler: () => undefined, processes: 'all' }, 'no-such-phase'],
      [{ processes: { tree: process.pid } }, 'no-trees'],
    ];
    for (const [more, code] of refusals)
      await assert.rejects(
        registerUprobe({ ...spec, ...more }),
        (e) => e instanceof RefusedError && e.code === code,
      );
    const nobody = { ...spec, processes: 4_194_303 };
    await assert.rejects(
      registerUprobe(nobody),
      (e) => e instanceof ProcessError && e.code === 'no-such-process',
    );
    assert.deepEqual(uprobes(), []);
  });
});
