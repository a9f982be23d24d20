/** Functions that a program chooses when it starts: what is probed is what it calls. */
import assert from 'node:assert/strict';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { openModule, PlaceError, registerUprobe, registerUprobes, spawnTarget } from 'uprobe';
import type { Hit, ModuleView, UprobeGroup } from 'uprobe';
import { ElfImage } from '#uprobe/elf/image.js';
import { Relocations } from '#uprobe/elf/relocations.js';
import { loadBiases } from '#uprobe/process/load-bias.js';
import { readMaps } from '#uprobe/process/maps.js';
import { OpenedFile } from '#uprobe/process/opened-file.js';
import { compileFixture, linkedPair, privateCopy } from '../helpers/compile.js';
import { stepCounts } from '../helpers/oracle.js';
import { startProgram, until } from '../helpers/running.js';

const CALLS = 10;
const ROUNDS = 3;
const BUILDS: readonly { what: string; flags: readonly string[]; isStatic?: true }[] = [
  { what: 'a position-independent program', flags: ['-O1', '-fPIE', '-pie'] },
  { what: 'a program at a fixed address', flags: ['-O1', '-no-pie', '-fno-pie'] },
  { what: 'an unoptimised program', flags: ['-O0', '-no-pie', '-fno-pie'] },
  { what: 'a static program', flags: ['-O1', '-static', '-no-pie', '-fno-pie'], isStatic: true },
  { what: 'a static position-independent program', flags: ['-O1', '-static-pie', '-fPIE'], isStatic: true },
];
const programOf = (flags: readonly string[]): string => privateCopy(compileFixture('ifunc', { flags }));

/** What the program says of itself at its end. */
function saidBy(output: string): Record<string, number> {
  const said: Record<string, number> = {};
  for (const [, name, value] of output.matchAll(/(\w+)=(\w+)/g)) said[name!] = Number(value);
  return said;
}

/** The own names of the functions that an ifunc stands for, in those processes or in any. */
const namesOf = (view: ModuleView, symbol: string, processes?: number): (string | undefined)[] =>
  view.plans({ symbol }, processes === undefined ? {} : { processes }).map((p) => p.ifunc?.name);

for (const { what, flags, isStatic = false } of BUILDS) {
  test(`${what} that is started here: each function that it may choose is probed, and one of them is called`, async () => {
    const program = programOf(flags);
    const target = await spawnTarget(program, [String(CALLS)], { stdio: ['ignore', 'pipe', 'inherit'] });
    const place = { pathname: program, processes: target };
    const group = await registerUprobes([
      { ...place, symbol: 'chosen' },
      { ...place, symbol: 'pointed' },
      { ...place, symbol: 'vector' },
    ]);
    const [chosen, pointed, vector] = [group.of(0), group.of(1), group.of(2)];
    assert.deepEqual([chosen.length, pointed.length, vector.length, group.size], [3, 1, 1, 5]);
    assert.ok(chosen.every((u) => u.symbol === 'chosen' && u.symbolOffset === 0));
    const output = text(target.stdout!);
    await target.resume();
    assert.deepEqual(await target.exited, { code: 0, signal: null });
    const said = saidBy(await output);
    const called = chosen.find((u) => u.address === vector[0]!.address)!;
    assert.equal(called.nhits, BigInt(said['vector']!));
    assert.equal(vector[0]!.nhits, called.nhits, 'also where it is probed by its own name');
    assert.equal(sumOf(chosen), BigInt(said['plain']! + said['vector']! + said['rare']!));
    assert.equal(pointed[0]!.nhits, BigInt(said['pointed']!));
  });

  test(`${what} that runs: just the function that it has chosen is probed`, async () => {
    const program = programOf(flags);
    const running = await startProgram(program, [String(CALLS)]);
    const place = { pathname: program, processes: running.pid };
    const seen: bigint[] = [];
    const chosen = await registerUprobe({
      ...place,
      symbol: 'chosen',
      preHandler: (hit) => void seen.push(hit.arg(0)),
    });
    const pointed = await registerUprobe({ ...place, symbol: 'pointed' });
    const vector = await registerUprobe({ ...place, symbol: 'vector' });
    assert.equal(chosen.address, vector.address);
    await running.feed(ROUNDS);
    await until('every hit is counted', () => chosen.nhits >= BigInt(ROUNDS * CALLS));
    assert.deepEqual(
      seen,
      Array.from({ length: ROUNDS * CALLS }, (_, i) => BigInt(i % CALLS)),
    );
    assert.equal(pointed.nhits, BigInt((ROUNDS * CALLS) / 2));
    for (const uprobe of [chosen, pointed, vector]) await uprobe.unregister();
    assert.match(await running.finish(), /status 0$/);
  });

  const libc = isStatic ? 'the libc inside of it' : 'libc';
  test(`${what} that runs: strlen and memcpy of ${libc} are counted as often as it calls them`, async () => {
    const program = programOf(flags);
    const running = await startProgram(program, [String(CALLS)]);
    const place = { pathname: isStatic ? program : 'libc', processes: running.pid };
    const strlen = await registerUprobe({ ...place, symbol: 'strlen' });
    const memcpy = await registerUprobe({ ...place, symbol: 'memcpy' });
    await running.feed(ROUNDS);
    await until('every hit is counted', () => memcpy.nhits >= BigInt(ROUNDS * CALLS));
    assert.deepEqual([strlen.nhits, memcpy.nhits], [BigInt(ROUNDS * CALLS), BigInt(ROUNDS * CALLS)]);
    const maps = readMaps(running.pid);
    await strlen.unregister();
    await memcpy.unregister();
    const output = await running.finish();
    if (what !== 'a position-independent program') return; // elsewhere a function's address is that of a stub
    for (const { symbol, offset } of [strlen, memcpy]) {
      const address = saidBy(output)[symbol!]!;
      const mapping = maps.find((m) => address >= m.start && address < m.end)!;
      assert.equal(
        address - mapping.start + mapping.offset,
        offset,
        `the ${symbol} that the program itself sees`,
      );
    }
  });
}

const sumOf = (uprobes: Iterable<{ nhits: bigint }>): bigint =>
  [...uprobes].reduce((sum, u) => sum + u.nhits, 0n);

test('strlen, memcpy, memmove and strcspn of a program that is started here are counted as a single-stepping tracer counts them', async () => {
  const program = programOf(['-O1', '-fPIE', '-pie']);
  const names = ['strlen', 'memcpy', 'memmove', 'strcspn'];
  const target = await spawnTarget(program, ['25'], { stdio: 'ignore' });
  const place = { pathname: 'libc', processes: target };
  const group: UprobeGroup = await registerUprobes(names.map((symbol) => ({ ...place, symbol })));
  await target.resume();
  assert.equal((await target.exited).code, 0);
  const { counts } = await stepCounts(program, ['25'], group.at(0)!.module.path, { input: 'x' });
  for (const [i, name] of names.entries()) {
    assert.ok(group.of(i).length >= 2, name);
    assert.ok(sumOf(group.of(i)) >= 25n, name);
    for (const { offset, nhits } of group.of(i)) assert.equal(nhits, BigInt(counts.get(offset) ?? 0), name);
  }
  assert.equal(sumOf(group.of(1)), sumOf(group.of(2)), 'memcpy and memmove are the same code');
});

test('one that runs and one that is started: each gets what is known of it', async () => {
  const program = programOf(['-O1', '-fPIE', '-pie']);
  const running = await startProgram(program, [String(CALLS)]);
  const target = await spawnTarget(program, [String(CALLS)], { stdio: 'ignore' });
  const group = await registerUprobes([
    { pathname: program, symbol: 'chosen', processes: [running.pid, target.pid] },
  ]);
  using view = openModule(program);
  const vector = view.plan({ symbol: 'vector' }).offset;
  for (const uprobe of group)
    assert.deepEqual(
      uprobe.processes().map((p) => p.pid),
      uprobe.offset === vector ? [running.pid, target.pid] : [target.pid],
    );
  assert.equal(group.size, 3);
  await target.resume();
  assert.equal((await target.exited).code, 0);
  await running.feed(1);
  await until('every hit is counted', () => sumOf(group) >= BigInt(2 * CALLS + 3));
  await group.unregister();
  assert.match(await running.finish(), /status 0$/);
});

test('registerUprobe, which makes one uprobe, says which functions there are', async () => {
  await using target = await spawnTarget(programOf(['-O1', '-fPIE', '-pie']), [], { stdio: 'ignore' });
  const spec = { pathname: `/proc/${target.pid}/exe`, processes: target };
  await assert.rejects(registerUprobe({ ...spec, symbol: 'chosen' }), (e) => {
    assert.ok(e instanceof PlaceError);
    assert.equal(e.code, 'ifunc-symbol');
    assert.match(e.message, /one of 3.*registerUprobes.*plain at 0x\w+.*vector at 0x\w+.*rare at 0x\w+/);
    return true;
  });
  await assert.rejects(
    registerUprobes([{ ...spec, symbol: 'chosen', symbolOffset: 4 }]),
    /chosen\+0x4 is not one place/,
  );
  await assert.rejects(registerUprobes([{ ...spec, symbol: 'from_table' }]), /ifunc/);
});

test('what a resolver does not show is known of a process that runs', async () => {
  const program = programOf(['-O1', '-fPIE', '-pie']);
  const running = await startProgram(program, ['1']);
  using view = openModule(program);
  assert.throws(() => namesOf(view, 'from_table'), /does not show/);
  assert.throws(() => namesOf(view, 'by_asking'), /asks others/);
  assert.deepEqual(namesOf(view, 'from_table', running.pid), ['vector']);
  assert.deepEqual(namesOf(view, 'by_asking', running.pid), ['plain']);
  assert.deepEqual(namesOf(view, 'chosen', running.pid), ['vector']);
  const { address, instruction } = view.plan({ symbol: 'chosen' }, { processes: running.pid });
  const second = { symbol: 'chosen', symbolOffset: instruction.bytes.length };
  assert.equal(
    view.plan(second, { processes: running.pid }).address,
    address + BigInt(instruction.bytes.length),
  );
  assert.match(await running.finish(), /status 0$/);
});

for (const [binding, before] of [
  ['lazy', ['fast_plain', 'fast_sse2']],
  ['now', ['fast_sse2']],
] as const)
  test(`a library's function, bound with -z ${binding}, is known from its first call on at the latest`, async () => {
    const { program, library } = linkedPair([`-Wl,-z,${binding}`]);
    const target = await spawnTarget(program, ['2'], { stdio: 'ignore' });
    using view = openModule(library);
    assert.deepEqual(namesOf(view, 'lib_fast', target.pid), ['fast_plain', 'fast_sse2'], 'not mapped yet');
    const seen: (string | undefined)[][] = [];
    // The loop calls lib_work twice, then lib_fast.
    const look = (): void => void seen.push(namesOf(view, 'lib_fast', target.pid));
    await registerUprobe({
      pathname: library,
      symbol: 'lib_work',
      processes: target,
      deadline: 10_000,
      preHandler: look,
    });
    await target.resume();
    assert.equal((await target.exited).code, 0);
    assert.deepEqual(seen, [before, before, ['fast_sse2'], ['fast_sse2']]);
  });

test('a process that says nonsense of what it calls is not believed', async () => {
  const path = programOf(['-O1', '-fPIE', '-pie']);
  const file = OpenedFile.open(path);
  const image = ElfImage.parse(file, path);
  using view = openModule(path);
  const target = await spawnTarget(path, ['1'], { stdio: 'ignore' });
  const address = (symbol: string): bigint => view.plan({ symbol }).address;
  const resolver = [...view.matching('chosen')][0]!.address;
  const slots = Relocations.of(image).slotsOfResolver(Number(resolver));
  const seen: Record<string, ReadonlySet<string | undefined>> = {};
  const lie = (hit: Hit): void => {
    const [bias = 0] = loadBiases(
      image,
      readMaps(hit.pid).filter((m) => m.path === path),
    );
    const slotAt = (slot: number): bigint => BigInt(bias + slot);
    const truth = slots.map((slot) => hit.readBytes(slotAt(slot), 8)!);
    const say = (what: string, value: bigint): void => {
      const bytes = Buffer.alloc(8);
      bytes.writeBigUInt64LE(value);
      for (const slot of slots) hit.write(slotAt(slot), bytes);
      seen[what] = new Set(namesOf(view, 'chosen', hit.pid));
    };
    say('nothing', 0n);
    say('far away', 0xffff_ffff_ffff_fff0n);
    say('data', slotAt(slots[0]!));
    say('the middle of a function', slotAt(Number(address('vector')) + 1));
    say('the resolver', slotAt(Number(resolver)));
    say('another resolver', slotAt(Number([...view.matching('pointed')][0]!.address)));
    say('another of its functions', slotAt(Number(address('main'))));
    slots.forEach((slot, i) => hit.write(slotAt(slot), truth[i]!));
    seen['the truth'] = new Set(namesOf(view, 'chosen', hit.pid));
  };
  await registerUprobe({
    pathname: path,
    symbol: 'work_round',
    processes: target,
    deadline: 10_000,
    preHandler: lie,
  });
  await target.resume();
  assert.equal((await target.exited).code, 0);
  file.close();
  const { ['the truth']: truth, ['another of its functions']: main, ...lies } = seen;
  assert.deepEqual(truth, new Set(['vector']));
  assert.deepEqual(main, new Set(['main']), 'a function is a function: what the process says that it calls');
  assert.equal(Object.keys(lies).length, 6);
  const all = new Set(['plain', 'vector', 'rare']);
  for (const [what, names] of Object.entries(lies)) assert.deepEqual(names, all, what);
});
