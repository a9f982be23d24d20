/**
 * A spec as the user wrote it becomes one that needs no more checking: copied, typed, in range. Nothing here touches a
 * file or a process, so whatever is wrong is said before anything has happened.
 */
import { SpecError } from '../base/errors.js';
import { nearest } from '../base/nearest.js';
import type { EngineName, Programs } from '../engines/engine.js';
import { programOf } from '../handler/compiled-handler.js';
import { Target } from './target.js';
import type {
  ArmState,
  FaultHit,
  Handler,
  HandlerError,
  Place,
  PostHit,
  PreHit,
  ReturnHit,
} from './types.js';

/** Which processes, with targets and single pids made plain. */
export type WantedProcesses = 'all' | readonly number[] | { readonly tree: number };

export interface CheckedSpec {
  readonly pathname: string;
  readonly place: Place;
  readonly processes: WantedProcesses;
  readonly engine: 'auto' | EngineName;
  readonly preHandler: Handler<PreHit, void | 'skip' | 'remove'> | undefined;
  readonly postHandler: Handler<PostHit, void | 'remove'> | undefined;
  readonly faultHandler: Handler<FaultHit, void | 'handled'> | undefined;
  readonly returnHandler: Handler<ReturnHit, void | 'remove'> | undefined;
  /** Of the handlers that are compiled. */
  readonly programs: Programs;
  readonly deadline: number;
  readonly trustPlace: boolean;
  readonly signal: AbortSignal | undefined;
  readonly onError: ((e: HandlerError) => void) | undefined;
  readonly onState: ((s: ArmState) => void) | undefined;
}

const DEFAULT_DEADLINE = 1000;
const LONGEST_DEADLINE = 3_600_000;
const LONGEST_PATH = 4095;
const LONGEST_SYMBOL = 65_536;
/** /proc/sys/kernel/pid_max is at most 2^22 on 64-bit machines (include/linux/threads.h). */
const HIGHEST_PID = 1 << 22;

const PLACE_KEYS = ['symbol', 'symbolOffset', 'offset', 'addr', 'pid', 'liveAddr'];
const OPTION_KEYS = [
  'pathname',
  'processes',
  'engine',
  'preHandler',
  'postHandler',
  'faultHandler',
  'returnHandler',
  'deadline',
  'trustPlace',
  'signal',
  'onError',
  'onState',
];
const KEYS = new Set([...PLACE_KEYS, ...OPTION_KEYS]);
const PLACE_KEY_SET = new Set(PLACE_KEYS);

type Fields = Readonly<Record<string, unknown>>;

/** Check and copy one spec. `what` names it in messages. */
export function checkSpec(spec: unknown, what = 'spec'): CheckedSpec {
  const fields = requireObject(spec, what);
  checkKeys(fields, what);
  const preHandler = handlerOf<PreHit, void | 'skip' | 'remove'>(fields, 'preHandler', what);
  const postHandler = handlerOf<PostHit, void | 'remove'>(fields, 'postHandler', what);
  const faultHandler = handlerOf<FaultHit, void | 'handled'>(fields, 'faultHandler', what);
  const returnHandler = handlerOf<ReturnHit, void | 'remove'>(fields, 'returnHandler', what);
  const handlers = { preHandler, postHandler, faultHandler, returnHandler };
  const programs = programsOf(preHandler, returnHandler);
  const isPlain =
    Object.values(handlers).filter((h) => h !== undefined).length > Object.keys(programs).length;
  return {
    pathname: checkPathname(fields['pathname'], `${what}.pathname`),
    place: checkPlace(pickPlace(fields), what),
    processes: processesOf(fields, isPlain, what),
    engine: engineOf(fields['engine'], what),
    ...handlers,
    programs,
    deadline: deadlineOf(fields['deadline'], what),
    trustPlace: booleanOf(fields['trustPlace'], `${what}.trustPlace`),
    signal: signalOf(fields['signal'], what),
    onError: functionOf<(e: HandlerError) => void>(fields['onError'], `${what}.onError`),
    onState: functionOf<(s: ArmState) => void>(fields['onState'], `${what}.onState`),
  };
}

/** Check and copy all specs of one transaction; messages name the faulty one by its position. */
export function checkSpecs(specs: unknown): CheckedSpec[] {
  if (typeof specs !== 'object' || specs === null || !(Symbol.iterator in specs))
    throw wrong('bad-spec', `registerUprobes takes an iterable of specs, not ${describe(specs)}`);
  const checked: CheckedSpec[] = [];
  for (const spec of specs as Iterable<unknown>) checked.push(checkSpec(spec, `specs[${checked.length}]`));
  if (checked.length === 0) throw wrong('no-specs', 'registerUprobes was given no spec at all');
  return checked;
}

const wrong = (code: string, message: string): SpecError => new SpecError(code, message);

function requireObject(spec: unknown, what: string): Fields {
  if (typeof spec !== 'object' || spec === null || Array.isArray(spec))
    throw wrong('bad-spec', `${what} must be an object with pathname and a place, not ${describe(spec)}`);
  return spec as Fields;
}

function checkKeys(fields: Fields, what: string): void {
  for (const key of Object.keys(fields)) {
    if (KEYS.has(key) || fields[key] === undefined) continue;
    const [near] = nearest(key, KEYS, 1);
    const hint = near === undefined ? `it knows ${[...KEYS].join(', ')}` : `did you mean ${near}?`;
    throw wrong('unknown-key', `${what} has an unknown key ${JSON.stringify(key)}: ${hint}`);
  }
}

/** A path or a bare name, as a string that the kernel would take. */
export function checkPathname(pathname: unknown, what = 'pathname'): string {
  if (typeof pathname !== 'string' || pathname === '')
    throw wrong(
      'bad-pathname',
      `${what} must be a path, a library's or a program's name, not ${describe(pathname)}`,
    );
  if (pathname.includes('\0')) throw wrong('bad-pathname', `${what} contains a NUL character`);
  if (Buffer.byteLength(pathname) > LONGEST_PATH)
    throw wrong('bad-pathname', `${what} is longer than ${LONGEST_PATH} bytes, which no path may be`);
  return pathname;
}

function pickPlace(fields: Fields): Fields {
  const place: Record<string, unknown> = {};
  for (const key of PLACE_KEYS) if (fields[key] !== undefined) place[key] = fields[key];
  return place;
}

/** Exactly one of the four forms of a place, copied. */
export function checkPlace(place: unknown, what = 'place'): Place {
  const fields = requireObject(place, what);
  const keys = Object.keys(fields).filter((k) => fields[k] !== undefined);
  const stranger = keys.find((k) => !PLACE_KEY_SET.has(k));
  if (stranger !== undefined) {
    const [near] = nearest(stranger, PLACE_KEYS, 1);
    const hint = near === undefined ? '' : `: did you mean ${near}?`;
    throw wrong('unknown-key', `${what} has an unknown key ${JSON.stringify(stranger)}${hint}`);
  }
  const has = (...names: string[]): boolean =>
    keys.every((k) => names.includes(k)) && fields[names[0]!] !== undefined;
  if (has('symbol', 'symbolOffset')) return symbolPlace(fields, what);
  if (has('offset', 'addr')) return offsetPlace(fields, what);
  if (has('addr')) return { addr: addressOf(fields['addr'], `${what}.addr`) };
  if (has('liveAddr', 'pid')) return livePlace(fields, what);
  throw wrong(
    'bad-place',
    `${what} must say one place: { symbol, symbolOffset? }, { offset, addr? }, { addr } or { pid, liveAddr }; ` +
      (keys.length === 0 ? 'it says none' : `it says ${keys.join(' and ')}`),
  );
}

function symbolPlace(fields: Fields, what: string): Place {
  const symbol = fields['symbol'];
  if (typeof symbol !== 'string' || symbol === '' || symbol.length > LONGEST_SYMBOL || symbol.includes('\0'))
    throw wrong('bad-symbol', `${what}.symbol must be a symbol's name, not ${describe(symbol)}`);
  if (symbol.endsWith('%return'))
    throw wrong(
      'bad-symbol',
      `${what}.symbol ${JSON.stringify(symbol)}: the return of a function is a returnHandler at its symbol`,
    );
  const symbolOffset = fields['symbolOffset'];
  if (symbolOffset === undefined) return { symbol };
  return { symbol, symbolOffset: sizeOf(symbolOffset, `${what}.symbolOffset`) };
}

function offsetPlace(fields: Fields, what: string): Place {
  const offset = sizeOf(fields['offset'], `${what}.offset`);
  const addr = fields['addr'];
  return addr === undefined ? { offset } : { offset, addr: addressOf(addr, `${what}.addr`) };
}

function livePlace(fields: Fields, what: string): Place {
  if (fields['pid'] === undefined)
    throw wrong('bad-place', `${what}.liveAddr needs the pid it is an address in`);
  return {
    pid: pidOf(fields['pid'], `${what}.pid`),
    liveAddr: addressOf(fields['liveAddr'], `${what}.liveAddr`),
  };
}

function sizeOf(value: unknown, what: string): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0)
    throw wrong('bad-number', `${what} must be a whole number of bytes, 0 or more, not ${describe(value)}`);
  return value;
}

function addressOf(value: unknown, what: string): bigint {
  if (typeof value !== 'bigint') {
    const hint =
      typeof value === 'number' && Number.isSafeInteger(value) ? `: write 0x${value.toString(16)}n` : '';
    throw wrong('bad-address', `${what} must be a bigint, not ${describe(value)}${hint}`);
  }
  if (value < 0n || value >= 1n << 64n)
    throw wrong('bad-address', `${what} must be a 64-bit address, not ${describe(value)}`);
  return value;
}

function pidOf(value: unknown, what: string): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value <= 0 || value > HIGHEST_PID)
    throw wrong('bad-pid', `${what} must be a process id, not ${describe(value)}`);
  return value;
}

const NO_PROGRAMS: Programs = {};

/** Throws CompileError where a text means something that is not there then. */
export function programsOf(preHandler: unknown, returnHandler: unknown): Programs {
  const pre = programOf(preHandler, 'pre');
  const atReturn = programOf(returnHandler, 'return');
  if (pre === undefined && atReturn === undefined) return NO_PROGRAMS;
  return { ...(pre && { pre }), ...(atReturn && { return: atReturn }) };
}

function processesOf(fields: Fields, isPlain: boolean, what: string): WantedProcesses {
  if (fields['processes'] !== undefined) return checkProcesses(fields['processes'], `${what}.processes`);
  if (isPlain)
    throw wrong(
      'processes-not-said',
      `${what} has a handler but does not say in which processes it shall run: give processes: a pid, several, or a ` +
        "target of spawnTarget; every process of the machine must be said: processes: 'all'",
    );
  return 'all';
}

/** One of the forms of `processes`, made plain and copied. */
export function checkProcesses(value: unknown, what = 'processes'): WantedProcesses {
  if (value === 'all') return 'all';
  if (typeof value === 'number') return [pidOf(value, what)];
  if (value instanceof Target) return [value.pid];
  if (Array.isArray(value)) {
    if (value.length === 0)
      throw wrong('no-processes', `${what} is an empty list: no process would be probed`);
    return [...new Set((value as unknown[]).map((pid, i) => pidOf(pid, `${what}[${i}]`)))];
  }
  if (typeof value === 'object' && value !== null && Object.keys(value).join() === 'tree')
    return { tree: pidOf((value as Fields)['tree'], `${what}.tree`) };
  throw wrong(
    'bad-processes',
    `${what} must be 'all', a pid, a list of pids, { tree: pid } or a target of spawnTarget, not ${describe(value)}`,
  );
}

function engineOf(value: unknown, what: string): 'auto' | EngineName {
  if (value === undefined) return 'auto';
  if (value === 'auto' || value === 'trap' || value === 'jump' || value === 'kernel') return value;
  throw wrong(
    'bad-engine',
    `${what}.engine must be 'auto', 'trap', 'jump' or 'kernel', not ${describe(value)}`,
  );
}

function deadlineOf(value: unknown, what: string): number {
  if (value === undefined) return DEFAULT_DEADLINE;
  if (typeof value !== 'number' || !(value > 0 && value <= LONGEST_DEADLINE))
    throw wrong(
      'bad-deadline',
      `${what}.deadline must be milliseconds above 0, at most ${LONGEST_DEADLINE}, not ${describe(value)}`,
    );
  return value;
}

function booleanOf(value: unknown, what: string): boolean {
  if (value === undefined) return false;
  if (typeof value !== 'boolean')
    throw wrong('bad-boolean', `${what} must be true or false, not ${describe(value)}`);
  return value;
}

function signalOf(value: unknown, what: string): AbortSignal | undefined {
  if (value === undefined || value instanceof AbortSignal) return value;
  throw wrong('bad-signal', `${what}.signal must be an AbortSignal, not ${describe(value)}`);
}

function functionOf<F>(value: unknown, what: string): F | undefined {
  if (value !== undefined && typeof value !== 'function')
    throw wrong('bad-function', `${what} must be a function, not ${describe(value)}`);
  return value as F | undefined;
}

const NOT_SYNCHRONOUS = new Set(['AsyncFunction', 'AsyncGeneratorFunction', 'GeneratorFunction']);

function handlerOf<H, R>(fields: Fields, key: string, what: string): Handler<H, R> | undefined {
  const handler = functionOf<Handler<H, R>>(fields[key], `${what}.${key}`);
  if (handler === undefined) return undefined;
  const kind = Object.prototype.toString.call(handler).slice('[object '.length, -1);
  if (NOT_SYNCHRONOUS.has(kind))
    throw wrong(
      'async-handler',
      `TypeError: ${what}.${key} must be an ordinary function, not an ${kind}: the thread it is called for waits until ` +
        'it returns. Keep what you need and go on with it later',
    );
  return handler;
}

/** A value in a message: short, and its kind recognisable. */
function describe(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value);
  if (typeof value === 'bigint') return `${value}n`;
  if (typeof value === 'function') return 'a function';
  if (Array.isArray(value)) return 'an array';
  if (typeof value === 'object' && value !== null) return 'an object';
  return String(value);
}
