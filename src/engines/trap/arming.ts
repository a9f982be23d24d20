/**
 * Bringing the text of a process to what is wanted of it, and letting a process go with its text as it was. All of
 * it happens with every thread of the address space stopped.
 */
import { SIG } from '../../linux/numbers.js';
import { statusField } from '../../linux/proc-status.js';
import { EVENT, ptrace } from '../../linux/ptrace.js';
import { SIGINFO_BYTES, SI_KERNEL, TRAP_BRKPT, TRAP_TRACE } from '../../linux/siginfo.js';
import { REG, TRAP_FLAG, USER_IP } from '../../linux/user-regs.js';
import { PLAIN_STOP, signalStop, stopEvent, stopSignal } from '../../linux/wait-status.js';
import { ProcessError } from '../../base/errors.js';
import { addTo } from '../../base/multimap.js';
import type { SlotStop, SlotTemplate } from '../../arch/arch.js';
import type { Refusal } from '../../base/errors.js';
import { stopAt, stopBefore } from '../../arch/slot.js';
import type { ArmReport } from '../engine.js';
import { mappingAt, type Mapping } from '../../process/maps.js';
import { isUsed, type AddressSpace, type Arm, type ArmRequest } from './address-space.js';
import { uprootStub } from './call-stub.js';
import { CARRIER_BYTES } from './carrier.js';
import { ended, isEnd, unlessDying } from './dying.js';
import { isGroupStop } from './job-control.js';
import type { Ledger } from './ledger.js';
import { linkerStubs, signalStubs } from './linker-watch.js';
import { RemoteSyscalls } from './remote-syscall.js';
import { TrapActions } from './sigtrap.js';
import { leaveSlot, translateInfo } from './slot-exit.js';
import { IDLE, type HeldSignal, type Process, type Thread } from './thread.js';
import type { Tracees } from './tracees.js';
import type { Want } from './wants.js';

/** How far down one slot a thread may be stepped to a defined place. */
const MAX_STEPS = 4;
/** What an instruction may raise. */
export const FAULTS: ReadonlySet<number> = new Set([SIG.ill, SIG.trap, SIG.bus, SIG.fpe, SIG.segv, SIG.sys]);
/** How long a parent may take to come out of vfork when its child has left its memory, ms. */
const WAKING_MS = 1000;
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

  /**
   * Bring the memory of a process to what is wanted of it. Returns the sites whose state changed, or that are in `asked`, and
   * those that changed in other processes with the same memory.
   */
  sync(process: Process, asked?: ReadonlySet<number>): ArmReport[] {
    if (asked !== undefined && this.#onlyConsumersChanged(process, asked))
      return this.#reports(process, asked, new Map());
    const limit = performance.now() + WAKING_MS;
    for (;;) {
      const { space } = process;
      this.#awaitWaking(space);
      const wasBehind = space.isBehind;
      space.isBehind = true; // also for a copy that is made while its threads come to a stop
      const late = this.tracees.freeze(space);
      try {
        if (process.threads.size === 0) throw ended(process.pid);
        if (process.space !== space) continue; // it has executed another program meanwhile
        if (isAsleep(space) && performance.now() < limit) continue; // the child has left while the others came to a stop
        if (late !== undefined) throw doesNotStop(late);
        const refusals = unlessDying(space, () => this.#change(space));
        return [...space.processes()].flatMap((p) =>
          this.#reports(p, p === process ? asked : undefined, refusals),
        );
      } catch (e) {
        space.isBehind = wasBehind;
        // its memory has: the process may be about to go on with another one
        const mayGoOn = isEnd(e) && process.threads.size > 0 && performance.now() < limit;
        if (!mayGoOn) throw e;
      } finally {
        this.tracees.thaw(space);
      }
      this.#waitForEvents();
    }
  }

  /**
   * A parent that waits in vfork can do nothing for us, and when its child has executed a program there is nobody else for a
   * moment: until it has woken up.
   */
  #awaitWaking(space: AddressSpace): void {
    const limit = performance.now() + WAKING_MS;
    while (isAsleep(space) && performance.now() < limit) this.#waitForEvents();
  }

  #waitForEvents(): void {
    this.tracees.take(10);
    this.tracees.rungMeanwhile |= this.tracees.bell.rung();
  }

  /** Sites that stay armed: other uprobes on them change nothing in the process. */
  #onlyConsumersChanged(process: Process, asked: ReadonlySet<number>): boolean {
    const armed = new Map<number, Arm[]>();
    for (const arm of process.space.arms.values()) {
      const id = arm.want?.site.id;
      if (id !== undefined && asked.has(id)) addTo(armed, id, arm);
    }
    for (const id of asked) {
      const want = process.wants.get(id);
      // breakpoints where it returns to have to go
      const leavesReturns =
        want?.return !== true && armed.get(id)?.some((arm) => arm.want?.return === true) === true;
      if (want === undefined || !armed.has(id) || leavesReturns) return false;
    }
    for (const [id, arms] of armed) for (const arm of arms) arm.want = process.wants.get(id);
    return true;
  }

  #change(space: AddressSpace): Map<number, Refusal> {
    const maps = space.maps();
    const wanted = space.wanted(maps);
    const requests = new Map<number, ArmRequest>();
    space.isBehind = false;
    if (!space.watched && space.isWanted) {
      space.watched = true;
      // arch/x86/kernel/cpu/proc.c, dump_x86_features
      space.shadowStacks = statusField(space.shownBy, 'x86_Thread_features')?.includes('shstk') === true;
      this.traps.lookAtMasks(space);
      for (const stub of linkerStubs(space, maps)) requests.set(stub.address, stub);
      space.traceSyscalls = requests.size === 0;
    }
    if (space.isWanted)
      for (const stub of signalStubs(space, maps))
        if (!space.arms.has(stub.address)) requests.set(stub.address, stub);
    const returnsTo = (process: Process, siteId: number): boolean =>
      process.wants.get(siteId)?.return === true;
    space.calls.remove((c) => !returnsTo(c.process, c.siteId));
    const processes = [...space.processes()];
    const isAwaited = (siteId: number): boolean => processes.some((p) => returnsTo(p, siteId));
    const surplus: Arm[] = [];
    for (const arm of space.arms.values()) {
      arm.want = wanted.get(arm.address);
      if (arm.returns !== undefined) stillReturning(arm, arm.returns, isAwaited, maps);
      if (!isUsed(arm, space)) surplus.push(arm);
    }
    this.#disarm(space, surplus);
    for (const thread of space.threads)
      if (isFree(thread) && thread.process.role !== 'leaving') this.traps.join(thread);
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

  /**
   * One more breakpoint in a memory whose threads run on, by a thread of it that is stopped. Its slot is written before
   * anybody can be sent there, and a breakpoint is one byte.
   */
  armBeside(thread: Thread, request: ArmRequest): Refusal | undefined {
    const { space } = thread.process;
    const allocate = (near: number, length: number): number =>
      this.#remote.allocateNear(thread, near, length);
    return space.arm([request], allocate).get(request.address);
  }

  /** Executable memory from whichever thread can best be used: one that waits in no signal's delivery. */
  #allocate(space: AddressSpace, near: number, length: number): number {
    const stopped = [...space.threads].filter((t) => isFree(t) && t.process.role !== 'leaving');
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
    this.#leaveSlots(space, new Set([...arms, ...space.retired]));
    space.disarm(arms);
    const removed = new Map(arms.map((arm) => [arm.address, arm]));
    for (const thread of [...space.threads]) if (!thread.running) this.#settle(thread, removed);
  }

  /** Threads inside the slots of these arms go on in the program's own text, which is about to be whole again. */
  #leaveSlots(space: AddressSpace, arms: ReadonlySet<Arm>): void {
    for (const thread of space.threads) if (!thread.running) this.#takeOut(thread, arms);
  }

  /** Take a thread out of its slot (if it is one of these arms'), to where the program would be. */
  #takeOut(thread: Thread, arms?: ReadonlySet<Arm>): void {
    for (let i = 0; i < MAX_STEPS; i++) {
      const inside = this.#slotOf(thread);
      if (inside === undefined || arms?.has(inside.arm) === false) return;
      if (i === 0 && this.#letRaisedOut(thread) && this.#slotOf(thread)?.arm !== inside.arm) return;
      const { arm, at } = inside;
      const raised = this.#raised(thread);
      if (raised === 'fault') {
        this.translateFault(thread, arm, at);
        return this.#endStepping(thread);
      }
      const stop = stopAt(arm.template, at);
      if (stop?.resume === undefined) {
        this.#remote.step(thread);
        if (raised === 'trap') thread.pending = PLAIN_STOP;
        continue;
      }
      if (raised === 'trap') this.#endTrap(thread, arm, stop);
      this.#clearStepped(thread, arm, stop);
      leaveSlot(this.tracees, thread, arm, stop);
      return this.#endStepping(thread);
    }
  }

  /** A step over pushf that has ended, and that nobody will look at any more. The registers are in the scratch. */
  #clearStepped(thread: Thread, { template }: Arm, { resume }: SlotStop): void {
    const { activity } = thread;
    if (activity.kind !== 'stepping' || activity.traced || !template.pushesFlags || resume === 0) return;
    this.clearPushedTrapFlag(thread, Number(this.tracees.scratch.regs[REG.sp]));
  }

  /** What a thread waits in the delivery of: the trap after a step, or what the instruction raised; the siginfo is in the scratch. */
  #raised(thread: Thread): 'trap' | 'fault' | undefined {
    const { pending, activity } = thread;
    if (pending === undefined || stopEvent(pending) !== 0 || !FAULTS.has(stopSignal(pending)))
      return undefined;
    if (!this.tracees.readInfo(thread)) return undefined;
    const { infoCode } = this.tracees.scratch;
    if (infoCode <= 0) return undefined;
    const isStep = infoCode === TRAP_TRACE || (infoCode === TRAP_BRKPT && activity.kind === 'stepping');
    return stopSignal(pending) === SIG.trap && isStep ? 'trap' : 'fault';
  }

  /** The trap after a step of the program's own, or after one of ours that is the program's as well. */
  #endTrap(thread: Thread, arm: Arm, stop?: SlotStop): void {
    const { activity } = thread;
    if (activity.kind === 'stepping') {
      if (!activity.traced || stop?.silent || this.tracees.scratch.infoCode !== TRAP_TRACE) return;
      translateInfo(this.tracees, arm);
      thread.held.unshift({ signal: SIG.trap, info: this.tracees.scratch.info.slice() });
    } else if (stop?.silent) {
      thread.pending = PLAIN_STOP;
    } else if (translateInfo(this.tracees, arm)) {
      this.tracees.writeInfo(thread);
    }
  }

  /** A step sets the trap flag, and pushf has just pushed it. */
  clearPushedTrapFlag(thread: Thread, sp: number): void {
    const { memory } = thread.process.space;
    const flags = memory.read(sp, 2);
    if (flags !== undefined) memory.write(sp, Uint8Array.of(flags[0]!, flags[1]! & ~Number(TRAP_FLAG >> 8n)));
  }

  #slotOf(thread: Thread): ReturnType<AddressSpace['inSlot']> {
    const { scratch } = this.tracees;
    if (!ptrace.getRegs(thread.tid, scratch.address)) return undefined;
    return thread.process.space.inSlot(Number(scratch.regs[REG.ip]));
  }

  /** A step is over, and the stop at its end means nothing any more. */
  #endStepping(thread: Thread): void {
    if (thread.activity.kind !== 'stepping') return;
    const trapped = this.#raised(thread) === 'trap';
    thread.activity = IDLE;
    this.restoreMask(thread);
    if (trapped) thread.pending = PLAIN_STOP;
  }

  /** A thread whose step has ended outside of the slot, and that is to be let go. */
  #forgetStep(thread: Thread): void {
    const { activity } = thread;
    if (activity.kind !== 'stepping') return;
    this.#letRaisedOut(thread);
    if (this.#raised(thread) === 'trap') this.#endTrap(thread, activity.arm);
    this.#endStepping(thread);
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
        trees: process.trees,
        state,
        ...(refusal === undefined ? {} : { refusal }),
      };
      if (asked !== undefined || process.states.get(id)?.state !== state) reports.push(report);
      process.states.set(id, report);
    }
    return reports;
  }

  /** Disarm everything in a memory and let all its threads go, with the signals they are due. */
  detach(space: AddressSpace): void {
    const processes = [...space.processes()];
    for (const process of processes) process.wants.clear();
    // a thread that does not stop is in uninterruptible sleep and executes nothing: its bytes can be restored all the same
    this.tracees.freeze(space);
    for (const thread of space.threads) {
      thread.process.role = 'leaving';
      if (!thread.running) this.#takeBack(thread);
    }
    try {
      unlessDying(space, () => {
        this.#disarm(space, [...space.arms.values()]);
        this.#vacate(space);
      });
    } catch (e) {
      if (!isEnd(e)) throw e; // it has ended, or executes another program: nothing of ours is in that
    }
    space.frozen--;
    for (const thread of [...space.threads]) if (!thread.running) this.leave(thread);
    // who has executed a program meanwhile is in another memory, with nothing of ours
    for (const process of processes)
      if (process.space !== space && process.threads.size > 0 && process.role !== 'leaving')
        this.detach(process.space);
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
    if (helper === undefined || space.inUse) return;
    if ([...space.threads].some((t) => t.process.trapAction !== undefined)) return;
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
    for (let i = 0; i < MOST_QUEUED && hasSignal(thread); i++) {
      const signal = this.#dueSignal(thread);
      thread.savedInfo = undefined;
      thread.interrupted = ptrace.interruptIfThere(thread.tid);
      if (!ptrace.cont(thread.tid, signal) || bell.reap(thread.tid) !== thread.tid) return;
      const { status } = bell;
      if (this.tracees.isTheEnd(thread, status)) throw ended(thread.process.pid);
      thread.pending = status;
      if (stopEvent(status) !== 0) thread.interrupted = false;
    }
  }

  /** A hit that is with the handlers: its thread goes on without them, as if it had just come to the place. */
  #takeBack(thread: Thread): void {
    if (thread.activity.kind !== 'handlers') return;
    const { arm, phase, signal } = thread.activity;
    if (!this.endHit(thread)) return;
    if (phase === 'pre' || phase === 'return') ptrace.pokeUser(thread.tid, USER_IP, arm.address);
    thread.pending = phase === 'fault' ? signalStop(signal) : PLAIN_STOP;
    if (phase !== 'fault') thread.savedInfo = undefined;
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
    } else if (this.#queued(thread, arm.template.length > 1 ? isTrap : isBreakpoint)) {
      this.#letTrapOut(thread, before);
    }
  }

  /** The trap is queued behind the stop that we asked for: it comes out first, or it would kill once we are gone. */
  #letTrapOut(thread: Thread, address: number): void {
    this.#letOut(thread, () => {
      if (thread.pending === undefined || stopSignal(thread.pending) !== SIG.trap) return;
      ptrace.pokeUser(thread.tid, USER_IP, address);
      this.#reblock(thread, this.#waitingTrap(thread));
      thread.pending = PLAIN_STOP;
    });
  }

  /** What an instruction in a slot has raised tells of the slot, and of its registers there: it must not come out later. */
  #letRaisedOut(thread: Thread): boolean {
    const { pending } = thread;
    const isPlain =
      pending !== undefined && stopEvent(pending) === EVENT.stop && thread.savedInfo === undefined;
    if (!isPlain || !this.#queued(thread, isRaised)) return false;
    this.#letOut(thread);
    return true;
  }

  /** To the stop of a signal that is known to be queued: it is there before the thread runs, but for a stop that SIGCONT asks for. */
  #letOut(thread: Thread, beforeTaken: () => void = () => undefined): void {
    const { bell } = this.tracees;
    for (let i = 0; i < MOST_QUEUED; i++) {
      thread.stopsAgain ||= thread.pending !== undefined && isGroupStop(thread.pending);
      if (!ptrace.cont(thread.tid, 0) || bell.lookAt(thread.tid) !== thread.tid) return;
      const { status } = bell;
      if (this.tracees.isTheEnd(thread, status)) {
        if (this.tracees.threads.has(thread.tid)) bell.consume(thread.tid);
        return;
      }
      thread.pending = status;
      if (stopEvent(status) === 0) beforeTaken();
      bell.consume(thread.tid);
      if (stopEvent(status) === 0) return;
      thread.interrupted = false;
    }
  }

  /**
   * A thread has stopped while its memory is frozen. Returns what its stop is for later: the end of its step, where that comes
   * behind the stop that was asked for, and would come out in what the thread is made to do for us.
   */
  postponed(thread: Thread, status: number): number {
    if (thread.activity.kind !== 'stepping') return this.#putBack(thread, status);
    thread.pending = status;
    this.#letRaisedOut(thread);
    return thread.pending;
  }

  /**
   * A thread whose hit cannot be looked at now is put back before the breakpoint: the hit comes again, or the breakpoint
   * was taken out. Returns what its stop is then.
   */
  #putBack(thread: Thread, status: number): number {
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

  /** Whether a signal of some kind waits behind the stop that a thread is in. */
  #queued(thread: Thread, kind: (signal: number, code: number) => boolean): boolean {
    const { scratch } = this.tracees;
    for (let at = 0; at < MOST_QUEUED; at++) {
      // struct ptrace_peeksiginfo_args { u64 off; u32 flags; s32 nr; }
      scratch.word[0] = BigInt(at);
      scratch.word[1] = 1n << 32n;
      if (ptrace.peekSigInfo(thread.tid, scratch.wordAddress, scratch.infoAddress) !== 1) return false;
      if (kind(scratch.infoSignal, scratch.infoCode)) return true;
    }
    return false;
  }

  /** The trap at the end of a step over a system call comes behind the stop that a thread is in. */
  stepTrapQueued(thread: Thread): boolean {
    return this.#queued(thread, (signal, code) => signal === SIG.trap && code === TRAP_BRKPT);
  }

  /** A signal that was held, for a thread that is about to go on; it is in a stop then in which it can get it. */
  takeHeld(thread: Thread): HeldSignal | undefined {
    if (thread.held.length === 0) return undefined;
    if (!this.tracees.isAtSignal(thread)) this.#remote.toSignalStop(thread);
    const first = thread.held.shift();
    if (thread.held.length > 0) thread.stopsAgain = true;
    return first;
  }

  /** Let one stopped thread of a process that is being left go, in whichever stop it is. */
  leave(thread: Thread): void {
    const { space } = thread.process;
    if (!thread.running) {
      this.#takeOut(thread);
      this.#forgetStep(thread);
    }
    if (space.isOccupied && space.arms.size === 0 && !thread.running) {
      try {
        this.#vacate(space); // a child's copy of our memory
      } catch (e) {
        if (this.tracees.threads.get(thread.tid) !== thread) return; // it has just ended
        if (!(e instanceof ProcessError)) throw e; // our memory stays in it: nothing runs there any more
      }
    }
    this.restoreMask(thread);
    try {
      if (thread.held.length > 1) this.#deliverNow(thread);
      this.tracees.release(thread, this.#dueSignal(thread));
    } catch (e) {
      if (!isEnd(e)) throw e;
    }
  }

  #dueSignal(thread: Thread): number {
    const held = this.takeHeld(thread);
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

  /**
   * A fault of the displaced instruction belongs to the instruction: registers and siginfo as if it had been in place. The
   * registers of the thread are in the scratch.
   */
  translateFault(thread: Thread, arm: Arm, at: number): void {
    leaveSlot(this.tracees, thread, arm, stopBefore(arm.template, at));
    if (this.tracees.readInfo(thread) && translateInfo(this.tracees, arm)) this.tracees.writeInfo(thread);
  }
}

/** Which functions' returns a breakpoint is still wanted for. */
function stillReturning(
  arm: Arm,
  returns: Set<number>,
  isAwaited: (siteId: number) => boolean,
  maps: readonly Mapping[],
): void {
  const isCode = mappingAt(maps, arm.address)?.perms[2] === 'x';
  for (const id of returns) if (!isCode || !isAwaited(id)) returns.delete(id);
  if (returns.size === 0) arm.returns = undefined;
}

/** Nobody is left in it but who waits in vfork. */
const isAsleep = ({ threads }: AddressSpace): boolean =>
  threads.size > 0 && [...threads].every((t) => t.inVfork);

/** It can be made to do something for us. */
const isFree = (thread: Thread): boolean => !thread.running && !thread.inVfork;

const isTrap = (signal: number): boolean => signal === SIG.trap;
const isBreakpoint = (signal: number, code: number): boolean => signal === SIG.trap && code === SI_KERNEL;
const isRaised = (signal: number, code: number): boolean => FAULTS.has(signal) && code > 0;
/** There is a signal to deliver to it. */
const hasSignal = ({ pending, savedInfo, held }: Thread): boolean =>
  pending === undefined || stopEvent(pending) === 0 || savedInfo !== undefined || held.length > 0;

/** Sites without a template never get this far: canArm refuses them. */
function templateOf(want: Want): SlotTemplate {
  if (want.site.template === undefined) throw new Error(`site ${want.site.id} has no template`);
  return want.site.template;
}

const doesNotStop = ({ tid, process: { pid } }: Thread): ProcessError =>
  new ProcessError(
    'does-not-stop',
    pid,
    `thread ${tid} of process ${pid} does not stop (state ${statusField(tid, 'State') ?? 'gone'}): it is in an ` +
      'uninterruptible system call. Try again when that has ended',
  );
