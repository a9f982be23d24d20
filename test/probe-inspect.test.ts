import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { describe, it } from 'node:test';
import { PlaceError, openModule, version } from '#uprobe/index.js';
import { compileFixture, linkedPair } from './helpers/compile.js';

void describe('looking at a program', () => {
  const path = compileFixture('calls', { flags: ['-O1', '-fPIE', '-pie'] });

  void it('lists its functions as nm does', () => {
    using view = openModule(path);
    const wanted = execFileSync('nm', ['--defined-only', path], { encoding: 'utf8' })
      .split('\n')
      .flatMap((line) => /^([0-9a-f]+) [TtWwi] (\w+)$/.exec(line)?.slice(1, 3) ?? [])
      .join(' ');
    const functions = [...view.functions()];
    for (const f of functions) assert.ok(wanted.includes(f.name) || f.name.includes('.'), f.name);
    const add = functions.find((f) => f.name === 'add')!;
    assert.match(wanted, new RegExp(`0*${add.address.toString(16)} add\\b`));
    assert.equal(add.kind, 'func');
    assert.deepEqual(functions.map((f) => f.address), functions.map((f) => f.address).toSorted((a, b) => Number(a - b))); // prettier-ignore
  });

  void it('matches all names of a function', () => {
    const { library } = linkedPair();
    using view = openModule(library);
    const [found, ...others] = view.matching('lib_work_al*');
    assert.equal(others.length, 0);
    assert.equal(found?.name, 'lib_work');
    assert.deepEqual(found.aliases, ['lib_work_alias']);
    assert.equal([...view.matching('lib_fast')][0]?.kind, 'ifunc');
    assert.deepEqual([...view.matching('lib_versioned*')].map((f) => f.name).toSorted(), ['lib_versioned', 'lib_versioned@LIB_1.0', 'lib_versioned_new', 'lib_versioned_old'].filter((n) => [...view.functions()].some((f) => f.name === n))); // prettier-ignore
  });

  void it('shows the instructions of a function as objdump does', () => {
    using view = openModule(path);
    const [add] = view.matching('add');
    const lines = execFileSync('objdump', ['-d', '--no-show-raw-insn', '--disassemble=add', path], {
      encoding: 'utf8',
    });
    const starts = [...lines.matchAll(/^\s+([0-9a-f]+):\t/gm)].map((m) => BigInt(`0x${m[1]}`));
    const instructions = [...view.instructions(add!)];
    assert.deepEqual(instructions.map((i) => i.address), starts); // prettier-ignore
    assert.deepEqual(instructions.map((i) => i.symbolOffset), starts.map((s) => Number(s - add!.address))); // prettier-ignore
    assert.match(instructions.at(-1)!.text, /^ret/);
  });

  void it('ends functions without a size where they end: at their section, or before the padding', () => {
    using view = openModule(path);
    // crtstuff.c and crti.S: functions that every program has and no compiler measured
    for (const name of ['_init', '_fini', 'deregister_tm_clones', 'register_tm_clones', 'frame_dummy']) {
      const [found] = view.matching(name);
      assert.equal(found?.size, 0, name);
      const instructions = [...view.instructions(found)];
      assert.match(instructions.at(-1)!.text, /^(ret|jmp)/, name);
      for (const { offset, text } of instructions)
        assert.equal(view.plan({ offset }).chosen, 'trap', `${name}: ${text}`);
    }
    const sections = execFileSync('readelf', ['-SW', path], { encoding: 'utf8' });
    const plt = BigInt(`0x${/ \.plt +PROGBITS +([0-9a-f]+)/.exec(sections)![1]}`);
    assert.equal(view.plan({ addr: plt }).symbol, undefined, '_init does not reach into the next section');
  });

  void it('plans a probe as registering would, and touches no process', () => {
    using view = openModule(path);
    const plan = view.plan({ symbol: 'add' });
    assert.equal(plan.chosen, 'trap');
    assert.deepEqual(plan.engines.map((e) => [e.engine, e.refusal?.code]), [['trap', undefined], ['jump', 'engine-not-available'], ['kernel', 'plain-handler']]); // prettier-ignore
    assert.deepEqual([plan.symbol, plan.symbolOffset, plan.path], ['add', 0, path]);
    assert.throws(() => view.plan({ symbol: 'ad' }), PlaceError);
    assert.equal(view.plan({ symbol: 'add' }, { processes: 'all' }).chosen, undefined);
    assert.equal(
      view.plan({ symbol: 'add' }, { processes: 'all' }).engines[0]?.refusal?.code,
      'needs-processes',
    );
  });

  void it('knows what a name means for a program that will be started', () => {
    const { program, library } = linkedPair();
    using view = openModule('liblibrary', { command: program });
    assert.equal(view.path, library);
  });

  void it('lists all of node within a second or so', (t) => {
    const start = performance.now();
    using view = openModule(process.execPath);
    let count = 0;
    for (const f of view.functions()) count += f.name.length > 0 ? 1 : 0;
    const took = performance.now() - start;
    t.diagnostic(`${count} functions in ${took.toFixed(0)} ms`);
    assert.ok(count > 10_000 && took < 5000);
  });

  void it('is of the version of its package', () => {
    assert.match(version, /^\d+\.\d+\.\d+/);
  });
});
