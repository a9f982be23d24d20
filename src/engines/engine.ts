/**
 * The whole contract between the table of probes (`probe/`) and the engines. The table knows files, places,
 * uprobes and handlers; an engine knows how to divert threads at sites. Neither imports the other: one composition
 * file wires them.
 */
import type { FileOffset } from '../base/address.js';
import type { Refusal } from '../base/errors.js';
import type { Instruction, SlotTemplate } from '../arch/arch.js';
import type { Program } from '../handler/ir.js';

export type EngineName = 'trap' | 'jump' | 'kernel';

/** What an engine needs to know of a probed file. Plain data. */
export interface ModuleFacts {
  /** Ours, unique in this process, never reused. */
  readonly id: number;
  readonly dev: bigint;
  readonly ino: bigint;
  /** The path it was opened by: for messages only. */
  readonly path: string;
  /** Our descriptor of it, as long as it is probed. */
  readonly fd: number;
}

/** One (module, file offset). */
export type SiteFacts = SitePlace & OutOfLine;

export interface SitePlace {
  /** Ours, unique in this process, never reused. */
  readonly id: number;
  readonly module: ModuleFacts;
  readonly offset: FileOffset;
  /** The original instruction, from the file. */
  readonly instruction: Instruction;
  /** A function begins here. */
  readonly atEntry?: boolean;
  /** Behind an instruction that does nothing but mark a place to jump to (endbr64): the one that follows. */
  readonly next?: Instruction | undefined;
  /** Why no engine may stop a thread there. */
  readonly forbidden?: Refusal | undefined;
}

/** How an instruction runs out of line, or why it cannot: one of the two. */
export interface OutOfLine {
  readonly template: SlotTemplate | undefined;
  readonly refusal?: Refusal | undefined;
}

/** What decides whether a site can be armed at all. */
export type ArmableSite = Pick<SitePlace, 'instruction' | 'atEntry' | 'next' | 'forbidden'> & OutOfLine;

/**
 * Which processes a consumer wants. `'all'` is every process, present and future; a tree is a process with all its
 * descendants, whatever becomes of itself.
 */
export type ProcessSet = 'all' | readonly number[] | { readonly tree: number };

/** How many trees that are asked for one process may be in at once. */
export const MOST_TREES = 8;

/** When handlers are called: before the displaced instruction, after it, when it faults, when the function returns. */
export type Phase = 'pre' | 'post' | 'fault' | 'return';

/** One uprobe as an engine sees it. Plain data. */
export interface Consumer {
  /** The uprobe's id. */
  readonly id: number;
  readonly processes: ProcessSet;
  /** Which handlers it has. None at all: the engine itself counts its hits. */
  readonly pre: boolean;
  readonly post: boolean;
  readonly fault: boolean;
  readonly return: boolean;
  /** Those of its handlers that need not run here. Any engine may call their plain forms instead, which mean the same. */
  readonly programs?: Programs | undefined;
  /** Milliseconds a hit may wait for its handlers. */
  readonly deadline: number;
}

export interface Programs {
  readonly pre?: Program;
  readonly return?: Program;
}

/** What an engine has counted of one consumer itself. */
export interface Tally {
  readonly hits: bigint;
  readonly missed: bigint;
  /** Handlers that failed. */
  readonly errors: bigint;
}
export const NO_TALLY: Tally = { hits: 0n, missed: 0n, errors: 0n };

/** The whole desired state of one site: every consumer of it, in registration order. Empty: disarm. */
export interface SiteChange {
  readonly site: SiteFacts;
  readonly consumers: readonly Consumer[];
}

/** How one site stands in one process. */
export interface ArmReport {
  readonly siteId: number;
  /** 0: whatever process maps the file, now or later (an engine that works by files). */
  readonly pid: number;
  /** The trees it is in, by the pids of their roots. */
  readonly trees?: readonly number[];
  /**
   * `pending`: the process does not map the file now; it is armed as soon as it does. `gone`: the process ended
   * or is no longer ours.
   */
  readonly state: 'armed' | 'pending' | 'refused' | 'gone';
  readonly refusal?: Refusal;
}

/** A hit as an engine hands it over; valid only until `sink.hit` returns. */
export interface RawHit {
  readonly siteId: number;
  readonly phase: Phase;
  readonly pid: number;
  readonly tid: number;
  /** The trees the process is in, by the pids of their roots. */
  readonly trees: readonly number[];
  /**
   * `pre` at the entry of a function whose return is wanted, and its `return`: which call of it this is, unique among those
   * of the site. 0: none.
   */
  readonly call: number;
  /** `return`: what was kept when the function was entered. */
  readonly entry: CallEntry;
  /** `fault`: the signal that the displaced instruction raised. */
  readonly fault: RaisedSignal;
  /** CLOCK_MONOTONIC, ns. */
  readonly time: bigint;
  /** The kernel's user_regs_struct as 27 64-bit words (x86-64: see probe/regs.ts for the order); writable. */
  readonly regs: BigUint64Array;
  /** The FXSAVE image (x86-64: 512 bytes; xmm0 at 160). Costs a round trip to the tracer. */
  floatRegs(): Uint8Array;
  /** Read target memory; undefined where any byte is not readable. */
  read(address: bigint, length: number): Uint8Array | undefined;
  /** Write target memory; throws UprobeError where it cannot. */
  write(address: bigint, bytes: Uint8Array): void;
  /** False once the deadline has passed and the thread has gone on without the handlers. */
  alive(): boolean;
}

/** The entry of a call that has returned. */
export interface CallEntry {
  /** CLOCK_MONOTONIC, ns. */
  readonly time: bigint;
  /** The registers that hold the first arguments: di, si, dx, cx, r8, r9. */
  readonly args: BigUint64Array;
  /** Consumers with greater ids came later and have not seen this call begin. */
  readonly lastConsumer: number;
}

/** sigaction(2), siginfo_t. */
export interface RaisedSignal {
  readonly signal: number;
  readonly code: number;
  /** si_addr: what could not be accessed (SIGSEGV, SIGBUS), else the instruction. */
  readonly address: bigint;
}

export interface Verdict {
  /**
   * Pre phase: do not run the displaced instruction (nor the post handlers); `ip` is as the handlers left it. Fault phase:
   * the fault is dealt with, and the thread goes on with these registers and without the signal.
   */
  readonly skip: boolean;
  /** False: no register was written, and the engine need not look at them. */
  readonly changed: boolean;
}

/** What engines call. All on the thread that made the engine, never while another call of it runs. */
export interface EngineSink {
  hit(hit: RawHit): Verdict;
  /** The handlers of a phase could not run at a hit. */
  missed(siteId: number, pid: number, trees: readonly number[], phase: Phase, why: string): void;
  /** These calls will not return: their frames were left by longjmp or an exception, or their thread has ended. */
  abandoned(siteId: number, pid: number, trees: readonly number[], calls: readonly number[]): void;
  state(report: ArmReport): void;
  /** A process ended, or is no longer ours: every site of it is gone. */
  ended(pid: number): void;
  /** A process made another one, which stands as it does at every site that is wanted in one of these trees. */
  born(pid: number, parent: number, trees: readonly number[]): void;
  /** No process of a tree is left. Its root's pid may be another process's from now on. */
  treeEnded(root: number): void;
  /** The engine can no longer work (its thread crashed …): every uprobe is gone. */
  failed(error: Error): void;
}

export interface Engine {
  readonly name: EngineName;
  /** Whether this engine can serve these consumers at this site. Pure; touches no process. */
  canArm(site: ArmableSite, consumers: readonly Consumer[]): Refusal | undefined;
  /**
   * Bring sites to a new state, as one transaction: when it rejects, nothing of it remains. Resolves when every
   * process concerned is as wanted, with one report per (site, process). Taking consumers away never rejects.
   * Rejects with ProcessError when a process named for the first time, or the root of a tree, cannot be attached; a
   * descendant that cannot be is reported as `refused`.
   */
  apply(changes: readonly SiteChange[]): Promise<readonly ArmReport[]>;
  /** What the engine itself has counted: of consumers without handlers, and of those whose handlers it runs. Until they are settled. */
  tally(consumerId: number): Tally;
  /** The same of one that has been taken out. It is asked for once, and then forgotten. */
  settle(consumerId: number): Tally;
  /** Disarm everything, let every process go, end the engine's threads. */
  close(): Promise<void>;
  /** The same without the event loop, for process exit; bounded in time. */
  closeSync(): void;
}
