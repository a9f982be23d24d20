/** Handlers that are run after the fact: by the interpreter, on what the kernel has recorded of a hit. */
import { UprobeError } from '../../base/errors.js';
import { MOST_CALLS, wantedOfEntry } from '../../handler/bpf/calls.js';
import { ARGUMENTS } from '../../handler/bpf/context.js';
import { allStatements, expressionsOf, isOnStack } from '../../handler/bpf/facts.js';
import { interpreter, type Interpreted, type ProgramHit } from '../../handler/interpret.js';
import { someExpr, type Expr, type Program, type Register } from '../../handler/ir.js';
import type { SampleRest } from '../../linux/perf-records.js';
import type { Programs } from '../engine.js';

/** arch/x86/include/uapi/asm/perf_regs.h: bits of sample_regs_user; what the kernel has for 64-bit programs. */
// prettier-ignore
const PERF_REGISTERS: Partial<Record<Register, number>> = {
  ax: 0, bx: 1, cx: 2, dx: 3, si: 4, di: 5, bp: 6, sp: 7, ip: 8, flags: 9, cs: 10, ss: 11,
  r8: 16, r9: 17, r10: 18, r11: 19, r12: 20, r13: 21, r14: 22, r15: 23,
};
export const isSampled = (name: Register): boolean => PERF_REGISTERS[name] !== undefined;

/** What a sample at a moment has to have. */
export interface Recorded {
  /** In the order in which samples have them. */
  readonly registers: readonly Register[];
  /** For arguments on the stack. */
  readonly stackBytes: number;
  readonly cgroup: boolean;
}

export const maskOf = ({ registers }: Recorded): bigint =>
  registers.reduce((mask, name) => mask | (1n << BigInt(PERF_REGISTERS[name]!)), 0n);

/** A sample, read. */
export interface Sample extends SampleRest {
  readonly pid: number;
  readonly tid: number;
  readonly cpu: number;
  readonly time: bigint;
}

/** What a sample does not say. */
export interface Surroundings {
  comm(pid: number, tid: number): string;
}

export const has = (program: Program | undefined, wanted: (expr: Expr) => boolean): boolean =>
  program !== undefined &&
  [...allStatements(program.body)].some((s) => expressionsOf(s).some((e) => someExpr(e, wanted)));

function recordedFor(program: Program | undefined, more: readonly Register[]): Recorded {
  const wants = (name: Register): boolean =>
    more.includes(name) ||
    has(
      program,
      (e) =>
        (e.op === 'reg' && e.name === name) ||
        (e.op === 'arg' && ARGUMENTS[e.index] === name) ||
        (e.op === 'retval' && name === 'ax'),
    );
  const registers = (Object.keys(PERF_REGISTERS) as Register[]).filter(wants);
  return { registers, stackBytes: 8 * stackWords(program), cgroup: has(program, (e) => e.op === 'cgroup') };
}

/** SysV psABI 3.2.3: the seventh argument is above the return address. */
const stackWord = (index: number): number => index - ARGUMENTS.length + 1;

/** Up to the last argument that is on the stack. */
function stackWords(program: Program | undefined): number {
  let most = 0;
  has(program, (e) => {
    if (e.op === 'arg' && isOnStack(e)) most = Math.max(most, stackWord(e.index) + 1);
    return false;
  });
  return most;
}

/** Of a call that has begun. */
interface Call {
  readonly time: bigint;
  readonly args: readonly bigint[];
  readonly left: unknown;
}

/** What a uprobe has counted. */
export interface Counts {
  hits: number;
  missed: number;
  errors: number;
}

/** The return address is no longer on the stack. */
const POPPED = 8n;

/** The handlers of uprobes that were registered together. */
export class SampleHandlers {
  readonly #pre: Interpreted | undefined;
  readonly #return: Interpreted | undefined;
  readonly #wanted: ReturnType<typeof wantedOfEntry>;
  /** What is recorded at the entry and at the return; undefined: nothing happens then. */
  readonly entry: Recorded | undefined;
  readonly return: Recorded | undefined;
  /** By uprobe, thread and stack pointer, the oldest first: calls that are left without returning stay until they are pushed out. */
  readonly #calls = new Map<string, Call>();
  readonly #hit: SampledHit;

  constructor(programs: Programs, surroundings: Surroundings) {
    const { pre, return: atReturn } = programs;
    this.#pre = pre && interpreter(pre);
    this.#return = atReturn && interpreter(atReturn);
    this.#wanted = wantedOfEntry(atReturn);
    const args = this.#wanted?.args.map((n) => ARGUMENTS[n]!) ?? [];
    const keeps = this.#wanted !== undefined;
    const isEntered = pre !== undefined || atReturn === undefined || keeps;
    this.entry = isEntered ? recordedFor(pre, keeps ? ['sp', ...args] : []) : undefined;
    this.return = atReturn && recordedFor(atReturn, keeps ? ['sp'] : []);
    this.#hit = new SampledHit(surroundings);
  }

  /** Whether what is lost at the entry is a hit of a handler. */
  get countsEntries(): boolean {
    return this.#pre !== undefined || this.#return === undefined;
  }

  /** `shift`: how far behind the place the kernel stops. */
  entered(sample: Sample, uprobe: number, shift: number, counts: Counts): void {
    const hit = this.#hit.of(this.entry!, sample, uprobe, shift);
    if (this.countsEntries) counts.hits++;
    if (this.#pre !== undefined) this.#run(this.#pre, hit, counts);
    // Threads without a number (of another pid namespace) cannot be told apart.
    if (this.#wanted === undefined || sample.tid <= 0) return;
    const key = keyOf(uprobe, sample.tid, hit.regs.sp);
    // The one of a call that never returned goes: the new one is the youngest.
    this.#calls.delete(key);
    this.#calls.set(key, {
      time: sample.time,
      args: this.#wanted.args.length > 0 ? ARGUMENTS.map((name) => hit.regs[name]) : NO_ARGUMENTS,
      left: hit.call,
    });
    if (this.#calls.size > MOST_CALLS) this.#calls.delete(this.#calls.keys().next().value!);
  }

  returned(sample: Sample, uprobe: number, counts: Counts): void {
    const hit = this.#hit.of(this.return!, sample, uprobe, 0);
    if (this.#wanted !== undefined) {
      const key = keyOf(uprobe, sample.tid, BigInt.asUintN(64, hit.regs.sp - POPPED));
      const call = this.#calls.get(key);
      if (call === undefined) {
        counts.missed++;
        return;
      }
      this.#calls.delete(key);
      hit.entered(call);
    }
    if (this.#pre === undefined) counts.hits++;
    this.#run(this.#return!, hit, counts);
  }

  #run(handler: Interpreted, hit: SampledHit, counts: Counts): void {
    try {
      handler(hit);
    } catch {
      counts.errors++;
    }
  }

  /** Samples were lost: what is known of calls under way may be of others before them. Their returns will be missed. */
  forgetCalls(): void {
    this.#calls.clear();
  }
}

const NO_ARGUMENTS: readonly bigint[] = [];
/** Functions that go on into each other have the same stack pointer. */
const keyOf = (uprobe: number, tid: number, sp: bigint): string => `${uprobe} ${tid} ${sp}`;

/** The hit as handlers see it. One for all of them: none outlives its handler. */
class SampledHit implements ProgramHit {
  pid = 0;
  tid = 0;
  cpu = 0;
  time = 0n;
  readonly uprobe = { id: 0 };
  readonly regs = {} as Record<Register, bigint>;
  // What a handler asks for is there; the rest is not looked at.
  returnValue = 0n;
  duration = 0n;
  entryArgs: readonly bigint[] = [];
  cgroup = 0n;
  call: unknown;
  #stack: BigUint64Array | undefined;
  readonly #surroundings: Surroundings;

  constructor(surroundings: Surroundings) {
    this.#surroundings = surroundings;
  }

  of({ registers, cgroup }: Recorded, sample: Sample, uprobe: number, shift: number): this {
    const { time, cpu } = sample;
    // A process of another namespace has no number where we are.
    this.pid = sample.pid || -1;
    this.tid = sample.tid || -1;
    this.cpu = cpu;
    this.time = time;
    this.uprobe.id = uprobe;
    for (let i = 0; i < registers.length; i++) this.regs[registers[i]!] = sample.registers[i]!;
    if (shift > 0 && this.regs.ip !== undefined) this.regs.ip -= BigInt(shift);
    if (cgroup) this.cgroup = sample.cgroup;
    this.#stack = sample.stack;
    this.returnValue = this.regs.ax;
    this.call = undefined;
    return this;
  }

  entered({ time, args, left }: Call): void {
    this.duration = this.time - time;
    this.entryArgs = args;
    this.call = left;
  }

  get comm(): string {
    return this.#surroundings.comm(this.pid, this.tid);
  }
  arg(n: number): bigint {
    if (n < ARGUMENTS.length) return this.regs[ARGUMENTS[n]!];
    const found = this.#stack?.[stackWord(n)];
    if (found === undefined)
      throw new UprobeError('not-readable', `argument ${n} could not be read from the stack of ${this.pid}`);
    return found;
  }
  floatArg(): number {
    return notRecorded();
  }
  read(): undefined {
    return notRecorded();
  }
  readBytes(): undefined {
    return notRecorded();
  }
  readString(): undefined {
    return notRecorded();
  }
}

/** Handlers that want it are refused (sample-refusals.ts). */
function notRecorded(): never {
  throw new TypeError('a sample has neither memory nor floating-point registers');
}
