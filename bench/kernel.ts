/**
 * The kernel engine beside a C program that does the same with its own system calls (bench/c/bpf_loader.c), and bpftrace where it is
 * installed: what a hit costs, how many events a second come through, what attaching costs, how soon the first hit comes.
 */
import { execFile, spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { promisify } from 'node:util';
import { openModule } from 'uprobe';
import { privateCopy, repositoryRoot } from '../test/helpers/compile.js';
import { compileBench, inTurn, median, table, targetTime, unprobedTime, type Measured } from './harness.js';

const execute = promisify(execFile);
const ROUNDS = Number(process.env['UPROBE_BENCH_ROUNDS'] ?? 7);
const TIMEOUT = 120_000;
/** Of a site that the kernel emulates, and of one that it steps. */
const CALLS = { nop: 400_000, push: 300_000, lea: 30_000 } as const;
const KINDS = ['count', 'histogram', 'event', 'return', 'session'] as const;
type Variant = keyof typeof CALLS;
const ownBench = (name: string): string => join(repositoryRoot, 'build', 'bench', `${name}.js`);
const cli = join(repositoryRoot, 'dist', 'bin', 'uprobe.js');

interface Loaded {
  readonly attach_ns: number;
  readonly detach_ns: number;
  readonly hits: number;
  readonly lost: number;
}

/** The C program attached to these offsets while `body` runs. */
async function whileLoaded(
  mode: string,
  path: string,
  offsets: readonly number[],
  body: () => Promise<void>,
): Promise<Loaded> {
  const list = join(dirname(path), 'offsets');
  writeFileSync(list, offsets.map((o) => `${o}\n`).join(''));
  const child = spawn(compileBench('bpf_loader'), [mode, path, list], { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface(child.stdout);
  const said: string[] = [];
  lines.on('line', (line) => said.push(line));
  await Promise.race([once(lines, 'line'), once(child, 'exit')]);
  if (said[0] !== 'ready') throw new Error(`the C loader did not attach (${mode})`);
  await body();
  child.stdin.end();
  await once(lines, 'close');
  return JSON.parse(said[1] ?? '') as Loaded;
}

function offsetOf(path: string, symbol: string): number {
  const view = openModule(path);
  try {
    return view.plan({ symbol }).offset;
  } finally {
    view.close();
  }
}

/** Nanoseconds a call, with the probe on it. */
const inC =
  (mode: string, variant: Variant): Measured =>
  async () => {
    const path = privateCopy(compileBench('target'));
    let ns = 0;
    const loaded = await whileLoaded(mode, path, [offsetOf(path, `probe_me_${variant}`)], async () => {
      const { stdout } = await execute(path, [String(CALLS[variant]), variant], { timeout: TIMEOUT });
      ns = targetTime(stdout) / CALLS[variant];
    });
    if (loaded.hits !== CALLS[variant]) throw new Error(`the C loader saw ${loaded.hits} hits`);
    return ns;
  };

const ours =
  (kind: string, variant: Variant): Measured =>
  async () => {
    const args = [ownBench('kernel-hit'), kind, variant, String(CALLS[variant])];
    return Number((await execute(process.execPath, args, { timeout: TIMEOUT })).stdout);
  };

/** What bpftrace is asked for the same. */
const BPFTRACE: Record<string, (probe: string) => string> = {
  count: (p) => `uprobe:${p} { @ = count(); }`,
  histogram: (p) => `uprobe:${p} { @ = hist(arg0); }`,
  return: (p) => `uretprobe:${p} { @ = count(); }`,
  session: (p) =>
    `uprobe:${p} { @s[tid] = nsecs; } uretprobe:${p} { @ = hist(nsecs - @s[tid]); delete(@s[tid]); }`,
};
/** Without tracefs it attaches, and cannot detach. */
const hasBpftrace =
  spawnSync('bpftrace', ['--version']).status === 0 && existsSync('/sys/kernel/tracing/uprobe_events');

const inBpftrace =
  (kind: string, variant: Variant): Measured =>
  async () => {
    const path = privateCopy(compileBench('target'));
    const script = `${BPFTRACE[kind]!(`${path}:probe_me_${variant}`)} BEGIN { printf("ready\\n"); }`;
    const child = spawn('bpftrace', ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] });
    await untilReady(child);
    const { stdout } = await execute(path, [String(CALLS[variant]), variant], { timeout: TIMEOUT });
    const ended = once(child, 'exit');
    child.stdout.resume();
    child.kill('SIGINT');
    await ended;
    return targetTime(stdout) / CALLS[variant];
  };

async function untilReady(child: ChildProcess): Promise<void> {
  for await (const line of createInterface(child.stdout!)) if (line.includes('ready')) return;
  throw new Error('it ended before it was ready');
}

/** The medians of the costs, and of their ratios round by round. */
async function hits(): Promise<void> {
  const rows: (string | number | undefined)[][] = [];
  for (const variant of ['nop', 'push', 'lea'] as const) {
    const bare = (await unprobedTime(variant, 1_000_000)) / 1_000_000;
    for (const kind of KINDS) {
      const peer = hasBpftrace && kind in BPFTRACE ? [inBpftrace(kind, variant)] : [];
      const [c, us, other] = await inTurn(ROUNDS, [inC(kind, variant), ours(kind, variant), ...peer]);
      const ratios = (us?.values ?? []).map((v, n) => (v - bare) / ((c?.values[n] ?? v) - bare));
      const cost = (value: number | undefined): number | undefined => value && value - bare;
      rows.push([
        `${kind}, ${variant}`,
        cost(c?.median),
        cost(us?.median),
        median(ratios),
        cost(other?.median),
      ]);
    }
  }
  console.log(`\nThe kernel engine, ns a hit (a call, for return and session), medians of ${ROUNDS}\n`);
  console.log(table(['what', 'C loader', 'uprobe', 'ratio', 'bpftrace'], rows));
}

/** Two producers, as fast as they can: how many come through, and what reading them costs. */
async function throughput(): Promise<void> {
  const args = [ownBench('kernel-events'), '2', '2000000'];
  const runs: { rate: number; lost: number; cpu: number }[] = [];
  for (let i = 0; i < 3; i++)
    runs.push(
      JSON.parse((await execute(process.execPath, args, { timeout: TIMEOUT })).stdout) as (typeof runs)[0],
    );
  console.log('\nEvents of 32 bytes from two producers at once, of a nop that is probed\n');
  const of = (key: 'rate' | 'lost' | 'cpu'): number => median(runs.map((r) => r[key]));
  console.log(table(['events a second', 'lost', 'CPU of the reader'], [[of('rate'), of('lost'), of('cpu')]]));
}

async function attaching(): Promise<void> {
  const rows: (string | number)[][] = [];
  for (const count of [1000, 10_000, Infinity]) {
    const args = [ownBench('kernel-sites'), String(count)];
    const path = privateCopy(process.execPath);
    const mine: { plan: number; attach: number; detach: number; offsets: number[] }[] = [];
    const raw: Loaded[] = [];
    for (let round = 0; round < 3; round++) {
      const { stdout } = await execute(process.execPath, [...args, path], {
        timeout: TIMEOUT,
        maxBuffer: 1 << 26,
      });
      const found = JSON.parse(stdout) as (typeof mine)[0];
      mine.push(found);
      raw.push(await whileLoaded('count', path, found.offsets, () => Promise.resolve()));
    }
    const ms = (values: readonly number[]): number => median(values);
    rows.push([
      mine[0]!.offsets.length.toLocaleString('en-GB'),
      ms(mine.map((m) => m.plan)),
      ms(mine.map((m) => m.attach)),
      ms(raw.map((r) => r.attach_ns / 1e6)),
      ms(mine.map((m) => m.detach)),
      ms(raw.map((r) => r.detach_ns / 1e6)),
    ]);
  }
  console.log('\nAttaching to functions of node (nobody runs it), ms; finding: to find and decode them\n');
  console.log(table(['places', 'finding', 'registering', 'raw attach', 'removing', 'raw detach'], rows));
}

/** From starting the command to its first line, of a program that runs already. */
async function firstHit(): Promise<number> {
  const path = privateCopy(compileBench('target'));
  const target = spawn(path, ['2000000000', 'push'], { stdio: 'ignore' });
  try {
    const start = performance.now();
    const child = spawn(
      process.execPath,
      [cli, 'trace', '--engine', 'kernel', '-n', '1', `${path}:probe_me_push`],
      {
        stdio: ['ignore', 'pipe', 'inherit'],
      },
    );
    const ended = once(child, 'exit');
    await once(child.stdout, 'data');
    const first = performance.now() - start;
    await text(child.stdout);
    await ended;
    return first;
  } finally {
    target.kill('SIGKILL');
  }
}

async function bareNode(): Promise<number> {
  const start = performance.now();
  await execute(process.execPath, ['-e', '0']);
  return performance.now() - start;
}

async function startUp(): Promise<void> {
  const [bare, first] = await inTurn(9, [bareNode, firstHit]);
  console.log('\nThe kernel engine, from start to first hit, ms\n');
  console.log(
    table(
      ['what', 'median'],
      [
        ['node -e 0', bare?.median ?? 0],
        ['uprobe trace --engine kernel', first?.median ?? 0],
      ],
    ),
  );
}

/** All of it. */
export async function kernelEngine(): Promise<void> {
  if (!hasBpftrace) console.log('\nnot measured: bpftrace, which is not installed or has no tracefs');
  await hits();
  await throughput();
  await attaching();
  await startUp();
}

if (process.argv[1] === ownBench('kernel')) await kernelEngine();
