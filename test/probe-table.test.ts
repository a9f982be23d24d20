import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { copyFileSync, linkSync, renameSync, symlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, it } from 'node:test';
import { FileError, PlaceError, ProcessError, RefusedError, UprobeError } from '#uprobe/base/errors.js';
import type { ArmState, HandlerError, Hit, UprobeSpec } from '#uprobe/probe/types.js';
import { privateCopy, compileFixture } from './helpers/compile.js';
import { fakeSystem } from './helpers/fake-engine.js';
import { victim } from './helpers/victim.js';

const pid = victim();
const other = victim();
const program = compileFixture('calls', { flags: ['-O1'] });

const spec = (fields: object = {}): UprobeSpec => ({
  pathname: program,
  symbol: 'add',
  processes: pid,
  ...fields,
});

void describe('uprobes on one place', () => {
  void it('run in registration order, each seeing the registers its predecessor left', async () => {
    const { engine, registerAll } = fakeSystem();
    const seen: [string, bigint][] = [];
    const handler = (name: string) => (hit: Hit) => {
      seen.push([name, hit.regs.ax]);
      hit.regs.ax = hit.regs.ax + 1n;
      return undefined;
    };
    const group = await registerAll(['a', 'b', 'c'].map((n) => spec({ preHandler: handler(n) })));
    const regs = new BigUint64Array(27);
    engine.hit(group.at(0)!, { pid, regs });
    assert.deepEqual(seen, [['a', 0n], ['b', 1n], ['c', 2n]]); // prettier-ignore
    assert.equal(regs[10], 3n);
    assert.equal(engine.armed.size, 1);
    assert.deepEqual([...group].map((u) => u.nhits), [1n, 1n, 1n]); // prettier-ignore
  });

  void it('skip the instruction when any of them says so, and all run', async () => {
    const { engine, registerAll } = fakeSystem();
    let ran = 0;
    const group = await registerAll([
      spec({ preHandler: () => 'skip' }),
      spec({ preHandler: () => void ran++ }),
    ]);
    assert.equal(engine.hit(group.at(0)!, { pid }).skip, true);
    assert.equal(ran, 1);
    assert.equal(engine.hit(group.at(0)!, { pid: other }).skip, false);
  });

  void it('are called only for their own processes', async () => {
    const { engine, registerAll } = fakeSystem();
    const group = await registerAll([
      spec({ preHandler: () => undefined }),
      spec({ preHandler: () => undefined, processes: [pid, other] }),
    ]);
    engine.hit(group.at(0)!, { pid: other });
    assert.deepEqual([...group].map((u) => u.nhits), [0n, 1n]); // prettier-ignore
  });

  void it('come and go one by one, and only the last disarms the place', async () => {
    const { engine, table, registerOne } = fakeSystem();
    const first = await registerOne(spec());
    const second = await registerOne(spec());
    assert.equal(engine.applied.length, 2);
    await first.unregister();
    assert.deepEqual([...engine.armed.values()].map((c) => c.map((x) => x.id)), [[second.id]]); // prettier-ignore
    assert.equal(table.modules().length, 1);
    await second.unregister();
    assert.equal(engine.armed.size, 0);
    assert.equal(table.modules().length, 0);
  });

  void it('that are removed in their own handler are not called again, and it resolves afterwards', async () => {
    const { engine, registerOne } = fakeSystem();
    let calls = 0;
    let done = false;
    const uprobe = await registerOne(
      spec({
        preHandler: (hit: Hit) => {
          calls++;
          void hit.uprobe.unregister().then(() => (done = true));
          assert.equal(done, false);
          return undefined;
        },
      }),
    );
    const siteId = engine.siteOf(uprobe);
    engine.hit(siteId, { pid });
    engine.hit(siteId, { pid });
    assert.equal(calls, 1);
    await uprobe.unregister();
    assert.ok(done);
    assert.equal(uprobe.state, 'gone');
    assert.equal(engine.armed.size, 0);
  });

  void it("go after this hit when a handler says 'remove'", async () => {
    const { engine, registerAll } = fakeSystem();
    const group = await registerAll([
      spec({ preHandler: () => 'remove' }),
      spec({ preHandler: () => undefined }),
      spec({ postHandler: () => 'remove' }),
    ]);
    const siteId = engine.siteOf(group.at(0)!);
    engine.hit(siteId, { pid });
    engine.hit(siteId, { pid, phase: 'post' });
    engine.hit(siteId, { pid });
    engine.hit(siteId, { pid, phase: 'post' });
    assert.deepEqual([...group].map((u) => u.nhits), [1n, 2n, 1n]); // prettier-ignore
    await new Promise(setImmediate);
    assert.deepEqual([...group].map((u) => u.state), ['gone', 'armed', 'gone']); // prettier-ignore
    assert.deepEqual([...engine.armed.values()].flat().map((c) => c.id), [group.at(1)!.id]); // prettier-ignore
  });

  void it('with both handlers count a hit once', async () => {
    const { engine, registerOne } = fakeSystem();
    const uprobe = await registerOne(spec({ preHandler: () => undefined, postHandler: () => undefined }));
    engine.hit(uprobe, { pid });
    engine.hit(uprobe, { pid, phase: 'post' });
    assert.equal(uprobe.nhits, 1n);
  });

  void it('without handlers are counted by the engine, also after they are gone', async () => {
    const { engine, registerOne } = fakeSystem();
    const uprobe = await registerOne(spec());
    assert.deepEqual(engine.applied[0]![0]!.consumers[0], {
      id: uprobe.id,
      processes: [pid],
      pre: false,
      post: false,
      fault: false,
      return: false,
      programs: {},
      deadline: 1000,
    });
    engine.counts.set(uprobe.id, 5n);
    assert.equal(uprobe.nhits, 5n);
    await uprobe.unregister();
    engine.counts.clear();
    assert.equal(uprobe.nhits, 5n);
  });
});

void describe('a handler that fails', () => {
  void it('is counted and reported, changes no register, and the others run', async () => {
    const { engine, registerAll } = fakeSystem();
    const errors: HandlerError[] = [];
    const group = await registerAll([
      spec({
        preHandler: (hit: Hit) => {
          hit.regs.ip = 1n;
          throw new Error('ouch');
        },
        onError: (e: HandlerError) => errors.push(e),
      }),
      spec({ preHandler: (hit: Hit) => void (hit.regs.ax = 7) }),
    ]);
    const regs = new BigUint64Array(27);
    assert.deepEqual(engine.hit(group.at(0)!, { pid, tid: 99, regs }), { skip: false, changed: true });
    assert.deepEqual([regs[16], regs[10]], [0n, 7n]);
    assert.equal(group.at(0)!.nerrors, 1n);
    const [error] = errors;
    assert.deepEqual([error?.kind, error?.pid, error?.tid, error?.uprobe], ['pre', pid, 99, group.at(0)]);
    assert.match(String(error?.error), /ouch/);
  });

  void it('and only reads, or fails after it wrote, leaves the engine nothing to write', async () => {
    const { engine, registerAll } = fakeSystem();
    const group = await registerAll([
      spec({ preHandler: (hit: Hit) => void hit.regs.ip }),
      spec({
        preHandler: (hit: Hit) => {
          hit.regs.di = 1n;
          throw new Error('ouch');
        },
        onError: () => undefined,
      }),
    ]);
    assert.deepEqual(engine.hit(group.at(0)!, { pid }), { skip: false, changed: false });
  });

  void it('without onError is a warning of the process, once', async () => {
    const { engine, registerOne } = fakeSystem();
    const warnings: Error[] = [];
    const listen = (w: Error): void => void warnings.push(w);
    process.on('warning', listen);
    const uprobe = await registerOne(
      spec({
        preHandler: () => {
          throw new Error('ouch');
        },
      }),
    );
    for (let i = 0; i < 3; i++) engine.hit(uprobe, { pid });
    await new Promise(setImmediate);
    process.off('warning', listen);
    assert.equal(uprobe.nerrors, 3n);
    assert.equal(warnings.length, 1);
    assert.match(warnings[0]!.message, /calls:add threw.*ouch/);
  });

  void it('by being asynchronous in disguise is an error, and its rejection harms nobody', async () => {
    const { engine, registerOne } = fakeSystem();
    const errors: HandlerError[] = [];
    const hidden = async (): Promise<never> => {
      await Promise.resolve();
      throw new Error('later');
    };
    const uprobe = await registerOne(
      spec({
        preHandler: (() => hidden()) as unknown as () => undefined,
        onError: (e: HandlerError) => errors.push(e),
      }),
    );
    engine.hit(uprobe, { pid });
    await new Promise(setImmediate);
    assert.ok(errors[0]?.error instanceof TypeError);
    assert.equal(uprobe.nerrors, 1n);
  });

  void it('by returning a word that means nothing is an error; other values are by-products', async () => {
    const { engine, registerOne } = fakeSystem();
    const said: string[] = [];
    const returning = (fields: Record<string, () => unknown>): UprobeSpec =>
      spec({ ...fields, onError: (e: HandlerError) => said.push(String(e.error)) });
    const misspelt = await registerOne(returning({ preHandler: () => 'Skip' }));
    const late = await registerOne(returning({ postHandler: () => 'skip' }));
    const counting = await registerOne(returning({ preHandler: () => 7 }));
    assert.deepEqual(engine.hit(misspelt, { pid }), { skip: false, changed: false });
    engine.hit(late, { pid, phase: 'post' });
    assert.deepEqual([misspelt.nerrors, late.nerrors, counting.nerrors], [1n, 1n, 0n]);
    assert.match(said[0]!, /TypeError: the handler returned "Skip": it may return 'skip' or 'remove'/);
    assert.match(said[1]!, /TypeError: the post handler returned "skip": it may return 'remove'/);
  });

  void it('cannot keep the hit: it is over when the handler returns', async () => {
    const { engine, registerOne } = fakeSystem();
    const kept: Hit[] = [];
    const uprobe = await registerOne(
      spec({
        preHandler: (hit: Hit) => {
          kept.push(hit);
          void hit.regs;
          return undefined;
        },
      }),
    );
    let regs: Hit['regs'] | undefined;
    const keeping = await registerOne(spec({ preHandler: (hit: Hit) => void (regs = hit.regs) }));
    engine.hit(uprobe, { pid });
    engine.hit(keeping, { pid });
    const over = (e: unknown): boolean => e instanceof UprobeError && e.code === 'hit-is-over';
    for (const use of [
      () => kept[0]!.pid,
      () => kept[0]!.regs,
      () => kept[0]!.arg(0),
      () => kept[0]!.read(0n, 'u8'),
      () => kept[0]!.comm,
      () => kept[0]!.uprobe,
      () => regs!.ax,
      () => (regs!.ax = 1n),
      () => JSON.stringify(regs),
    ])
      assert.throws(use, over);
  });

  void it('beyond the deadline is counted as missed, by the engine, and its verdict is nothing', async () => {
    const { engine, registerAll } = fakeSystem();
    let alive = true;
    let ran = 0;
    const group = await registerAll([
      spec({ preHandler: () => void (alive = false) }),
      spec({ preHandler: () => void ran++ }),
    ]);
    const siteId = engine.siteOf(group.at(0)!);
    engine.hit(siteId, { pid, alive: () => alive });
    engine.sink.missed(siteId, pid, [], 'pre', 'late');
    assert.equal(ran, 0);
    assert.deepEqual([...group].map((u) => [u.nhits, u.nmissed]), [[0n, 1n], [0n, 1n]]); // prettier-ignore
    engine.sink.missed(siteId, other, [], 'pre', 'late');
    engine.sink.missed(siteId, pid, [], 'post', 'late');
    assert.deepEqual([...group].map((u) => u.nmissed), [1n, 1n]); // prettier-ignore
  });
});

void describe('a transaction', () => {
  const nothingLeft = ({ table, engine }: ReturnType<typeof fakeSystem>): void => {
    assert.equal(table.registrations().length, 0);
    assert.equal(table.modules().length, 0);
    assert.equal(engine.armed.size, 0);
  };

  void it('registers all its places with one call of the engine', async () => {
    const { engine, registerAll } = fakeSystem();
    const group = await registerAll(['add', 'fact', 'many'].map((symbol) => spec({ symbol })));
    assert.equal(engine.applied.length, 1);
    assert.deepEqual([...group].map((u) => u.symbol), ['add', 'fact', 'many']); // prettier-ignore
    assert.equal(group.size, 3);
    await group.unregister();
    assert.equal(engine.applied.length, 2);
    await group.unregister();
    assert.equal(engine.applied.length, 2);
  });

  void it('with one bad place leaves nothing behind, and touches no process', async () => {
    const system = fakeSystem();
    await assert.rejects(system.registerAll([spec(), spec({ symbol: 'ad' })]), PlaceError);
    assert.equal(system.engine.applied.length, 0);
    nothingLeft(system);
  });

  void it('that the engine cannot arm leaves nothing behind', async () => {
    const system = fakeSystem();
    system.engine.failure = new ProcessError('gone', pid, 'gone');
    await assert.rejects(system.registerAll([spec(), spec({ symbol: 'fact' })]), ProcessError);
    nothingLeft(system);
    const uprobe = await system.registerOne(spec());
    assert.equal(uprobe.state, 'armed');
  });

  void it('that fails leaves those that were there before', async () => {
    const { engine, registerOne } = fakeSystem();
    const first = await registerOne(spec({ preHandler: () => undefined }));
    engine.failure = new Error('no');
    await assert.rejects(registerOne(spec({ preHandler: () => undefined })));
    engine.hit(first, { pid });
    assert.equal(first.nhits, 1n);
    assert.deepEqual([...engine.armed.values()].flat().map((c) => c.id), [first.id]); // prettier-ignore
  });

  void it('is undone when its signal aborts before, or while, the engine works', async () => {
    const system = fakeSystem();
    const early = AbortSignal.abort(new Error('early'));
    await assert.rejects(system.registerOne(spec({ signal: early })), /early/);
    const controller = new AbortController();
    let open = (): void => undefined;
    system.engine.gate = new Promise((resolve) => (open = resolve));
    const registering = system.registerAll([spec(), spec({ signal: controller.signal })]);
    await new Promise(setImmediate);
    controller.abort(new Error('meanwhile'));
    open();
    await assert.rejects(registering, /meanwhile/);
    nothingLeft(system);
  });

  void it('is unregistered when its signal aborts later', async () => {
    const system = fakeSystem();
    const controller = new AbortController();
    const { signal } = controller;
    const group = await system.registerAll([spec({ signal }), spec({ symbol: 'fact', signal })]);
    controller.abort();
    await group.unregister();
    nothingLeft(system);
    assert.equal(system.engine.applied.length, 2);
  });

  void it('lets go of its signal when its last uprobe is gone', async () => {
    const system = fakeSystem();
    const { signal } = new AbortController();
    const group = await system.registerAll([spec({ signal }), spec({ symbol: 'fact', signal })]);
    assert.equal(getEventListeners(signal, 'abort').length, 1);
    await group.at(0)!.unregister();
    assert.equal(getEventListeners(signal, 'abort').length, 1);
    await group.unregister();
    assert.equal(getEventListeners(signal, 'abort').length, 0);
  });

  void it('that is refused in every process is an error with the refusal', async () => {
    const system = fakeSystem();
    const refusal = { code: 'text-already-patched', reason: 'somebody was here' };
    system.engine.report = { state: 'refused', refusal };
    await assert.rejects(
      system.registerOne(spec()),
      (e) => e instanceof RefusedError && e.refusal.code === 'text-already-patched',
    );
    nothingLeft(system);
  });

  void it('that an engine refuses says which instruction', async () => {
    const system = fakeSystem();
    system.engine.refusal = { code: 'odd', reason: 'it is odd', remedy: 'Do something else' };
    await assert.rejects(
      system.registerOne(spec()),
      /calls:add\+0x0 \(.+\): it is odd\. Do something else \(odd\)/,
    );
    system.engine.refusal = undefined;
    await assert.rejects(
      system.registerOne(spec({ engine: 'jump' })),
      (e) => e instanceof RefusedError && e.code === 'engine-not-available',
    );
    nothingLeft(system);
  });

  void it('that forces another engine than the place is armed by says so', async () => {
    const { registerOne } = fakeSystem({ withJump: true });
    const first = await registerOne(spec({ engine: 'trap' }));
    await assert.rejects(registerOne(spec({ engine: 'jump' })), {
      name: 'RefusedError',
      code: 'other-engine',
    });
    await first.unregister();
    await (await registerOne(spec({ engine: 'jump' }))).unregister();
  });

  void it('does not take processes that must not be probed', async () => {
    const system = fakeSystem();
    for (const processes of [process.pid, 1, [pid, 4_194_300]])
      await assert.rejects(system.registerOne(spec({ processes })), ProcessError);
    for (const tree of [process.pid, process.ppid, 1, 4_194_300])
      await assert.rejects(system.registerOne(spec({ processes: { tree } })), ProcessError);
    await assert.rejects(
      system.registerOne(spec({ processes: 'all' })),
      (e) => e instanceof RefusedError && e.code === 'needs-processes',
    );
    nothingLeft(system);
  });
});

void describe('a tree of processes', () => {
  const child = 1_000_001;

  void it('calls the handlers in each of its processes, and in no other', async () => {
    const { engine, registerOne } = fakeSystem();
    const uprobe = await registerOne(spec({ processes: { tree: pid }, preHandler: () => undefined }));
    engine.hit(uprobe, { pid, trees: [pid] });
    engine.hit(uprobe, { pid: child, trees: [other, pid] });
    engine.hit(uprobe, { pid: child, trees: [other] });
    engine.hit(uprobe, { pid });
    assert.equal(uprobe.nhits, 2n);
    engine.sink.missed(engine.siteOf(uprobe), child, [pid], 'pre', 'too late');
    engine.sink.missed(engine.siteOf(uprobe), child, [other], 'pre', 'too late');
    assert.equal(uprobe.nmissed, 1n);
  });

  void it('knows a new process as its parent, tells of it, and forgets it at its end', async () => {
    const { engine, registerOne } = fakeSystem();
    const states: [number, string][] = [];
    const onState = (s: ArmState): void => void states.push([s.pid, s.state]);
    const uprobe = await registerOne(spec({ processes: { tree: pid }, onState }));
    const alone = await registerOne(spec({ onState }));
    states.length = 0;
    for (let i = 0; i < 5; i++) {
      engine.sink.born(child + i, pid, [pid]);
      assert.deepEqual(uprobe.processes().map((s) => [s.pid, s.state]), [[pid, 'armed'], [child + i, 'armed']]); // prettier-ignore
      assert.deepEqual(alone.processes().map((s) => s.pid), [pid]); // prettier-ignore
      engine.sink.ended(child + i);
      assert.deepEqual(states.splice(0), [[child + i, 'armed'], [child + i, 'gone']]); // prettier-ignore
    }
    assert.equal(uprobe.processes().length, 1);
  });

  void it('is armed after its root has ended, and gone with its last process', async () => {
    const { engine, registerOne } = fakeSystem();
    const uprobe = await registerOne(spec({ processes: { tree: pid } }));
    engine.sink.born(child, pid, [pid]);
    engine.sink.ended(pid);
    assert.equal(uprobe.state, 'armed');
    engine.sink.ended(child);
    engine.sink.treeEnded(pid);
    assert.equal(uprobe.state, 'gone');
    assert.deepEqual(uprobe.processes().map((s) => [s.pid, s.state]), [[pid, 'gone']]); // prettier-ignore
  });

  void it('does not take a later process for a named one whose pid it has', async () => {
    const { engine, registerAll } = fakeSystem();
    const group = await registerAll([
      spec({ processes: [pid, other], preHandler: () => undefined }),
      spec({ processes: { tree: other }, preHandler: () => undefined }),
    ]);
    engine.sink.ended(pid);
    engine.sink.born(pid, other, [other]);
    engine.hit(group.at(0)!, { pid, trees: [other] });
    assert.deepEqual([...group].map((u) => u.nhits), [0n, 1n]); // prettier-ignore
    assert.deepEqual(group.at(0)!.processes().map((s) => [s.pid, s.state]), [[pid, 'gone'], [other, 'armed']]); // prettier-ignore
    assert.deepEqual(group.at(1)!.processes().map((s) => [s.pid, s.state]), [[other, 'armed'], [pid, 'armed']]); // prettier-ignore
  });
});

void describe('many callers at once', () => {
  void it('are served one after the other for each module', async () => {
    const { engine, table, registerOne } = fakeSystem();
    const symbols = ['add', 'fact', 'many', 'text'];
    const all = await Promise.all(
      Array.from({ length: 40 }, async (_, i) => {
        const uprobe = await registerOne(spec({ symbol: symbols[i % 4], preHandler: () => undefined }));
        if (i % 3 === 0) await uprobe.unregister();
        return uprobe;
      }),
    );
    assert.equal(engine.mostAtOnce, 1);
    const alive = all.filter((u) => u.state === 'armed').map((u) => u.id);
    assert.deepEqual([...engine.armed.values()].flat().map((c) => c.id).toSorted((a, b) => a - b), alive.toSorted((a, b) => a - b)); // prettier-ignore
    await Promise.all(all.map((u) => u.unregister()));
    assert.equal(engine.armed.size, 0);
    assert.equal(table.modules().length, 0);
  });

  void it('that unregister together are taken out together', async () => {
    const { engine, registerAll } = fakeSystem();
    const group = await registerAll(Array.from({ length: 100 }, () => spec()));
    await Promise.all([...group].map((u) => u.unregister()));
    assert.equal(engine.applied.length, 2);
  });

  void it('with several modules in opposite orders do not wait for each other forever', async () => {
    const { engine, table, registerAll } = fakeSystem();
    const [a, b] = [privateCopy(program), privateCopy(program)];
    const groups = await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        registerAll((i % 2 === 0 ? [a, b] : [b, a]).map((pathname) => spec({ pathname }))),
      ),
    );
    assert.equal(table.modules().length, 2);
    await Promise.all(groups.map((g) => g.unregister()));
    assert.equal(engine.armed.size, 0);
    assert.equal(engine.mostAtOnce, 1);
  });

  void it('may unregister what is only being registered', async () => {
    const { engine, registerOne } = fakeSystem();
    let open = (): void => undefined;
    engine.gate = new Promise((resolve) => (open = resolve));
    const registering = registerOne(spec({ preHandler: () => 'remove' }));
    while (engine.applied.length === 0) await new Promise(setImmediate);
    engine.hit(engine.applied[0]![0]!.site.id, { pid });
    open();
    const uprobe = await registering;
    await uprobe.unregister();
    assert.equal(uprobe.nhits, 1n);
    assert.equal(uprobe.state, 'gone');
    assert.equal(engine.armed.size, 0);
  });
});

void describe('a module', () => {
  void it('is one for all paths to one inode', async () => {
    const { table, registerAll } = fakeSystem();
    const path = privateCopy(program);
    const [hard, soft] = [`${path}.hard`, `${path}.soft`];
    linkSync(path, hard);
    symlinkSync(path, soft);
    const group = await registerAll(
      [path, hard, soft, join(dirname(path), '.', 'calls')].map((p) => spec({ pathname: p })),
    );
    assert.equal(table.modules().length, 1);
    assert.equal(table.modules()[0]!.sites.size, 1);
    assert.equal(new Set([...group].map((u) => u.module)).size, 1);
    await group.unregister();
  });

  void it('is another when the file was replaced', async () => {
    const { table, registerOne } = fakeSystem();
    const path = privateCopy(program);
    const old = await registerOne(spec({ pathname: path }));
    copyFileSync(program, `${path}.new`);
    renameSync(`${path}.new`, path);
    const fresh = await registerOne(spec({ pathname: path }));
    assert.notEqual(old.module, fresh.module);
    assert.notEqual(old.module.ino, fresh.module.ino);
    assert.equal(table.modules().length, 2);
    assert.equal(old.state, 'armed');
    await Promise.all([old.unregister(), fresh.unregister()]);
    assert.equal(table.modules().length, 0);
  });

  void it('is there from the first uprobe to the last', async () => {
    const { table, registerOne } = fakeSystem();
    const [first, second] = [await registerOne(spec()), await registerOne(spec({ symbol: 'fact' }))];
    assert.deepEqual(first.module.uprobes, [first, second]);
    assert.match(first.module.buildId ?? '', /^[0-9a-f]{40}$/);
    await first.unregister();
    assert.deepEqual(second.module.uprobes, [second]);
    await second.unregister();
    assert.equal(table.registrations().length, 0);
  });

  void it('shows each uprobe in each of its processes as the engine tells it', async () => {
    const { engine, registerOne } = fakeSystem();
    engine.report = { state: 'pending' };
    const states: ArmState[] = [];
    const uprobe = await registerOne(
      spec({ processes: [pid, other], onState: (s: ArmState) => states.push(s) }),
    );
    assert.equal(uprobe.state, 'pending');
    const siteId = engine.siteOf(uprobe);
    engine.sink.state({ siteId, pid, state: 'armed' });
    engine.sink.state({ siteId, pid, state: 'armed' });
    assert.equal(uprobe.state, 'armed');
    assert.deepEqual(uprobe.processes(), [
      { pid, state: 'armed', engine: 'trap' },
      { pid: other, state: 'pending', engine: 'trap' },
    ]);
    engine.sink.ended(pid);
    assert.equal(uprobe.state, 'pending');
    engine.sink.ended(other);
    assert.equal(uprobe.state, 'gone');
    assert.deepEqual(
      states.map((s) => `${s.pid === pid ? 'one' : 'other'} ${s.state}`),
      ['one pending', 'other pending', 'one armed', 'one gone', 'other gone'],
    );
    await uprobe.unregister();
  });

  void it('loses its uprobes when the engine fails, and they say so', async () => {
    const { engine, registerOne } = fakeSystem();
    const errors: HandlerError[] = [];
    const uprobe = await registerOne(spec({ onError: (e: HandlerError) => errors.push(e) }));
    engine.sink.failed(new Error('crash'));
    await uprobe.unregister();
    assert.equal(uprobe.state, 'gone');
    assert.equal(uprobe.processes()[0]?.refusal?.code, 'engine-failed');
    assert.equal(errors[0]?.kind, 'uprobe');
  });

  void it('is an error when there is no such file', async () => {
    const { registerOne } = fakeSystem();
    await assert.rejects(registerOne(spec({ pathname: '/nowhere/x' })), FileError);
  });
});

void describe('a great many uprobes', () => {
  void it('register within seconds, and a hit finds its own at once', async (t) => {
    const { engine, table, registerAll } = fakeSystem();
    const node = process.execPath;
    const { CodeFile } = await import('#uprobe/probe/code-file.js');
    const { OpenedFile } = await import('#uprobe/process/opened-file.js');
    const code = new CodeFile(OpenedFile.open(node));
    const offsets = new Set<number>();
    for (const f of code.symbols.functions()) {
      const offset = code.image.addressToOffset(f.address);
      if (offset === undefined || code.image.executableAt(offset) === undefined) continue;
      // Functions' entries first; then, within the larger ones, the second instruction too.
      offsets.add(offset);
      const first = code.instructionAt(f.address);
      if (first !== undefined && f.size > 64) offsets.add(offset + first.bytes.length);
      if (offsets.size >= 100_000) break;
    }
    const handler = (): undefined => undefined;
    const specs = [...offsets].map((offset) => ({
      pathname: node,
      offset,
      processes: pid,
      preHandler: handler,
    }));
    const start = performance.now();
    const group = await registerAll(specs);
    const registered = performance.now() - start;
    assert.equal(group.size, specs.length);
    const raw = engine.rawHit(group.at(0)!, { pid });
    const probe = (): number => {
      const begin = performance.now();
      for (let i = 0; i < 100_000; i++) engine.sink.hit(raw);
      return ((performance.now() - begin) / 100_000) * 1e6;
    };
    probe();
    const hit = probe();
    const again = performance.now();
    await group.unregister();
    t.diagnostic(
      `${specs.length} uprobes registered in ${registered.toFixed(0)} ms, removed in ` +
        `${(performance.now() - again).toFixed(0)} ms; a hit among them costs ${hit.toFixed(0)} ns`,
    );
    assert.equal(table.modules().length, 0);
    assert.ok(registered < 20_000);
  });
});
