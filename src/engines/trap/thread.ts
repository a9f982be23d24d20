/** One traced thread, and one process as the tracer sees it. State only: the other files make them move. */
import type { AddressSpace, Arm } from './address-space.js';
import type { BrokenOff } from './broken-off.js';
import type { Call } from './calls.js';
import type { Action } from './carrier.js';
import type { Want } from './wants.js';
import type { ArmReport, Phase } from '../engine.js';

/** What a thread is in the middle of, where it matters for what its next stop means. */
export type Activity =
  | { readonly kind: 'none' }
  /** A hit of it is with the handlers; `slot` is the mailbox slot, `expires` as performance.now() counts. */
  | {
      readonly kind: 'handlers';
      readonly slot: number;
      readonly arm: Arm;
      readonly siteId: number;
      readonly phase: Phase;
      readonly expires: number;
      /** `return`: other calls that have returned with this one, whose handlers come next. */
      readonly others: readonly Call[];
      /** `fault`: the signal it is about to get. Its siginfo is in `savedInfo`. */
      readonly signal: number;
    }
  | Stepping;

/**
 * Stepping through the XOL slot (or over the instruction in its own place): for its post handlers, or so that a held
 * signal finds it outside.
 */
export interface Stepping {
  readonly kind: 'stepping';
  readonly arm: Arm;
  readonly post: boolean;
  /** The program steps itself: its own trap flag was set before the instruction. */
  readonly traced: boolean;
}

export const IDLE: Activity = { kind: 'none' };

/** A signal that waits until its thread is out of the XOL slot, with its siginfo. */
export interface HeldSignal {
  readonly signal: number;
  readonly info: Uint8Array;
}

export class Thread {
  /** Not in a ptrace-stop, as far as we have been told. */
  running = true;
  /** A stop reported while the address space was frozen: its wait status. */
  pending: number | undefined;
  activity: Activity = IDLE;
  /** On its way through a system call that may change the mappings. */
  inMappingCall = false;
  readonly held: HeldSignal[] = [];
  /** The trap at the end of a step is on its way, and means nothing any more. */
  strayTrap = false;
  /** The siginfo of the pending stop, where a later stop has taken its place in the kernel. */
  savedInfo: Uint8Array | undefined;
  /** The signal mask to put back when the thread has left the XOL slot. */
  savedMask: bigint | undefined;
  /** The instruction that a fault handler has had tried again, and how often in a row. */
  retried: { readonly arm: Arm; times: number } | undefined;
  /** Stopped inside a system call (fork, exec), whose result is not in its registers yet. */
  inCall = false;
  /**
   * Stopped for us in a system call, which it makes again. Where that has a breakpoint this takes long enough for signals to come,
   * and they must find it in the call.
   */
  brokenOff: BrokenOff | undefined;
  /** It blocks SIGTRAP, as far as it has been seen to do so. */
  blocksTrap = false;
  /** At its last hit it blocked SIGTRAP, which that hit has unblocked: the mask it had. */
  trapMask: bigint | undefined;
  /** A SIGTRAP that waited for it to be unblocked and came out in a step of ours: it has to wait again. */
  waitingTrap: Uint8Array | undefined;
  /** In vfork(2): it runs nothing, and answers nothing, until its child lets go of the memory. */
  inVfork = false;
  /** An interrupt was asked for and its stop has not been seen. */
  interrupted = false;
  /**
   * It was made to do something for us out of a stop that only the kernel can bring it back to (group-stop, a system call that
   * was broken off): there is another stop before it goes on.
   */
  stopsAgain = false;
  /** The leader of a process has ended while other threads go on: it stops no more, and is reported with the last of them. */
  isZombie = false;

  constructor(
    readonly tid: number,
    readonly process: Process,
  ) {}
}

/**
 * `wanted`: probed. `carried`: shares probed memory (a child by vfork or posix_spawn, say) without being asked for, and
 * must be carried over the breakpoints until it executes something else or ends. `leaving`: to be let go at its next stop.
 */
export type Role = 'wanted' | 'carried' | 'leaving';

export class Process {
  readonly threads = new Map<number, Thread>();
  /** What is wanted of it: site id → want. Of processes that share a memory, each has its own. */
  readonly wants = new Map<number, Want>();
  /** How each wanted site stands, as last reported. */
  readonly states = new Map<number, ArmReport>();
  /** Its own action for SIGTRAP, where ours is in its place (sigtrap.ts). */
  trapAction: Action | undefined;
  /** The trees it is in that somebody has asked for, by the pids of their roots; at most MOST_TREES. */
  trees: readonly number[] = [];
  /** Somebody has asked for this very process by its pid. */
  isNamed = false;
  /** It has, or had, more than one thread. */
  hadThreads = false;
  constructor(
    readonly pid: number,
    public space: AddressSpace,
    public role: Role,
  ) {}
}
