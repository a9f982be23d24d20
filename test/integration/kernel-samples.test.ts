/** The kernel engine without programs in the kernel: perf events that count and sample, and handlers that run here, later. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, fstatSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import koffi from 'koffi';
import {
  RefusedError,
  compiled,
  counter,
  events,
  histogram,
  i64,
  linearHistogram,
  openModule,
  registerUprobe,
  registerUprobes,
  spawnTarget,
  stats,
  string,
  table,
  u64,
  type ReturnHit,
  type UprobeSpec,
} from 'uprobe';
import type { FileOffset } from '#uprobe/base/address.js';
import type { Consumer, SiteFacts } from '#uprobe/engines/engine.js';
import { SampleGroup } from '#uprobe/engines/kernel/sample-group.js';
import { Sampler } from '#uprobe/engines/kernel/sampler.js';
import { Drain } from '#uprobe/events/drain.js';
import { programOf } from '#uprobe/handler/compiled-handler.js';
import { Keeper } from '#uprobe/linux/keeper.js';
import { compileFixture, linkedPair, privateCopy, repositoryRoot } from '../helpers/compile.js';
import { runToEnd, whyNoKernelEngine } from '../helpers/kernel.js';
import { changedTexts } from '../helpers/outlive.js';
import { startProgram, until } from '../helpers/running.js';

process.env['UPROBE_KERNEL'] = 'samples';

const HOLDER = join(repositoryRoot, 'build', 'test', 'helpers', 'kernel-holder.js');
const plain = (of: object): unknown => JSON.parse(JSON.stringify(of));
const sorted = (of: object): unknown =>
  (plain(of) as { entries: unknown[] }).entries.map((e) => JSON.stringify(e)).toSorted();

function offsetOf(path: string, name: string): FileOffset {
  using view = openModule(path);
  return [...view.functions()].find((f) => f.name === name)!.offset as FileOffset;
}

const make = () => ({
  count: counter(),
  sizes: histogram(),
  lines: linearHistogram({ min: 0, max: 100, step: 7 }),
  sums: stats(),
  byValue: table({ key: ['u64', string(16)], value: counter, capacity: 64 }),
  pairs: table({ key: ['i64', 'i64', 'bool'], value: stats, capacity: 1024 }),
  seen: events({ a: 'u64', isMain: 'bool', at: 'u64' }),
});

/** Everything at once of `add(a, b)`: what the handlers have gathered. */
async function gather(path: string, more: Partial<UprobeSpec>, run: () => Promise<string>) {
  const scope = make();
  const seen: bigint[][] = [];
  scope.seen.listen(({ a, isMain, at }) => void seen.push([a!, BigInt(isMain!), at!]));
  const uprobe = await registerUprobe({
    pathname: path,
    symbol: 'add',
    ...more,
    preHandler: compiled({ scope }, (hit, s) => {
      s.count.add();
      s.sizes.add(hit.arg(0));
      if (hit.arg(0) < 1000n) s.lines.add(hit.arg(0));
      s.sums.add(i64(hit.arg(1)));
      s.byValue.at(hit.arg(0) & 7n, hit.comm).add();
      s.seen.emit({ a: hit.arg(0), isMain: hit.pid === hit.tid, at: hit.regs.ip & 0xfffn });
      hit.call = hit.arg(0);
    }),
    returnHandler: compiled({ scope }, (hit, s) => {
      if (hit.call === undefined) return;
      s.pairs.at(i64(hit.call), i64(hit.entryArgs[1]!), hit.duration > 0n).add(i64(hit.returnValue));
    }),
  });
  const said = await run();
  await uprobe.unregister();
  const { count, sizes, lines, sums, byValue, pairs } = scope;
  return {
    own: BigInt(/add=(\d+)/.exec(said)![1]!),
    hits: [uprobe.nhits, uprobe.nmissed, uprobe.nerrors],
    cells: [count, sizes, lines, sums].map(plain),
    tables: [byValue, pairs].map(sorted),
    seen,
  };
}

void describe('samples of the kernel', { skip: whyNoKernelEngine() }, () => {
  void it('tell handlers the same as the trap engine does', async () => {
    const path = privateCopy(compileFixture('calls'));
    const samples = await gather(path, {}, () => Promise.resolve(runToEnd(path, '50').stdout));
    const target = await spawnTarget(path, ['50'], { stdio: ['ignore', 'pipe', 'inherit'] });
    const trap = await gather(path, { processes: target, engine: 'trap' }, async () => {
      await target.resume();
      return text(target.stdout!);
    });
    assert.equal(samples.seen.length, 100);
    assert.deepEqual(samples.hits, [samples.own, 0n, 0n]);
    assert.deepEqual(samples, trap);
  });

  void it('miss nothing of 120 short processes, counted or recorded', { timeout: 60_000 }, async () => {
    const path = privateCopy(compileFixture('calls'));
    const scope = { byName: table({ key: [string(16)], value: counter, capacity: 8 }) };
    const group = await registerUprobes([
      { pathname: path, symbol: 'add' },
      {
        pathname: path,
        symbol: 'fact',
        preHandler: compiled({ scope }, (hit, { byName }) => {
          byName.at(hit.comm).add();
        }),
      },
      {
        pathname: path,
        symbol: 'text',
        returnHandler: compiled({ scope: { sizes: histogram() } }, (hit, { sizes }) => {
          sizes.add(hit.returnValue);
        }),
      },
    ]);
    const wanted = [0n, 0n, 0n];
    let started = 0;
    const lane = async (): Promise<void> => {
      while (started++ < 120) {
        const child = spawn(path, [String((started % 3) + 1)], { stdio: ['ignore', 'pipe', 'inherit'] });
        const [said] = await Promise.all([text(child.stdout), once(child, 'close')]);
        ['add', 'fact', 'text'].forEach((name, i) => {
          wanted[i]! += BigInt(new RegExp(`\\b${name}=(\\d+)`).exec(said)![1]!);
        });
      }
    };
    await Promise.all(Array.from({ length: 10 }, lane));
    assert.equal([...group][0]!.nhits, wanted[0], 'counts are there at once');
    await until('all samples are handled', () => [...group][1]!.nhits === wanted[1]);
    await group.unregister();
    assert.deepEqual([...group].map((u) => u.nhits), wanted); // prettier-ignore
    assert.deepEqual([...group].map((u) => u.nmissed + u.nerrors), [0n, 0n, 0n]); // prettier-ignore
    assert.deepEqual(sorted(scope.byName), [JSON.stringify({ key: ['calls'], value: String(wanted[1]) })]);
  });

  void it('have the arguments on the stack', async () => {
    const path = privateCopy(compileFixture('calls'));
    const scope = { sums: stats(), groups: counter() };
    const uprobe = await registerUprobe({
      pathname: path,
      symbol: 'many',
      preHandler: compiled({ scope }, (hit, { sums, groups }) => {
        sums.add(u64(hit.arg(5) * 10_000n + hit.arg(6) * 1000n + hit.arg(7) * 100n + hit.arg(8) * 10n + hit.arg(9))); // prettier-ignore
        if (hit.cgroup > 0n) groups.add();
      }),
    });
    const wanted = runToEnd(path, '5').count('many');
    await uprobe.unregister();
    assert.deepEqual([uprobe.nhits, uprobe.nerrors], [wanted, 0n]);
    assert.deepEqual([scope.sums.min, scope.sums.max], [67_900n, 67_900n]);
    assert.equal(scope.groups.value, wanted);
  });

  void it('leave out what we hit ourselves', async () => {
    const { program, library } = linkedPair();
    const work = koffi.load(library).func('int lib_work(int)') as (n: number) => number;
    const values = counter();
    const group = await registerUprobes([
      { pathname: library, symbol: 'lib_work' },
      {
        pathname: library,
        symbol: 'lib_work',
        preHandler: compiled({ scope: { values } }, (_hit, scope) => {
          scope.values.add();
        }),
      },
    ]);
    for (let n = 0; n < 10; n++) assert.equal(work(n), n * 3 + 1);
    const wanted = runToEnd(program).count('lib_work');
    await group.unregister();
    assert.ok(wanted > 0n);
    assert.deepEqual([...group].map((u) => u.nhits), [wanted, wanted]); // prettier-ignore
    assert.equal(values.value, wanted);
  });

  void it('go on for those that stay when others are taken out', async () => {
    const path = privateCopy(compileFixture('calls'));
    const calls = counter();
    const preHandler = compiled({ scope: { calls } }, (_hit, scope) => {
      scope.calls.add();
    });
    const group = await registerUprobes(
      ['add', 'fact', 'many'].map((symbol) => ({ pathname: path, symbol, preHandler })),
    );
    const [add, fact, many] = [...group];
    runToEnd(path, '5');
    await fact!.unregister();
    const ran = runToEnd(path, '5');
    await group.unregister();
    const one = (name: string): bigint => ran.count(name);
    assert.deepEqual([add, fact, many].map((u) => u!.nhits), [2n * one('add'), one('fact'), 2n * one('many')]); // prettier-ignore
    assert.equal(calls.value, 2n * one('add') + one('fact') + 2n * one('many'));
  });

  void it('see every thread, and lose none while we are busy', async () => {
    const path = privateCopy(compileFixture('hammer'));
    const scope = { values: counter(), times: histogram() };
    const uprobe = await registerUprobe({
      pathname: path,
      symbol: 'chosen',
      returnHandler: compiled({ scope }, (hit, { values, times }) => {
        values.add();
        times.add(hit.duration);
      }),
    });
    const target = await startProgram(path);
    spawnSync('sleep', ['0.3']);
    const said = await target.finish();
    await uprobe.unregister();
    const rounds = BigInt(/0 wrong of (\d+)/.exec(said)![1]!);
    assert.ok(rounds > 1000n);
    assert.deepEqual([uprobe.nhits, uprobe.nmissed], [rounds, 0n]);
    assert.deepEqual([scope.values.value, BigInt(scope.times.count)], [rounds, rounds]);
  });

  void it('that find no room are counted as missed, each at its place', { timeout: 60_000 }, async () => {
    const path = privateCopy(compileFixture('hammer'));
    const fd = openSync(path, 'r');
    const { dev, ino } = fstatSync(fd, { bigint: true });
    const module = { id: 1, dev, ino, path, fd };
    const scope = { entries: counter(), returns: counter(), wrong: counter() };
    const preHandler = compiled({ scope }, (hit, { entries }) => {
      entries.add();
      hit.call = hit.arg(0);
    });
    const returnHandler = compiled({ scope }, (hit: ReturnHit<bigint>, { returns, wrong }) => {
      returns.add();
      if (hit.call !== hit.entryArgs[0]) wrong.add();
      if ((hit.entryArgs[0]! & 1n) === 0n && u64(hit.entryArgs[0]! * 0x9e3779b97f4a7c15n) !== hit.returnValue)
        wrong.add();
    });
    const programs = { pre: programOf(preHandler, 'pre')!, return: programOf(returnHandler, 'return')! };
    const site = { id: 1, module, offset: offsetOf(path, 'chosen') } as SiteFacts;
    const consumer: Consumer = { id: 1, processes: 'all', pre: true, post: false, fault: false, return: true, programs, deadline: 1 }; // prettier-ignore
    const [drain, keeper] = [new Drain(), new Keeper()];
    const group = await SampleGroup.arm([{ site, consumer }], new Sampler(drain, 8192), keeper);
    const target = await startProgram(path);
    await new Promise((resolve) => setTimeout(resolve, 300));
    const live = group.tally(0);
    const said = await target.finish();
    const [tally] = await group.remove([0]);
    keeper.close();
    await drain.close();
    closeSync(fd);
    const rounds = BigInt(/0 wrong of (\d+)/.exec(said)![1]!);
    const { hits, missed, errors } = tally!;
    assert.ok(live.missed > 0n && live.missed <= missed, `${live.missed} of ${missed}`);
    assert.deepEqual([scope.entries.value, errors], [hits, 0n]);
    assert.equal(hits + scope.returns.value + missed, 2n * rounds);
    assert.equal(scope.wrong.value, 0n, 'no return has the entry of another call');
    assert.ok(scope.returns.value > 0n);
  });

  void it('are refused to handlers that want more than registers, by name', async () => {
    const pathname = privateCopy(compileFixture('calls'));
    const scope = { n: counter() };
    const handlers: [Partial<UprobeSpec>, string][] = [
      [{ preHandler: compiled({ scope }, (hit, { n }) => n.add(hit.read(hit.arg(0), 'u8') ?? 0n)) }, 'memory-in-samples'], // prettier-ignore
      [{ preHandler: compiled({ scope }, (hit, { n }) => n.add(hit.readString(hit.arg(0)) === 'a' ? 1n : 0n)) }, 'memory-in-samples'], // prettier-ignore
      [
        { preHandler: compiled({ scope }, (hit, { n }) => n.add(i64(hit.regs.fsBase))) },
        'register-not-saved',
      ],
      [{ preHandler: compiled({}, (hit) => { hit.regs.ax = 0n; }) }, 'register-write'], // prettier-ignore
      [{ preHandler: compiled({}, () => 'skip' as const) }, 'verdict-in-kernel'],
      [{ processes: process.ppid }, 'samples-of-processes'],
    ];
    for (const [more, code] of handlers)
      await assert.rejects(
        registerUprobe({ pathname, symbol: 'text', engine: 'kernel', ...more }),
        (e) => e instanceof RefusedError && e.code === code,
      );
  });

  void it('want no more descriptors than there may be: too-many-events', async () => {
    const path = privateCopy(compileFixture('calls'));
    const limit = Number(/^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'latin1'))![1]);
    const module = { id: 1, dev: 0n, ino: 0n, path, fd: -1 };
    const consumer: Consumer = { id: 1, processes: 'all', pre: false, post: false, fault: false, return: false, deadline: 1 }; // prettier-ignore
    const sites = Array.from({ length: limit }, (_, id) => ({ id, module, offset: id }) as unknown as SiteFacts); // prettier-ignore
    const keeper = new Keeper();
    await assert.rejects(
      SampleGroup.arm(
        sites.map((site) => ({ site, consumer })),
        new Sampler(new Drain()),
        keeper,
      ),
      (e) => e instanceof RefusedError && e.code === 'too-many-events' && e.message.includes(`${limit}`),
    );
    keeper.close();
  });

  void it('leave no breakpoint behind when we are killed', { timeout: 60_000 }, async () => {
    const hammer = privateCopy(compileFixture('hammer'));
    const target = await startProgram(hammer);
    const leaks = (): number =>
      (spawnSync('dmesg', { encoding: 'utf8' }).stdout.match(/leaking uprobe/g) ?? []).length;
    const leaked = leaks();
    for (const [way, delay] of [
      ['hold', 0],
      ['churn', 60],
      ['churn', 200],
    ] as const) {
      // prettier-ignore
      const child = spawn(process.execPath, [HOLDER, hammer, way], { stdio: ['ignore', 'pipe', 'inherit'] });
      await once(child.stdout, 'data');
      assert.notDeepEqual(changedTexts(target.pid), []);
      await new Promise((resolve) => setTimeout(resolve, delay));
      child.kill('SIGKILL');
      await once(child, 'close');
      await until('its text is what it was', () => changedTexts(target.pid).length === 0);
    }
    assert.equal(leaks(), leaked);
    assert.match(await target.finish(), /^0 wrong/);
  });
});
