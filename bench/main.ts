/** `npm run bench`: what a hit costs beside a bare C ptrace loop and other tools, what registering costs, how soon the first hit comes. */
import { execFile, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { repositoryRoot } from '../test/helpers/compile.js';
import {
  compileBench,
  inTurn,
  median,
  ptraceLoop,
  table,
  targetTime,
  type Measured,
  type Series,
} from './harness.js';

const execute = promisify(execFile);
const ROUNDS = 5;
const HITS = 20_000;
const WARMUP = 10_000;
const GDB = ['-q', '-nx', '-batch', '-ex', 'break *probe_me_push', '-ex', 'ignore 1 1000000', '-ex', 'run'];
const TIMEOUT = 120_000;
const ownBench = (name: string): string => join(repositoryRoot, 'build', 'bench', `${name}.js`);

/** A bench of ours as a process, on one CPU only or on all. */
function ours(name: string, args: readonly string[], oneCpu = false): Measured {
  const command = [process.execPath, ownBench(name), ...args];
  const [file = '', ...rest] = oneCpu ? ['taskset', '-c', '0', ...command] : command;
  return async () => Number((await execute(file, rest, { timeout: TIMEOUT })).stdout);
}

/** The median of second ÷ first, run by run: what slows both down at a time does not count. */
const ratioOf = (first: Series | undefined, second: Series | undefined): number =>
  median((second?.values ?? []).map((value, n) => value / (first?.values[n] ?? value)));

async function hits(): Promise<void> {
  const rows: (string | number)[][] = [];
  for (const variant of ['push', 'lea'] as const) {
    for (const [kinds, mode] of [
      [['count', 'pre'], 'one'],
      [['post'], 'two'],
    ] as const) {
      const floor = (placed: [number, number]): Measured => {
        return () => ptraceLoop({ mode, variant, hits: HITS, cpus: placed });
      };
      const runs = kinds.flatMap((kind) =>
        [true, false].map((oneCpu) => ({
          kind,
          oneCpu,
          run: ours('hit', [kind, variant, String(HITS), String(WARMUP)], oneCpu),
        })),
      );
      const [same, other, ...us] = await inTurn(ROUNDS, [
        floor([0, 0]),
        floor([0, 1]),
        ...runs.map((r) => r.run),
      ]);
      runs.forEach(({ kind, oneCpu }, i) => {
        const floors = [same?.median ?? 0, other?.median ?? 0];
        rows.push([
          `${kind}, ${variant}`,
          oneCpu ? 'one' : 'all',
          ...floors,
          us[i]?.median ?? 0,
          ratioOf(same, us[i]),
        ]);
      });
    }
  }
  console.log(
    `\nns a hit, medians of ${ROUNDS}, after ${WARMUP} hits that do not count; ratio: to the C loop on one CPU\n`,
  );
  const head = ['what', 'our CPUs', 'C loop, one CPU', 'C loop, two CPUs', 'uprobe', 'ratio'];
  console.log(table(head, rows));
}

/** The first thousand hits: Node has not compiled anything yet. */
async function firstHits(): Promise<void> {
  const kinds = ['count', 'pre'] as const;
  const results = await inTurn(
    ROUNDS,
    kinds.map((kind) => ours('hit', [kind, 'push', '1000'])),
  );
  console.log('\nThe first 1,000 hits of a run, ns a hit\n');
  console.log(
    table(
      ['what', 'median'],
      kinds.map((kind, i) => [kind, results[i]?.median ?? 0]),
    ),
  );
}

/** The same handler in a plain program, whose main thread calls it, and in a probe module, which has a thread for itself. */
async function modules(): Promise<void> {
  const rows: (string | number)[][] = [];
  for (const oneCpu of [true, false]) {
    const [plain, module] = await inTurn(ROUNDS, [
      ours('hit', ['pre', 'push', String(HITS), String(WARMUP)], oneCpu),
      inModule(oneCpu),
    ]);
    rows.push([oneCpu ? 'one' : 'all', plain?.median ?? 0, module?.median ?? 0, ratioOf(plain, module)]);
  }
  console.log('\nA handler in a plain program and in a probe module, ns a hit\n');
  console.log(table(['our CPUs', 'program', 'module', 'ratio'], rows));
}

/** `uprobe run` with a module that does what bench/hit.ts does. */
function inModule(oneCpu: boolean): Measured {
  const target = compileBench('target');
  const command = [
    ...[process.execPath, join(repositoryRoot, 'dist', 'bin', 'uprobe.js')],
    ...['run', join(repositoryRoot, 'bench', 'hit-module.mjs'), `path=${target}`],
    ...['--', target, String(HITS), 'push', String(WARMUP)],
  ];
  const [file = '', ...args] = oneCpu ? ['taskset', '-c', '0', ...command] : command;
  return async () => {
    const { stdout, stderr } = await execute(file, args, { timeout: TIMEOUT });
    if (stderr !== `${HITS + WARMUP} hits, 0 missed\n`)
      throw new Error(`not every hit was handled: ${stderr}`);
    return targetTime(stdout) / HITS;
  };
}

/** From the entry of a function to the call of its return handler: two stops. */
async function returns(): Promise<void> {
  const runs = [true, false].map((oneCpu) =>
    ours('hit', ['return', 'push', String(HITS), String(WARMUP)], oneCpu),
  );
  const [one, all] = await inTurn(ROUNDS, runs);
  console.log('\nA return handler, ns a call\n');
  console.log(
    table(
      ['our CPUs', 'median'],
      [
        ['one', one?.median ?? 0],
        ['all', all?.median ?? 0],
      ],
    ),
  );
}

/** A hit is found in the same time whatever the number of places that are armed. */
async function among(): Promise<void> {
  const counts = [1, 100_000];
  const results = await inTurn(
    3,
    counts.map((count) => ours('among', [String(count), String(HITS), String(WARMUP)])),
  );
  console.log('\nA hit with a handler among so many armed places, ns\n');
  console.log(
    table(
      ['places', 'median'],
      counts.map((count, i) => [count.toLocaleString('en-GB'), results[i]?.median ?? 0]),
    ),
  );
}

/** What others take for a breakpoint that only counts, from the target's own time. */
async function others(): Promise<void> {
  const target = compileBench('target');
  const count = ['2000', 'push'];
  const tools: [string, string, string[]][] = [
    ['ltrace', 'ltrace', ['-o', '/dev/null', '-x', 'probe_me_push@target*', target, ...count]],
    ['gdb, ignored breakpoint', 'gdb', [...GDB, '--args', target, ...count]],
  ];
  const there = tools.filter(([, command]) => spawnSync(command, ['--version']).status === 0);
  const missing = tools.filter((tool) => !there.includes(tool)).map(([, command]) => command);
  if (missing.length > 0) console.log(`\nnot installed, so not measured: ${missing.join(', ')}`);
  const results = await inTurn(3, [
    ...there.map(([, command, args]): Measured => async () => {
      const { stdout } = await execute(command, args, { timeout: TIMEOUT });
      return targetTime(/\{"calls.*\}/.exec(stdout)?.[0] ?? '') / Number(count[0]);
    }),
    ours('hit', ['count', 'push', '2000', String(WARMUP)]),
  ]);
  console.log('\nCounting only, beside others, ns a hit\n');
  console.log(
    table(
      ['tool', 'median'],
      [...there.map(([name]) => name), 'uprobe'].map((name, i) => [name, results[i]?.median ?? 0]),
    ),
  );
}

async function registering(): Promise<void> {
  const counts = [1, 1000, 10_000, 50_000];
  const results = await inTurn(
    3,
    counts.map((count) => ours('sites', [String(count)])),
  );
  const rows = counts.map((count, i) => [
    String(count),
    results[i]?.median ?? 0,
    (1000 * (results[i]?.median ?? 0)) / count,
  ]);
  console.log('\nRegistering functions of node in one transaction\n');
  console.log(table(['sites', 'ms', 'µs a site'], rows));
}

/** Milliseconds from starting the command to its first line. */
async function firstLine(): Promise<number> {
  const cli = join(repositoryRoot, 'dist', 'bin', 'uprobe.js');
  const start = performance.now();
  const child = spawn(process.execPath, [cli, 'trace', 'libc:malloc', '--', 'ls', '/'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const ended = once(child, 'exit');
  await once(child.stderr, 'data');
  const first = performance.now() - start;
  child.stderr.resume();
  await ended;
  return first;
}

async function bareNode(): Promise<number> {
  const start = performance.now();
  await execute(process.execPath, ['-e', '0']);
  return performance.now() - start;
}

async function startUp(): Promise<void> {
  const [bare, first] = await inTurn(9, [bareNode, firstLine]);
  console.log('\nStart-up, ms\n');
  console.log(
    table(
      ['what', 'median'],
      [
        ['node -e 0', bare?.median ?? 0],
        ['uprobe trace, first line', first?.median ?? 0],
      ],
    ),
  );
}

console.log(`${cpus().length} CPUs, ${cpus()[0]?.model ?? '?'}, Node ${process.version}`);
await hits();
await returns();
await modules();
await firstHits();
await among();
await others();
await registering();
await startUp();
