/** For tests of the kernel engine: what they need of the machine, and its own account of links. */
import { spawnSync } from 'node:child_process';
import { readdirSync, readlinkSync } from 'node:fs';
import { openModule } from 'uprobe';
import { compileFixture } from './compile.js';

/** Uprobes are links to perf events, which the kernel takes tens of milliseconds each to take out: tests then do `fewer` things. */
export const onEvents = process.env['UPROBE_KERNEL'] === 'perf';
export const fewer = (many: number, few: number): number => (onEvents ? few : many);

/** For `skip`. */
export function whyNoKernelEngine(): string | false {
  using view = openModule(compileFixture('calls'));
  const plan = view.plan({ symbol: 'add' }, { processes: 'all', preHandler: false });
  const refusal = plan.engines.find((e) => e.engine === 'kernel')?.refusal;
  return refusal === undefined ? false : `the kernel engine cannot be used here: ${refusal.reason}`;
}

export interface Ran {
  readonly stdout: string;
  /** What it says of itself: `add=20 fact=100 …`. */
  count(name: string): bigint;
}

/** Run a program to its end, which must be a good one. */
export function runToEnd(program: string, ...args: string[]): Ran {
  const { status, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${program} ended with ${status}: ${stdout}${stderr}`);
  return {
    stdout,
    count: (name) => BigInt(new RegExp(`\\b${name}=(\\d+)`).exec(stdout)?.[1] ?? -1),
  };
}

/** How many links of programs to uprobes this process has (and whoever shares its descriptors). */
export const linksOf = (pid: number | 'self' = 'self'): number =>
  readdirSync(`/proc/${pid}/fd`).filter((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`) === 'anon_inode:bpf_link';
    } catch {
      return false;
    }
  }).length;
