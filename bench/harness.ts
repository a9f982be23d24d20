/**
 * Measuring fairly on a machine that others use too: what is compared runs in turn, several times, and medians and the
 * median of the ratios of neighbouring runs are what counts.
 */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { compileFixture } from '../test/helpers/compile.js';

const execute = promisify(execFile);

/** A program of bench/c, compiled when it is asked for. */
export const compileBench = (name: string, flags: readonly string[] = []): string =>
  compileFixture(name, { flags, directory: 'bench/c' });

/** Runs once and returns its figure, usually nanoseconds. */
export type Measured = () => Promise<number>;

export interface Series {
  readonly values: readonly number[];
  readonly median: number;
  readonly least: number;
  readonly most: number;
}

export interface Comparison {
  readonly first: Series;
  readonly second: Series;
  /** The median of second ÷ first, run by run: what slows both down at a time does not count. */
  readonly ratio: number;
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle];
  if (upper === undefined) throw new Error('the median of nothing');
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? upper) + upper) / 2;
}

export const series = (values: readonly number[]): Series => ({
  values,
  median: median(values),
  least: Math.min(...values),
  most: Math.max(...values),
});

/** Run several in turn (a, b, c, a, b, c …), `rounds` times each, after one round that does not count. */
export async function inTurn(rounds: number, measured: readonly Measured[]): Promise<Series[]> {
  const values: number[][] = measured.map(() => []);
  for (let round = -1; round < rounds; round++) {
    for (const [i, measure] of measured.entries()) {
      const value = await measure();
      if (round >= 0) values[i]?.push(value);
    }
  }
  return values.map(series);
}

/** Two in turn, and how the second compares with the first. */
export async function compare(rounds: number, first: Measured, second: Measured): Promise<Comparison> {
  const [a, b] = await inTurn(rounds, [first, second]);
  if (!a || !b) throw new Error('nothing was measured');
  return { first: a, second: b, ratio: median(b.values.map((value, i) => value / (a.values[i] ?? value))) };
}

export interface PtraceLoop {
  readonly mode: 'one' | 'two' | 'reinsert';
  readonly variant: 'push' | 'lea' | 'nop';
  /** The CPUs of tracer and target; left out: the scheduler's choice. */
  readonly cpus?: readonly [number, number];
  readonly hits: number;
}

/** Nanoseconds a hit of the bare C loop: the floor of everything that uses ptrace. */
export async function ptraceLoop(options: PtraceLoop): Promise<number> {
  const { mode, variant, cpus, hits } = options;
  const args = [compileBench('target'), '--mode', mode, '--variant', variant, '--hits', String(hits)];
  if (cpus) args.push('--cpus', cpus.join(','));
  const { stdout } = await execute(compileBench('ptrace_loop'), args, { timeout: 120_000 });
  return (JSON.parse(stdout) as { ns_per_hit: number }).ns_per_hit;
}

/** The target's own time for its calls, from what it prints; with nothing done to it, the unprobed time. */
export const targetTime = (stdout: string): number => (JSON.parse(stdout) as { ns: number }).ns;

export async function unprobedTime(variant: PtraceLoop['variant'], calls: number): Promise<number> {
  const { stdout } = await execute(compileBench('target'), [String(calls), variant], { timeout: 60_000 });
  return targetTime(stdout);
}

type Cell = string | number | undefined;

/** A figure as people read it: three digits that matter, thousands apart. */
export function figure(value: number): string {
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return value.toLocaleString('en-GB', { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** A Markdown table whose columns line up; numbers to the right. */
export function table(head: readonly string[], rows: readonly (readonly Cell[])[]): string {
  const text = rows.map((row) => head.map((_, i) => show(row[i])));
  const widths = head.map((title, i) => Math.max(3, title.length, ...text.map((row) => row[i]?.length ?? 0)));
  const right = head.map((_, i) => rows.some((row) => typeof row[i] === 'number'));
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, i) => (right[i] ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0))).join(' | ')} |`;
  const rule = widths.map((width, i) => (right[i] ? `${'-'.repeat(width - 1)}:` : '-'.repeat(width)));
  return [line(head), line(rule), ...text.map(line)].join('\n');
}

const show = (cell: Cell): string =>
  cell === undefined ? '–' : typeof cell === 'number' ? figure(cell) : cell;
