/**
 * Bringing the text of a process to what is wanted of it, and letting a process go with its text as it was. All of
 * it happens with every thread of the address space stopped.
 */
import { SIG } from '../../linux/numbers.js';
import { ptrace } from '../../linux/ptrace.js';
import { ProcessError } from '../../base/errors.js';
import type { SlotTemplate } from '../../arch/arch.js';
import type { Refusal } from '../../base/errors.js';
import { stopAt } from '../../arch/slot.js';
import type { ArmReport } from '../engine.js';
import type { AddressSpace, Arm, ArmRequest } from './address-space.js';
import { uprootStub } from './call-stub.js';
import { CARRIER_BYTES } from './carrier.js';
import type { Ledger } from './ledger.js';
import { linkerStubs, signalStubs } from './linker-watch.js';
import { RemoteSyscalls } from './remote-syscall.js';
import { TrapActions } from './sigtrap.js';
import { IDLE, type Process, type Thread } from './thread.js';
import {
  PLAIN_STOP,
  REG,
  SIGINFO_BYTES,
  USER_IP,
  exited,
  killed,
  stopEvent,
  stopSignal,
  type Tracees,
} from './tracees.js';
import type { Want } from './wants.js';

/** How far down one slot a thread may be stepped to a defined place. */
const MAX_STEPS = 4;
/** Offset in struct user, for PTRACE_POKEUSER. */
const USER_SP = REG.sp * 8;
const SI_KERNEL = 0x80;
const TRAP_TRACE = 2;
const isBreakpointCode = (code: number): boolean => code === SI_KERNEL;
/** TRAP_BRKPT: a step over a system call (arch/x86/kernel/ptrace.c, user_single_step_report). */
const isStepCode = (code: number): boolean => code > 0 && code <= TRAP_TRACE;
/** Signals of its own that may wait for a thread before a trap: one of each standard kind, and some. */
const MOST_QUEUED = 64;

export class Arming {
  readonly #remote: RemoteSyscalls;
  readonly traps: TrapActions;
  constructor(
    private readonly tracees: Tracees,
    /** End a hit that is with the handlers. True: as if they had not been called; false: with what they decided. */
    private readonly endHit: (thread: Thread) => boolean,
    ledger?: Ledger,
  ) {
    this.#remote = new RemoteSyscalls(tracees);
    this.traps = new TrapActions(tracees, this.#remote, ledger);
  }

  /** Bring a process to its wants. Returns the sites whose state changed, or that are in `asked`. */
  sync(process: Process, asked?: ReadonlySet<number>): ArmReport[] {
    if (asked !== undefined && this.#onlyConsumersChanged(process, asked))
      return this.#reports(process, asked, new Map());
    const { space } = process;
    this.tracees.freeze(space);
    try {
      if (process.space !== space || space.threads.size === 0) throw ended(process.pid);
      const refusals = this.#change(process, space);
      return this.#reports(process, asked, refusals);
    } finally {
      this.tracees.thaw(space);
    }
  }

  /** Sites that stay armed: other uprobes on them change nothing in the process. */
  #onlyConsumersChanged(process: Process, asked: ReadonlySet<number>): boolean {
    const armed = new Map<number, Arm[]>();
    for (const arm of process.space.arms.values()) {
      const id = arm.want?.site.id;
      if (id === undefined || !asked.has(id)) continue;
      const list = armed.get(id);
      if (list) list.push(arm);
      else armed.set(id, [arm]);
    }
    for (const id of asked) if (!armed.has(id) || !process.wants.has(id)) return false;
    for (const [id, arms] of armed) for (const arm of arms) arm.want = process.wants.get(id);
    return true;
  }

  #change(process: Process, space: AddressSpace): Map<number, Refusal> {
    const maps = space.maps();
    const wanted = space.wanted(maps);
    const requests = new Map<number, ArmRequest>();
    if (!space.watched && process.wants.size > 0) {
      space.watched = true;
      this.traps.lookAtMasks(space);
      for (const stub of linkerStubs(space, maps)) requests.set(stub.address, stub);
      space.traceSyscalls = requests.size === 0;
    }
    if (process.wants.size > 0)
      for (const stub of signalStubs(space, maps))
        if (!space.arms.has(stub.address)) requests.set(stub.address, stub);
    const surplus: Arm[] = [];
    for (const arm of space.arms.values()) {
      arm.want = wanted.get(arm.address);
      if (arm.want === undefined && !isWatched(space, arm)) surplus.push(arm);
    }
    this.#disarm(space, surplus);
    for (const [address, want] of wanted) {
      if (space.arms.has(address)) continue;
      // a linker stub that is wanted by a uprobe too becomes one breakpoint with both uses
      const watch = requests.get(address)?.watch;
      requests.set(address, {
        address,
        bytes: want.site.instruction.bytes,
        template: templateOf(want),
        want,
        watch,
      });
    }
    const bySite = new Map<number, Refusal>();
    if (requests.size === 0) return bySite;
    const refused = space.arm([...requests.values()], (near, length) => this.#allocate(space, near, length));
    for (const [address, refusal] of refused) {
      const want = wanted.get(address);
      if (want !== undefined) bySite.set(want.site.id, refusal);
    }
    return bySite;
  }

  /** Executable memory from whichever thread can best be used: one that waits in no signal's delivery. */
  #allocate(space: AddressSpace, near: number, length: number): number {
    const stopped = [...space.threads].filter((t) => isFree(t) && t.process === space.owner);
    const best = stopped.find((t) => t.pending !== undefined && stopEvent(t.pending) !== 0) ?? stopped[0];
    if (best === undefined) return -1;
    if (space.carrier !== undefined) return this.#remote.allocateNear(best, near, length);
    const start = this.#remote.allocateNear(best, near, CARRIER_BYTES + length);
    if (start < 0 || this.traps.install(best, space, start)) return start < 0 ? start : start + CARRIER_BYTES;
    this.#remote.unmap(best, [{ start, size: CARRIER_BYTES + length }]);
    return -1;
  }

  /** Out with these. Afterwards no thread is in their slots, or has run into one of them without our having been told. */
  #disarm(space: AddressSpace, arms: readonly Arm[]): void {
    if (arms.length === 0) return;
    this.#leaveSlots(space, new Set(arms));
    space.disarm(arms);
    const removed = new Map(arms.map((arm) => [arm.address, arm]));
    for (const thread of [...space.threads]) if (!thread.running) this.#settle(thread, removed);
  }

  /** Threads inside the slots of these arms go on in the program's own text, which is about to be whole again. */
  #leaveSlots(space: AddressSpace, arms: ReadonlySet<Arm>): void {
    for (const thread of space.threads) {
      if (thread.running) continue;
      for (let i = 0; i < MAX_STEPS; i++) {
        const inside = this.#slotOf(thread);
        if (inside === undefined || !arms.has(inside.arm)) break;
        const stop = stopAt(inside.arm.template, inside.at);
        if (stop?.resume === undefined) {
          this.#remote.step(thread);
          continue;
        }
        ptrace.pokeUser(thread.tid, USER_IP, inside.arm.address + stop.resume);
        this.#endStepping(thread);
        break;
      }
    }
  }

  #slotOf(thread: Thread): ReturnType<AddressSpace['inSlot']> {
    const { scratch } = this.tracees;
    if (!ptrace.getRegs(thread.tid, scratch.address)) return undefined;
    return thread.process.space.inSlot(Number(scratch.regs[REG.ip]));
  }

  /** The stop at the end of a step means nothing any more. */
  #endStepping(thread: Thread): void {
    if (thread.activity.kind !== 'stepping') return;
    thread.activity = IDLE;
    const { pending } = thread;
    if (pending !== undefined && stopEvent(pending) === 0 && stopSignal(pending) === SIG.trap)
      thread.pending = PLAIN_STOP;
    else if (this.#trapQueued(thread, isStepCode)) this.#letTrapOut(thread);
    this.restoreMask(thread);
  }

  restoreMask(thread: Thread): void {
    if (thread.savedMask === undefined) return;
    this.tracees.scratch.word[0] = thread.savedMask;
    ptrace.setSigMask(thread.tid, this.tracees.scratch.wordAddress);
    thread.savedMask = undefined;
  }

  #reports(
    process: Process,
    asked: ReadonlySet<number> | undefined,
    refusals: ReadonlyMap<number, Refusal>,
  ): ArmReport[] {
    const armed = new Set<number>();
    for (const arm of process.space.arms.values()) if (arm.want !== undefined) armed.add(arm.want.site.id);
    const reports: ArmReport[] = [];
    for (const id of asked ?? process.wants.keys()) {
      if (!process.wants.has(id)) {
        process.states.delete(id);
        continue;
      }
      const refusal = refusals.get(id);
      const state = armed.has(id) ? 'armed' : refusal === undefined ? 'pending' : 'refused';
      const report: ArmReport = {
        siteId: id,
        pid: process.pid,
        state,
        ...(refusal === undefined ? {} : { refusal }),
      };
      if (asked !== undefined || process.states.get(id)?.state !== state) reports.push(report);
      process.states.set(id, report);
    }
    return reports;
  }

  /** Disarm everything in the memory of a process and let all its threads go, with the signals they are due. */
  detach(process: Process): void {
    const { space } = process;
    process.wants.clear();
    try {
      this.tracees.freeze(space);
    } catch {
      space.frozen++; // a thread in uninterruptible sleep executes nothing: its bytes can be restored all the same
    }
    for (const thread of space.threads) {
      thread.process.role = 'leaving';
      if (!thread.running) this.#takeBack(thread);
    }
    this.#disarm(space, [...space.arms.values()]);
    this.#vacate(space);
    space.frozen--;
    for (const thread of [...space.threads]) if (!thread.running) this.leave(thread);
  }

  /**
   * Nothing of ours stays: each process in this memory gets its own action for SIGTRAP again, and when all have, what we
   * mapped goes. Who cannot be made to do that now does it when it leaves.
   */
  #vacate(space: AddressSpace): void {
    const helpers = new Map<Process, Thread>();
    for (const thread of space.threads) if (isFree(thread)) helpers.set(thread.process, thread);
    const masked = [...helpers.values()].filter((helper) => this.traps.isIgnored(helper.process));
    masked.forEach((helper) => this.#withoutSignals(helper));
    for (const helper of helpers.values()) this.traps.restore(helper);
    this.#unmapAll(space, helpers);
    masked.forEach((helper) => this.restoreMask(helper));
  }

  #unmapAll(space: AddressSpace, helpers: ReadonlyMap<Process, Thread>): void {
    const helper = helpers.values().next().value;
    if (helper === undefined || [...space.threads].some((t) => t.process.trapAction !== undefined)) return;
    const { carrier } = space;
    const own = carrier === undefined ? [] : [{ start: carrier.base, size: CARRIER_BYTES }, ...carrier.extra];
    if (carrier?.outlived !== true) this.#remote.unmap(helper, [...own, ...space.areas]);
    uprootStub(space.memory, space.callStub);
    space.callStub = undefined;
    space.forgetAreas();
    for (const process of helpers.keys()) this.traps.forget(process);
  }

  /**
   * The signal that a thread is stopped for is delivered, and none comes after it before the thread's mask is restored. With a
   * signal to deliver a call for us ends in a step, whose trap takes an action away that ignores it
   * (kernel/signal.c, force_sig_info_to_task).
   */
  #withoutSignals(thread: Thread): void {
    this.#deliverNow(thread);
    const { scratch } = this.tracees;
    if (thread.savedMask !== undefined || !ptrace.getSigMask(thread.tid, scratch.wordAddress)) return;
    thread.savedMask = scratch.word[0]!;
    scratch.word[0] = 0xffff_ffff_ffff_ffffn;
    ptrace.setSigMask(thread.tid, scratch.wordAddress);
  }

  #deliverNow(thread: Thread): void {
    const { bell } = this.tracees;
    for (let i = 0; i < MOST_QUEUED && isAtSignal(thread); i++) {
      const signal = this.#dueSignal(thread);
      thread.savedInfo = undefined;
      thread.interrupted = ptrace.interruptIfThere(thread.tid);
      if (!ptrace.cont(thread.tid, signal) || bell.reap(thread.tid) !== thread.tid) return;
      const { status } = bell;
      if (exited(status) || killed(status)) throw ended(thread.process.pid);
      thread.pending = status;
      if (stopEvent(status) !== 0) thread.interrupted = false;
    }
  }

  /** A hit that is with the handlers: its thread goes on without them, as if it had just come to the place. */
  #takeBack(thread: Thread): void {
    if (thread.activity.kind !== 'handlers') return;
    const { arm, phase } = thread.activity;
    if (!this.endHit(thread)) return;
    if (phase === 'pre') ptrace.pokeUser(thread.tid, USER_IP, arm.address);
    thread.pending = PLAIN_STOP;
    thread.savedInfo = undefined;
  }

  /** A thread that ran into a breakpoint which is gone now: back to its instruction. */
  #settle(thread: Thread, removed: ReadonlyMap<number, Arm>): void {
    const { scratch } = this.tracees;
    // its ip is set when its handlers have been called
    if (thread.activity.kind === 'handlers' || !ptrace.getRegs(thread.tid, scratch.address)) return;
    const before = Number(scratch.regs[REG.ip]) - 1;
    const arm = removed.get(before);
    if (arm === undefined) return;
    if (this.#stoppedByBreakpoint(thread, arm)) {
      ptrace.pokeUser(thread.tid, USER_IP, before);
      this.#reblock(thread, this.#waitingTrap(thread));
      thread.pending = PLAIN_STOP;
    } else if (this.#trapQueued(thread, arm.template.length > 1 ? () => true : isBreakpointCode)) {
      this.#letTrapOut(thread, before);
    }
  }

  /** The trap is queued behind the stop that we asked for: it comes out first, or it would kill once we are gone. */
  #letTrapOut(thread: Thread, address?: number): void {
    const { bell } = this.tracees;
    if (!ptrace.cont(thread.tid, 0) || bell.lookAt(thread.tid) !== thread.tid) return;
    const { status } = bell;
    if (exited(status) || killed(status)) return this.tracees.ended(thread, status);
    thread.pending = status;
    if (stopEvent(status) === 0 && stopSignal(status) === SIG.trap) {
      if (address !== undefined) {
        ptrace.pokeUser(thread.tid, USER_IP, address);
        this.#reblock(thread, this.#waitingTrap(thread));
      }
      thread.pending = PLAIN_STOP;
    }
    bell.consume(thread.tid);
  }

  /**
   * A thread whose hit cannot be looked at now is put back before the breakpoint: the hit comes again, or the breakpoint
   * was taken out. Returns what its stop is then.
   */
  putBack(thread: Thread, status: number): number {
    const { scratch } = this.tracees;
    if (stopEvent(status) !== 0 || stopSignal(status) !== SIG.trap || thread.activity.kind !== 'none')
      return status;
    if (!ptrace.getRegs(thread.tid, scratch.address)) return status;
    const address = Number(scratch.regs[REG.ip]) - 1;
    const arm = thread.process.space.arms.get(address);
    if (arm === undefined) return status;
    const isBreakpoint = this.breakpointInfo(thread);
    if (!isBreakpoint && arm.template.length === 1) return status;
    if (!ptrace.pokeUser(thread.tid, USER_IP, address)) return status;
    this.#reblock(thread, isBreakpoint ? undefined : scratch.info.slice());
    return PLAIN_STOP;
  }

  /** A signal that waited already for the thread to unblock it is what a breakpoint's stop tells of, not the breakpoint. */
  #waitingTrap(thread: Thread): Uint8Array | undefined {
    return this.breakpointInfo(thread) ? undefined : this.tracees.scratch.info.slice(0, SIGINFO_BYTES);
  }

  /** A breakpoint that means nothing any more has done the same to SIGTRAP as any other. */
  #reblock(thread: Thread, waiting?: Uint8Array): void {
    if (!ptrace.getSigMask(thread.tid, this.tracees.scratch.wordAddress) || !this.traps.mayBlock(thread))
      return;
    this.traps.hit(thread, this.tracees.scratch.word[0]!, waiting);
    thread.savedInfo = undefined;
  }

  #stoppedByBreakpoint(thread: Thread, arm: Arm): boolean {
    const { pending } = thread;
    if (pending === undefined || stopEvent(pending) !== 0 || stopSignal(pending) !== SIG.trap) return false;
    return arm.template.length > 1 || this.breakpointInfo(thread);
  }

  /** Whether the stop of this thread is for a breakpoint instruction: the kernel says SI_KERNEL for int3. */
  breakpointInfo(thread: Thread): boolean {
    return this.tracees.readInfo(thread) && this.tracees.scratch.infoCode === SI_KERNEL;
  }

  #trapQueued(thread: Thread, hasCode: (code: number) => boolean): boolean {
    const { scratch } = this.tracees;
    for (let at = 0; at < MOST_QUEUED; at++) {
      // struct ptrace_peeksiginfo_args { u64 off; u32 flags; s32 nr; }
      scratch.word[0] = BigInt(at);
      scratch.word[1] = 1n << 32n;
      if (ptrace.peekSigInfo(thread.tid, scratch.wordAddress, scratch.infoAddress) !== 1) return false;
      if (scratch.infoSignal === SIG.trap && hasCode(scratch.infoCode)) return true;
    }
    return false;
  }

  /** Let one stopped thread of a process that is being left go, in whichever stop it is. */
  leave(thread: Thread): void {
    const { space } = thread.process;
    if (space.isOccupied && space.arms.size === 0 && !thread.running) {
      try {
        this.#vacate(space); // a child's copy of our memory
      } catch {
        return; // it has just ended
      }
    }
    this.restoreMask(thread);
    this.tracees.release(thread, this.#dueSignal(thread));
  }

  #dueSignal(thread: Thread): number {
    const held = thread.held.shift();
    if (held !== undefined) {
      this.tracees.setInfo(thread, held.info);
      thread.savedInfo = undefined;
      return held.signal;
    }
    const { pending } = thread;
    if (pending === undefined || stopEvent(pending) !== 0) return 0;
    const signal = stopSignal(pending);
    return signal === (SIG.trap | 0x80) ? 0 : signal;
  }

  /** A fault of the displaced instruction belongs to the instruction: registers and siginfo as if it had been in place. */
  translateFault(thread: Thread, arm: Arm, at: number): void {
    const { scratch } = this.tracees;
    const stop = arm.template.stops.findLast((s) => s.at <= at);
    const ip = arm.address + (stop?.resume ?? 0);
    ptrace.pokeUser(thread.tid, USER_IP, ip);
    if (stop !== undefined && stop.undoSp !== 0)
      ptrace.pokeUser(thread.tid, USER_SP, Number(scratch.regs[REG.sp]) + stop.undoSp);
    if (!this.tracees.readInfo(thread)) return;
    // SIGILL, SIGFPE and SIGTRAP carry the address of the instruction (sigaction(2), si_addr at offset 16)
    const address = scratch.infoTarget;
    if (address < arm.slot || address >= arm.slot + arm.template.code.length) return;
    scratch.infoTarget = arm.address;
    ptrace.setSigInfo(thread.tid, scratch.infoAddress);
  }
}

const isWatched = (space: AddressSpace, { watch }: Arm): boolean =>
  watch !== undefined && (space.watchesMasks || (watch !== 'sigmask' && watch !== 'sigreturn'));

/** It can be made to do something for us. */
const isFree = (thread: Thread): boolean => !thread.running && !thread.inVfork;

const isAtSignal = ({ pending, savedInfo, held }: Thread): boolean =>
  pending === undefined || stopEvent(pending) === 0 || savedInfo !== undefined || held.length > 0;

/** Sites without a template never get this far: canArm refuses them. */
function templateOf(want: Want): SlotTemplate {
  if (want.site.template === undefined) throw new Error(`site ${want.site.id} has no template`);
  return want.site.template;
}

const ended = (pid: number): ProcessError =>
  new ProcessError('no-such-process', pid, `process ${pid} has ended`);
