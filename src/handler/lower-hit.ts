/** What a compiled handler can ask of its hit: the names, JavaScript's types of them, and their ranges. */
import type { Expr, ProgramMoment, Register } from './ir.js';
import { REGISTERS } from './ir.js';
import type { Range } from './ranges.js';
import { U64, range } from './ranges.js';

export interface Property {
  readonly kind: 'bigint' | 'number' | 'string';
  readonly expr: Expr;
  readonly range: Range;
  readonly optional?: boolean;
  /** Where it is known, if not always. */
  readonly moment?: ProgramMoment;
}

/** PID_MAX_LIMIT of a 64-bit kernel (include/linux/threads.h). */
const MOST_TASKS = 4n * 1024n * 1024n;
/** NR_CPUS_RANGE_END of x86-64 (arch/x86/Kconfig). */
const MOST_CPUS = 8192n;
/** ktime_t is signed, and neither CLOCK_MONOTONIC nor a duration is ever negative (include/linux/ktime.h). */
const TIME = range(0n, (1n << 63n) - 1n);

export const PROPERTIES: Readonly<Record<string, Property>> = {
  pid: { kind: 'number', expr: { op: 'of', type: 'u32', what: 'pid' }, range: range(0n, MOST_TASKS) },
  tid: { kind: 'number', expr: { op: 'of', type: 'u32', what: 'tid' }, range: range(0n, MOST_TASKS) },
  cpu: { kind: 'number', expr: { op: 'of', type: 'u32', what: 'cpu' }, range: range(0n, MOST_CPUS - 1n) },
  comm: { kind: 'string', expr: { op: 'comm', type: 'string' }, range: range(0n, 0n) },
  time: { kind: 'bigint', expr: { op: 'time', type: 'u64' }, range: TIME },
  cgroup: { kind: 'bigint', expr: { op: 'cgroup', type: 'u64' }, range: U64 },
  returnValue: { kind: 'bigint', expr: { op: 'retval', type: 'u64' }, range: U64, moment: 'return' },
  duration: { kind: 'bigint', expr: { op: 'duration', type: 'u64' }, range: TIME, moment: 'return' },
  call: { kind: 'bigint', expr: { op: 'call', type: 'u64' }, range: U64, optional: true, moment: 'return' },
};

/** `hit.uprobe.id`: they are counted from 1. */
export const UPROBE_ID: Property = {
  kind: 'number',
  expr: { op: 'uprobe', type: 'u64' },
  range: range(0n, (1n << 32n) - 1n),
};

export const METHODS = ['arg', 'read', 'readString'] as const;
export const HIT_NAMES: readonly string[] = [
  ...Object.keys(PROPERTIES),
  ...METHODS,
  'regs',
  'entryArgs',
  'uprobe',
];

/** What plain handlers have, and why compiled ones do not. */
export const PLAIN_ONLY: Readonly<Record<string, string>> = {
  floatArg: 'floating-point numbers are not part of compiled handlers',
  readBytes: 'compiled handlers read numbers, hit.read(address, "u32"), and strings, hit.readString(address)',
  write: 'compiled handlers do not write memory',
  fault: 'fault handlers cannot be compiled',
};

export const isRegister = (name: string): name is Register => (REGISTERS as readonly string[]).includes(name);

/** What facts about a value of the hit are kept by: it is the same each time it is asked for. */
export function keyOf(expr: Expr): string | undefined {
  switch (expr.op) {
    case 'arg':
      return expr.index < 6 ? `arg${expr.index}` : undefined;
    case 'entryArg':
      return `entryArg${expr.index}`;
    case 'reg':
      return `reg ${expr.name}`;
    case 'of':
      return expr.what;
    case 'retval':
    case 'duration':
    case 'time':
    case 'cgroup':
    case 'call':
    case 'uprobe':
      return expr.op;
    default:
      return undefined;
  }
}

/** Facts that a written register ends: arguments and return values are registers. */
export const ofRegisters = (key: string): boolean => /^(?:arg\d|reg |retval$)/.test(key);
