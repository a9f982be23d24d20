import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import {
  PlaceError,
  openModule,
  registerUprobe,
  registerUprobes,
  spawnTarget,
  type ReturnHit,
  type Uprobe,
  type UprobeSpec,
} from 'uprobe';
import { compileFixture, privateCopy } from '../helpers/compile.js';
import { until } from '../helpers/running.js';

const program = privateCopy(compileFixture('returns'));
const ROUNDS = 10;
const unprobed = execFileSync(program, [String(ROUNDS)], { encoding: 'utf8' });

type Rest = Omit<UprobeSpec, 'pathname' | 'processes'> & { symbol: string };

/** Run to its end with these probes; its output and status must be those of the unprobed run. */
async function run(
  specs: readonly Rest[],
  { file = program, args = [String(ROUNDS)], output = unprobed } = {},
): Promise<Uprobe[]> {
  const target = await spawnTarget(file, args);
  const group = await registerUprobes(specs.map((s) => ({ ...s, pathname: file, processes: target })));
  const stdout = text(target.stdout!);
  const stderr = text(target.stderr!);
  await target.resume();
  const { code } = await target.exited;
  assert.equal(await stderr, '');
  assert.equal(await stdout, output);
  assert.equal(code, 0);
  return [...group];
}

/** Everything that returned from a function, as its handler saw it. */
async function returnsOf<T>(
  symbol: string,
  see: (hit: ReturnHit) => T,
): Promise<{ seen: T[]; probe: Uprobe }> {
  const seen: T[] = [];
  const [probe] = await run([{ symbol, returnHandler: (hit) => void seen.push(see(hit)) }]);
  assert.equal(probe!.nhits, BigInt(seen.length));
  assert.equal(probe!.nmissed, 0n);
  return { seen, probe: probe! };
}

test('each level of a recursion returns its own value, the innermost first', async () => {
  const { seen, probe } = await returnsOf('fact', (hit) => [hit.entryArgs[0], hit.returnValue]);
  const once = [[1n, 1n], [2n, 2n], [3n, 6n], [4n, 24n], [5n, 120n]]; // prettier-ignore
  assert.deepEqual(seen.slice(0, 5 * ROUNDS), Array.from({ length: ROUNDS }, () => once).flat());
  const inThreads = 4 * [0, 1, 2, 3, 4, 5, 0, 1, 2, 3].reduce((n, depth) => n + Math.max(1, depth), 0);
  assert.equal(seen.length, 5 * ROUNDS + inThreads);
  assert.equal(probe.nabandoned, 0n);
});

test('a return says how long the call took', async () => {
  const { seen } = await returnsOf('half', (hit) => hit.duration);
  for (const ns of seen) assert.ok(ns > 0n && ns < 10_000_000_000n, String(ns));
});

test('a double is returned in xmm0', async () => {
  const { seen } = await returnsOf('half', (hit) => hit.floatArg(0));
  assert.deepEqual(
    seen,
    Array.from({ length: ROUNDS }, (_, i) => i / 2),
  );
});

test('the arguments are those of the entry', async () => {
  const { seen } = await returnsOf('with_many', (hit) => [...hit.entryArgs, hit.returnValue]);
  assert.deepEqual(
    seen,
    Array.from({ length: ROUNDS }, (_, i) => [1n, 2n, 3n, 4n, 5n, 6n, 21n + BigInt(i)]),
  );
});

test('functions that end in a jump to another return together with it', async () => {
  const seen: string[] = [];
  const see = (name: string) => (hit: ReturnHit) =>
    void seen.push(`${name}(${hit.entryArgs[0]})=${hit.returnValue}`);
  await run([
    { symbol: 'tail', returnHandler: see('tail') },
    { symbol: 'last', returnHandler: see('last') },
  ]);
  const inMain = seen.slice(0, 2 * ROUNDS);
  assert.deepEqual(
    inMain,
    Array.from({ length: ROUNDS }, (_, i) => [
      `last(${i + 1})=${3 * i + 3}`,
      `tail(${i})=${3 * i + 3}`,
    ]).flat(),
  );
  assert.equal(seen.length, 10 * ROUNDS);
});

test('a call that is left by longjmp does not return, and is counted', async () => {
  const { seen, probe } = await returnsOf('leaves', (hit) => hit.returnValue);
  assert.deepEqual(seen, [0n, 2n, 4n, 6n, 8n]);
  assert.equal(probe.nabandoned, 5n);
  const tries = await returnsOf('tries', (hit) => hit.returnValue);
  assert.deepEqual(
    tries.seen,
    Array.from({ length: ROUNDS }, (_, i) => (i % 2 === 0 ? BigInt(i) : 2n ** 64n - 1n)),
  );
});

test('frames on several stacks do not get in each other’s way', async () => {
  const { seen, probe } = await returnsOf('yields', (hit) => hit.returnValue);
  // the last call of each fiber never returns
  const each = Array.from({ length: ROUNDS - 1 }, (_, i) => [101n + BigInt(i), 101n + BigInt(i)]).flat();
  assert.deepEqual(seen, each);
  assert.equal(probe.nabandoned, 2n);
});

test('what a pre handler leaves in `call` is there at the return of the same call', async () => {
  const wrong: unknown[] = [];
  let returns = 0;
  const spec: UprobeSpec<{ n: bigint }> & { symbol: string } = {
    pathname: program,
    symbol: 'fact',
    preHandler: (hit) => {
      assert.equal(hit.call, undefined);
      hit.call = { n: hit.arg(0) };
    },
    returnHandler: (hit) => {
      returns++;
      if (hit.call?.n !== hit.entryArgs[0]) wrong.push([hit.call, hit.entryArgs[0]]);
    },
  };
  const [probe] = await run([spec as Rest]);
  assert.deepEqual(wrong, []);
  assert.equal(BigInt(returns), probe!.nhits);
});

test('a return value can be changed', async () => {
  const target = await spawnTarget(program, ['4']);
  await registerUprobe({
    pathname: program,
    symbol: 'tries',
    processes: target,
    returnHandler: (hit) => {
      hit.returnValue = 1000;
    },
  });
  const stdout = text(target.stdout!);
  await target.resume();
  await target.exited;
  assert.match(await stdout, /left=4000 /);
});

test('a pre handler that makes the function return by itself is a return too', async () => {
  const seen: bigint[] = [];
  const target = await spawnTarget(program, ['4']);
  await registerUprobe({
    pathname: program,
    symbol: 'tries',
    processes: target,
    preHandler: (hit) => {
      const { regs } = hit;
      regs.ip = hit.read(regs.sp, 'u64')!;
      regs.sp += 8n;
      regs.ax = 7;
      return 'skip';
    },
    returnHandler: (hit) => void seen.push(hit.returnValue),
  });
  const stdout = text(target.stdout!);
  await target.resume();
  await target.exited;
  assert.deepEqual(seen, [7n, 7n, 7n, 7n]);
  assert.match(await stdout, /left=28 /);
});

test('probes of one function and of where it returns to are both called', async () => {
  using view = openModule(program);
  const main = [...view.functions()].find((f) => f.name === 'main')!;
  const instructions = [...view.instructions(main)];
  const order: string[] = [];
  const specs: Rest[] = instructions.map(({ symbolOffset }) => ({
    symbol: 'main',
    symbolOffset,
    preHandler: () => void order.push(`at ${symbolOffset}`),
  }));
  specs.push({ symbol: 'half', returnHandler: () => void order.push('returned') });
  const probes = await run(specs);
  const after = order.map((what, i) => (what === 'returned' ? order[i + 1] : undefined)).filter(Boolean);
  assert.equal(after.length, ROUNDS);
  assert.equal(new Set(after).size, 1, 'each return is followed by the instruction behind the call');
  assert.equal(probes.at(-1)!.nhits, BigInt(ROUNDS));
});

test('C++ exceptions go through probed functions as ever, and what they leave is counted', async () => {
  const file = privateCopy(compileFixture('exceptions'));
  const output = execFileSync(file, ['30'], { encoding: 'utf8' });
  const names = ['top', 'again', 'middle', 'bottom'];
  const probes = await run(
    names.map((symbol) => ({ symbol, returnHandler: () => undefined })),
    { file, args: ['30'], output },
  );
  assert.deepEqual(probes.map((p) => [p.nhits, p.nabandoned]), [[30n, 0n], [10n, 20n], [50n, 100n], [10n, 20n]]); // prettier-ignore
});

test('functions on stacks of every kind return', async () => {
  const file = privateCopy(compileFixture('longjmp'));
  const output = execFileSync(file, ['20'], { encoding: 'utf8' });
  using view = openModule(file);
  const own = ['deep', 'leave_frames', 'leave_handler', 'in_fiber', 'on_signal', 'fiber', 'main'];
  const specs = [...view.functions()].filter((f) => own.includes(f.name)).map(
    (f): Rest => ({ symbol: f.name, returnHandler: () => undefined }),
  ); // prettier-ignore
  const probes = await run(specs, { file, args: ['20'], output });
  for (const probe of probes) assert.equal(probe.nmissed, 0n, String(probe));
  const count = (name: string): bigint => probes.find((p) => p.symbol === name)!.nhits;
  assert.deepEqual([count('deep'), count('leave_frames'), count('leave_handler')], [0n, 20n, 20n]);
});

test('taking the probe out takes out every breakpoint, also where its calls return to', async () => {
  const file = privateCopy(compileFixture('loop'));
  const target = await spawnTarget(file, [], { stdio: ['pipe', 'pipe', 'inherit'] });
  let returns = 0;
  using view = openModule(file);
  const probe = await registerUprobe({
    pathname: file,
    symbol: 'tick',
    processes: target,
    returnHandler: () => void returns++,
  });
  const keeper = await registerUprobe({ pathname: file, symbol: 'main', processes: target });
  await target.resume();
  await until('it has returned', () => returns >= 3);
  const inMain = view.plan({ symbol: 'main' }).offset;
  assert.equal(textOf(target.pid, file).length, 3, 'main, tick and where tick returns to');
  await probe.unregister();
  assert.deepEqual(textOf(target.pid, file), [inMain]);
  await keeper.unregister();
  assert.deepEqual(textOf(target.pid, file), []);
  target.kill('SIGKILL');
  await target.exited;
});

/** File offsets at which the text in memory differs from the file. */
function textOf(pid: number, file: string): number[] {
  const maps = readFileSync(`/proc/${pid}/maps`, 'latin1');
  const line = maps.split('\n').find((l) => l.includes('r-xp') && l.endsWith(file))!;
  const [, from, to, at] = /^(\w+)-(\w+) r-xp (\w+)/.exec(line)!;
  const start = parseInt(from!, 16);
  const offset = parseInt(at!, 16);
  const length = parseInt(to!, 16) - start;
  const memory = execFileSync('dd', [`if=/proc/${pid}/mem`, 'bs=4096', `skip=${start / 4096}`, `count=${length / 4096}`, 'status=none'], { maxBuffer: 1 << 28 }); // prettier-ignore
  const bytes = readFileSync(file).subarray(offset, offset + length);
  const differences: number[] = [];
  for (let i = 0; i < bytes.length; i++) if (bytes[i] !== memory[i]) differences.push(offset + i);
  return differences;
}

test('a return handler inside of a function is refused', () => {
  using view = openModule(program);
  const inside = [...view.instructions([...view.functions()].find((f) => f.name === 'fact')!)][1]!;
  assert.throws(
    () => view.plan({ symbol: 'fact', symbolOffset: inside.symbolOffset }, { returnHandler: true }),
    (e) => e instanceof PlaceError && e.code === 'not-a-function-entry',
  );
});

test('a return handler where a program begins, which nobody calls, is refused', () => {
  for (const file of [program, process.execPath]) {
    using view = openModule(file);
    const header = execFileSync('readelf', ['-h', file], { encoding: 'utf8' });
    const addr = BigInt(/Entry point address: +(0x[0-9a-f]+)/.exec(header)![1]!);
    assert.throws(
      () => view.plan({ addr }, { returnHandler: true }),
      (e) => e instanceof PlaceError && e.code === 'never-returns',
    );
    assert.equal(view.plan({ addr }).symbol, '_start');
  }
});
