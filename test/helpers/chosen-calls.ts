/**
 * Handlers run twice: in the kernel, at calls whose registers and memory we choose (fixtures/chosen-calls.c), and by the interpreter, over
 * a model of the same calls.
 */
import { spawnSync } from 'node:child_process';
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { decodeUtf8 } from '#uprobe/base/utf8.js';
import { mergeCell } from '#uprobe/handler/aggregates/parts.js';
import { attachesFor } from '#uprobe/handler/bpf/compile.js';
import { tallyIndex, TALLY, cellStride, type BpfCode, type BpfTarget } from '#uprobe/handler/bpf/code.js';
import { interpreter, type ProgramHit } from '#uprobe/handler/interpret.js';
import { bitsOf, isSigned, type IntType, type Program, type Register } from '#uprobe/handler/ir.js';
import {
  ATTACH,
  DELIVER,
  cellWords,
  emptyCell,
  type Aggregate,
  type CellShape,
  type EventsAggregate,
} from '#uprobe/handler/shapes.js';
import { Loaded, possibleCpus } from './bpf.js';
import { compileFixture, privateCopy, temporaryDirectory } from './compile.js';

export const BASE = 0x1_0000_0000n;
export const PAGE = 4096;
/** Pages of the program's memory; what the third has cannot be read, the last three are not there before somebody reads them. */
const PAGES = 6;

/** The words of a record, as the fixture takes them. */
// prettier-ignore
const WORDS: readonly (Register | undefined)[] = [
  'di', 'si', 'dx', 'cx', 'r8', 'r9', 'ax', 'bx', 'bp', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15', undefined, undefined,
];
export const RECORD_WORDS = WORDS.length;
export type CallWords = readonly bigint[];

export interface Chosen {
  readonly memory: Uint8Array;
  readonly calls: readonly CallWords[];
}

export const targetHere = (options: Partial<BpfTarget> = {}): BpfTarget => ({
  cpus: possibleCpus(),
  sleepable: false,
  session: undefined,
  ownPid: process.pid,
  pidNamespace: undefined,
  ...options,
});

/** The handlers of one uprobe, over aggregates that are made for each run. */
export interface Handlers<A extends readonly Aggregate[]> {
  readonly aggregates: () => A;
  readonly pre?: (aggregates: A) => Program;
  readonly return?: (aggregates: A) => Program;
}

export interface Outcome<A> {
  readonly aggregates: A;
  readonly events: readonly unknown[];
  readonly tally: Readonly<Record<keyof typeof TALLY, number>>;
  readonly pid: number;
  readonly codes: readonly BpfCode[];
}

let fixture: { path: string; offset: number } | undefined;
/** A private copy of the fixture, and where in it `probed` is. */
export function chosenCalls(): { path: string; offset: number } {
  if (fixture) return fixture;
  const path = privateCopy(compileFixture('chosen-calls', { flags: ['-pie', '-fPIE', '-O1'] }));
  const symbols = execFileSync('nm', [path], { encoding: 'latin1' });
  // Linked at 0, its code has the same addresses as offsets. Where it is loaded is far from all numbers that we make up.
  fixture = { path, offset: Number.parseInt(/^(\w+) T probed$/m.exec(symbols)![1]!, 16) };
  return fixture;
}

export function memoryFile(memory: Uint8Array): string {
  const path = join(temporaryDirectory(), 'memory');
  const whole = new Uint8Array(PAGES * PAGE);
  whole.set(memory);
  writeFileSync(path, whole);
  return path;
}

export function inputOf(calls: readonly CallWords[]): Buffer {
  return Buffer.from(BigUint64Array.from(calls.flat(), (word) => BigInt.asUintN(64, word)).buffer);
}

export interface RunOptions {
  readonly bias?: number;
  /** A command that executes the program. */
  readonly wrapper?: readonly string[];
  /** The number of the uprobe, of how many. */
  readonly number?: number;
  readonly uprobes?: number;
  /** Of what should be attached, only this. */
  readonly only?: 'entry' | 'return';
  /** Before the program runs. */
  readonly prepare?: (loaded: Loaded) => void;
}

/** In the kernel. */
export function runInKernel<A extends readonly Aggregate[]>(
  handlers: Handlers<A>,
  { memory, calls }: Chosen,
  target: BpfTarget,
  options: RunOptions = {},
): Outcome<A> {
  const { path, offset } = chosenCalls();
  const { bias = 0, number = 0, uprobes = 1, wrapper = [], only } = options;
  const aggregates = handlers.aggregates();
  const [pre, ending] = [handlers.pre?.(aggregates), handlers.return?.(aggregates)];
  const loaded = new Loaded();
  try {
    const attaches = attachesFor({ pre, return: ending }, target).filter((a) => !only || a === only);
    const codes = attaches.map((attach) => {
      const { code, fd } = loaded.load({ attach, pre, return: ending, uprobes }, target);
      const cookie = (BigInt(bias) << 32n) | BigInt(number);
      loaded.attach(fd, attach, path, [{ offset, cookie }]);
      return code;
    });
    const { tally } = codes[0]!;
    new DataView(loaded.map('tally').value.buffer).setBigUint64(number * 8, 4242n, true);
    options.prepare?.(loaded);
    const [command, ...rest] = [...wrapper, path, memoryFile(memory)];
    const run = spawnSync(command ?? path, rest, { input: inputOf(calls), timeout: 60_000 });
    if (run.status !== 0)
      throw new Error(`the program ended with ${run.status} ${run.signal} ${run.stderr.toString()}`);
    const words = loaded.map('tally').words();
    const counted = (word: number): number => {
      let sum = 0;
      for (let copy = 0; copy < tally.copies; copy++)
        sum += Number(words[tallyIndex(tally, copy, number) + word]);
      return sum;
    };
    return {
      aggregates,
      events: aggregates.flatMap((a) => take(a, loaded, target.cpus)),
      tally: {
        hits: counted(TALLY.hits),
        missed: counted(TALLY.missed),
        errors: counted(TALLY.errors),
      },
      pid: Number(/\d+/.exec(run.stdout.toString())?.[0]),
      codes,
    };
  } finally {
    loaded.close();
  }
}

/** What the kernel has of an aggregate, into the aggregate. */
function take(aggregate: Aggregate, loaded: Loaded, cpus: number): unknown[] {
  const { shape } = aggregate;
  if (!loaded.maps.some(({ spec: { key } }) => 'aggregate' in key && key.aggregate === aggregate)) return [];
  const attach = (source: unknown): void => aggregate[ATTACH](source as never)();
  const map = loaded.map('aggregate', aggregate);
  if (shape.kind === 'events') {
    const events: unknown[] = [];
    const stream = aggregate as EventsAggregate & { listen(to: (event: unknown) => void): () => void };
    const end = stream.listen((event) => events.push(event));
    stream[DELIVER](map.records());
    end();
    const lost = loaded.map('beside', aggregate).words()[0]!;
    attach({ lost: () => lost });
    return events;
  }
  if (shape.kind === 'table') {
    const entries = map.entries();
    const overflow = loaded.map('beside', aggregate).words()[0]!;
    attach({ entries: () => entries, overflow: () => overflow, clear: () => undefined });
    return [];
  }
  const cell = mergedCell(shape, map.words(), cpus);
  attach({ cell: () => cell, clear: () => undefined });
  return [];
}

export function mergedCell(shape: CellShape, words: BigInt64Array, cpus: number): BigInt64Array {
  const merged = emptyCell(shape);
  for (let cpu = 0; cpu < cpus; cpu++) {
    const at = cpu * cellStride(shape);
    mergeCell(shape, merged, words.slice(at, at + cellWords(shape)));
  }
  return merged;
}

/** By the interpreter. */
export function runByInterpreter<A extends readonly Aggregate[]>(
  handlers: Handlers<A>,
  { memory, calls }: Chosen,
  target: BpfTarget,
  pid: number,
): Omit<Outcome<A>, 'codes' | 'tally'> & { errors: number } {
  const aggregates = handlers.aggregates();
  const [pre, ending] = [handlers.pre?.(aggregates), handlers.return?.(aggregates)];
  const events: unknown[] = [];
  for (const a of aggregates) {
    if (a.shape.kind === 'events')
      (a as unknown as { listen(to: (event: unknown) => void): void }).listen((e) => events.push(e));
  }
  let errors = 0;
  const run = (program: Program | undefined, hit: ProgramHit): void => {
    try {
      if (program) interpreter(program)(hit);
    } catch (error) {
      if (program?.absent === 'skip') throw error;
      errors++;
    }
  };
  const whole = new Uint8Array(PAGES * PAGE);
  whole.set(memory);
  for (const call of calls) {
    const hit = modelHit(call, whole, target.sleepable, pid);
    run(pre, hit);
    const entryArgs = call.slice(0, 6).map((word) => BigInt.asUintN(64, word));
    run(ending, {
      ...hit,
      ...(hit.call === undefined ? {} : { call: hit.call }),
      returnValue: BigInt.asUintN(64, 2n * call[0]! + 1n),
      entryArgs,
    });
  }
  return { aggregates, events, errors, pid };
}

function modelHit(call: CallWords, memory: Uint8Array, sleepable: boolean, pid: number): ProgramHit {
  const words = call.map((word) => BigInt.asUintN(64, word));
  const regs = Object.fromEntries(WORDS.flatMap((name, i) => (name ? [[name, words[i]!]] : [])));
  const isReadable = (address: bigint): boolean => {
    if (address < BASE || address >= BASE + BigInt(memory.length)) return false;
    const page = Math.floor(Number(address - BASE) / PAGE);
    return page < 2 || (page > 2 && sleepable);
  };
  const readBytes = (address: bigint, length: number): Uint8Array | undefined => {
    for (let i = 0; i < length; i++) if (!isReadable(address + BigInt(i))) return undefined;
    return memory.subarray(Number(address - BASE), Number(address - BASE) + length);
  };
  return {
    pid,
    tid: pid,
    cpu: 0,
    comm: 'chosen-calls',
    time: 0n,
    uprobe: { id: 4242 },
    regs: regs as ProgramHit['regs'],
    arg: (n) => (n < 6 ? words[n]! : words[9 + n]!),
    floatArg: () => 0,
    readBytes,
    read: (address, type: IntType) => {
      const bytes = readBytes(address, bitsOf(type) / 8);
      if (!bytes) return undefined;
      const value = BigInt(`0x${Buffer.from(bytes).reverse().toString('hex')}`);
      return isSigned(type) ? BigInt.asIntN(bitsOf(type), value) : value;
    },
    readString: (address, max = 256) => {
      let end = 0;
      for (; end < max; end++) {
        if (!isReadable(address + BigInt(end))) return undefined;
        if (memory[Number(address - BASE) + end] === 0) break;
      }
      return decodeUtf8(memory.subarray(Number(address - BASE), Number(address - BASE) + end));
    },
  };
}
