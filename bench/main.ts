/** `npm run bench`: what a hit costs beside a bare C ptrace loop, what registering costs, and how soon the first hit comes. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { repositoryRoot } from '../test/helpers/compile.js';
import { inTurn, median, ptraceLoop, table, type Measured } from './harness.js';

const execute = promisify(execFile);
const ROUNDS = 5;
const HITS = 20_000;
const TIMEOUT = 120_000;
const ownBench = (name: string): string => join(repositoryRoot, 'build', 'bench', `${name}.js`);

/** A bench of ours as a process, on one CPU only or on all. */
function ours(name: string, args: readonly string[], oneCpu = false): Measured {
  const command = [process.execPath, ownBench(name), ...args];
  const [file = '', ...rest] = oneCpu ? ['taskset', '-c', '0', ...command] : command;
  return async () => Number((await execute(file, rest, { timeout: TIMEOUT })).stdout);
}

async function hits(): Promise<void> {
  const rows: (string | number)[][] = [];
  for (const variant of ['push', 'lea'] as const) {
    for (const [kinds, mode] of [
      [['count', 'pre'], 'one'],
      [['post'], 'two'],
    ] as const) {
      for (const oneCpu of [true, false]) {
        const floor: Measured = () => ptraceLoop({ mode, variant, hits: HITS, cpus: [0, 0] });
        const measured = kinds.map((kind) => ours('hit', [kind, variant, String(HITS)], oneCpu));
        const [c, ...us] = await inTurn(ROUNDS, [floor, ...measured]);
        kinds.forEach((kind, i) => {
          const values = us[i]?.values ?? [];
          const ratio = median(values.map((value, n) => value / (c?.values[n] ?? value)));
          rows.push([
            `${kind}, ${variant}`,
            oneCpu ? 'one' : 'all',
            c?.median ?? 0,
            us[i]?.median ?? 0,
            ratio,
          ]);
        });
      }
    }
  }
  console.log(`\nns a hit (medians of ${ROUNDS}); the C loop has tracer and target on one CPU\n`);
  console.log(table(['what', 'our CPUs', 'C loop', 'uprobe', 'ratio'], rows));
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
await registering();
await startUp();
