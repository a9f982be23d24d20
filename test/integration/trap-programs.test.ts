/**
 * Programs that were not written with us in mind: with a probe at every instruction that they run, they print and return
 * what they do alone, and each instruction is hit as often as the single-stepped program runs it.
 * UPROBE_PROGRAMS=all takes the slow ones too (minutes: a step takes 5 to 10 µs).
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { accessSync, constants, realpathSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import {
  openModule,
  PlaceError,
  registerUprobes,
  spawnTarget,
  type ModuleView,
  type UprobeSpec,
} from 'uprobe';
import { privateCopies, temporaryDirectory } from '../helpers/compile.js';
import { kernelCounts, stepModules } from '../helpers/oracle.js';
import { Random } from '../helpers/random.js';

const all = process.env['UPROBE_PROGRAMS'] === 'all';
/** Places that are hit most are left out beyond so many hits: a hit takes ten steps' time. */
const MOST_HITS = all ? 1_000_000 : 30_000;

interface Program {
  readonly program: string;
  readonly args: readonly string[];
  /** Sonames of libraries that are probed as well. */
  readonly libraries?: readonly string[];
  readonly isSlow?: true;
}

const input = join(temporaryDirectory(), 'input');
writeFileSync(
  input,
  Array.from({ length: 20 }, (_, i) => `${(i * 7919) % 101} line ${i} of ${'x'.repeat(i % 9)}\n`).join(''),
);

const packed = (command: string, name: string): string => {
  const path = join(dirname(input), name);
  writeFileSync(path, spawnSync(command, ['-c', input]).stdout ?? '');
  return path;
};

const programs: readonly Program[] = [
  { program: 'gzip', args: ['-c', input], isSlow: true },
  { program: 'gzip', args: ['-dc', packed('gzip', 'packed.gz')] },
  { program: 'sort', args: ['-n', input] },
  {
    program: 'mawk',
    args: ['{ n += NF; a[$1 % 7]++ } END { print n; for (i = 0; i < 7; i++) print i, a[i] }', input],
  },
  { program: 'b2sum', args: [input] },
  { program: 'factor', args: ['1234567890123456789', '600851475143'] },
  {
    program: 'dash',
    args: ['-c', 'i=0; while [ $i -lt 9 ]; do i=$((i+1)); done; echo $i; exit 7'],
    isSlow: true,
  },
  { program: 'base64', args: [input] },
  { program: 'xz', args: ['-dc', packed('xz', 'packed.xz')], libraries: ['liblzma.so.5'] },
  {
    program: 'bzip2',
    args: ['-dc', packed('bzip2', 'packed.bz2')],
    libraries: ['libbz2.so.1.0'],
    isSlow: true,
  },
  { program: 'bzip2', args: ['-c', input], libraries: ['libbz2.so.1.0'], isSlow: true },
  { program: 'xz', args: ['-c', input], libraries: ['liblzma.so.5'], isSlow: true },
  { program: 'sed', args: ['-n', 's/\\([0-9]*\\) line/<\\1>/gp', input], isSlow: true },
  // not grep: it goes through its own memory map (for stack overflows), in which there are mappings of ours
  { program: 'od', args: ['-c', input], isSlow: true },
  { program: 'sha256sum', args: [input], isSlow: true },
  { program: 'bc', args: ['-q', input], isSlow: true },
  { program: 'dc', args: ['-e', '2 500 ^ p'], isSlow: true },
  {
    program: 'perl',
    args: [
      '-e',
      'my %h; $h{$_ % 17} += $_ for 1..500; print join(",", map "$_=$h{$_}", sort keys %h), "\\n"',
    ],
    isSlow: true,
  },
  {
    program: 'sqlite3',
    args: [
      ':memory:',
      'create table t(a); insert into t values (3),(1),(2); select a * 2 from t order by a;',
    ],
    libraries: ['libsqlite3.so.0'],
    isSlow: true,
  },
];

function isThere(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function find(program: string): string | undefined {
  const path = ['/usr/bin', '/bin', '/usr/sbin', '/sbin'].map((d) => join(d, program)).find(isThere);
  return path && realpathSync(path);
}

/** Where the system's linker finds it (ldconfig(8)). */
function findLibrary(soname: string): string | undefined {
  const { stdout } = spawnSync('/sbin/ldconfig', ['-p'], { encoding: 'utf8' });
  const line = stdout.split('\n').find((l) => l.trim().startsWith(`${soname} (libc6,x86-64)`));
  return line?.split('=> ')[1];
}

/** Private copies of the program and its libraries, found as they were. */
interface Copy {
  readonly path: string;
  readonly modules: readonly string[];
  readonly env: Record<string, string>;
}

function copyOf({ program, libraries = [] }: Program): Copy | string {
  const original = find(program);
  if (original === undefined) return `${program} is not installed`;
  const found = libraries.map(findLibrary);
  const missing = libraries.find((_, i) => found[i] === undefined);
  if (missing !== undefined) return `${missing} is not installed`;
  const [path = '', ...copies] = privateCopies(original, ...found.map((f) => f ?? ''));
  const env = {
    PATH: '/usr/bin:/bin',
    LC_ALL: 'C',
    LD_LIBRARY_PATH: dirname(path),
    PERL_HASH_SEED: '0', // else perl's hashes are different ones each time (perlrun(1))
    PERL_PERTURB_KEYS: '0',
  };
  return { path, modules: [path, ...copies], env };
}

/** A place that was seen to run, and how often. */
interface Place {
  readonly module: string;
  readonly offset: number;
  readonly steps: number;
}

async function stepped(copy: Copy, args: readonly string[]): Promise<Place[]> {
  const options = { fromEntry: true, env: copy.env, timeout: 280_000 };
  const { modules } = await stepModules(copy.path, args, copy.modules, options);
  return [...modules].flatMap(([module, counts]) =>
    [...counts].map(([offset, steps]) => ({ module, offset, steps })),
  );
}

/** Those hit least, as many as there is time for. */
function affordable(places: readonly Place[]): Place[] {
  let hits = 0;
  return places.toSorted((a, b) => a.steps - b.steps).filter(({ steps }) => (hits += steps) <= MOST_HITS);
}

function canBeProbed(view: ModuleView, offset: number): boolean {
  try {
    return view.plan({ offset }).chosen !== undefined;
  } catch (e) {
    // the instruction ran, so it is one; nothing in a stripped file says where its function begins
    if (e instanceof PlaceError) return view.plan({ offset }, { trustPlace: true }).chosen !== undefined;
    throw e;
  }
}

function probeable(places: readonly Place[]): Place[] {
  const views = new Map<string, ModuleView>();
  for (const { module } of places) if (!views.has(module)) views.set(module, openModule(module));
  const kept = places.filter(({ module, offset }) => canBeProbed(views.get(module)!, offset));
  for (const view of views.values()) view.close();
  return kept;
}

interface Probed {
  readonly ended: object;
  readonly wrong: readonly (Place & { readonly hits: number })[];
  readonly hits: number;
}

async function probed(copy: Copy, args: readonly string[], places: readonly Place[]): Promise<Probed> {
  const random = new Random(1);
  const target = await spawnTarget(copy.path, args, { stdio: ['ignore', 'pipe', 'pipe'], env: copy.env });
  let called = 0;
  const specs = places.map(({ module, offset }): UprobeSpec => {
    const spec = { pathname: module, offset, processes: target, trustPlace: true };
    const dice = random.below(10);
    if (dice > 2) return spec;
    return dice > 0
      ? { ...spec, preHandler: () => void called++ }
      : { ...spec, postHandler: () => void called++ };
  });
  const group = await registerUprobes(specs);
  const output = Promise.all([text(target.stdout!), text(target.stderr!)]);
  await target.resume();
  const { code, signal } = await target.exited;
  const [stdout, stderr] = await output;
  const found = [...group].map(({ nhits }, i) => ({ ...places[i]!, hits: Number(nhits) }));
  const missed = [...group].reduce((sum, { nmissed }) => sum + nmissed, 0n);
  await group.unregister();
  assert.equal(missed, 0n);
  assert.ok(called > 0, 'handlers were called');
  return {
    ended: { stdout, stderr, code, signal },
    wrong: found.filter(({ hits, steps }) => hits !== steps),
    hits: found.reduce((sum, { hits }) => sum + hits, 0),
  };
}

/** What depends on where memory is: the counts of these differ between stepped runs. */
async function withoutUnsteady(
  wrong: Probed['wrong'],
  copy: Copy,
  args: readonly string[],
): Promise<Probed['wrong']> {
  let steady = wrong;
  for (let i = 0; i < 4 && steady.length > 0; i++) {
    const again = new Map((await stepped(copy, args)).map((p) => [`${p.module} ${p.offset}`, p.steps]));
    steady = steady.filter(({ module, offset, steps }) => again.get(`${module} ${offset}`) === steps);
  }
  return steady;
}

for (const program of programs) {
  const { args, isSlow } = program;
  const copy = copyOf(program);
  const name = [program.program, ...args.map((arg) => basename(arg))].join(' ');
  const skip = isSlow && !all ? 'slow: UPROBE_PROGRAMS=all runs it' : typeof copy === 'string' && copy;
  test(`${name} runs with every instruction probed`, { skip, timeout: 600_000 }, async (t) => {
    assert.ok(typeof copy !== 'string');
    const { env } = copy;
    const alone = spawnSync(copy.path, args, {
      env,
      encoding: 'utf8',
      timeout: 30_000,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const ran = await stepped(copy, args);
    const places = probeable(affordable(ran));
    const { ended, wrong, hits } = await probed(copy, args, places);
    t.diagnostic(`${hits} hits at ${places.length} of ${ran.length} places`);
    const { stdout, stderr, status, signal } = alone;
    assert.deepEqual(ended, { stdout, stderr, code: status, signal });
    assert.deepEqual(await withoutUnsteady(wrong, copy, args), []);
  });
}

/** A step at a time it takes minutes to start; the kernel's own uprobes count as fast as it runs. */
const python: Program = {
  program: 'python3',
  args: [
    '-s',
    '-S',
    '-c',
    'd = {}\nfor i in range(3000): d[hash((i, str(i))) % 97] = i\nprint(len(d), sum(d.values()))',
  ],
};
const pythonCopy = copyOf(python);
const PYTHON_FUNCTIONS = [
  'PyObject_Hash',
  'PyDict_SetItem',
  'PyTuple_New',
  'PyLong_FromLong',
  'PyObject_Str',
  'PyTuple_Pack',
  'PyObject_IsTrue',
  'PyNumber_Remainder',
  'Py_FinalizeEx',
  'PyImport_ImportModule',
];

test(
  'python3 calls its functions as often as the kernel says',
  { skip: typeof pythonCopy === 'string' && pythonCopy, timeout: 60_000 },
  async (t) => {
    assert.ok(typeof pythonCopy !== 'string');
    const { path } = pythonCopy;
    const env = { ...pythonCopy.env, PYTHONHOME: '/usr', PYTHONHASHSEED: '0', PYTHONDONTWRITEBYTECODE: '1' };
    const view = openModule(path);
    const offsets = PYTHON_FUNCTIONS.flatMap((fn) => [...view.matching(fn)]).map((f) => f.offset);
    view.close();
    let alone: object = {};
    const kernel = await kernelCounts(path, offsets, async () => {
      const { stdout, stderr, status } = spawnSync(path, python.args, {
        env,
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'pipe'],
      });
      alone = { stdout, stderr, code: status };
    });
    if (kernel.refused !== undefined) return t.skip(kernel.refused);
    const target = await spawnTarget(path, python.args, { stdio: ['ignore', 'pipe', 'pipe'], env });
    let called = 0n;
    const group = await registerUprobes(
      offsets.map((offset) => ({
        pathname: path,
        offset,
        processes: target,
        preHandler: () => void called++,
      })),
    );
    const output = Promise.all([text(target.stdout!), text(target.stderr!)]);
    await target.resume();
    const { code } = await target.exited;
    const [stdout, stderr] = await output;
    const hits = new Map([...group].map(({ offset, nhits }) => [offset, Number(nhits)]));
    await group.unregister();
    assert.deepEqual({ stdout, stderr, code }, alone);
    assert.deepEqual(hits, kernel.counts);
    assert.ok(called > 3000n);
  },
);
