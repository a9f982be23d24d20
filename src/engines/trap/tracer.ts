/**
 * The tracer: what every stop means, and the loop that waits for stops, replies and commands. One OS thread owns
 * all of it; nothing here waits for the handlers.
 */
import { BellWait } from '../../linux/doorbell.js';
import { clonePaused, type Program } from '../../linux/clone.js';
import { SIG } from '../../linux/numbers.js';
import { EVENT, ptrace } from '../../linux/ptrace.js';
import { ProcessError, UprobeError } from '../../base/errors.js';
import { groupBy } from '../../base/multimap.js';
import { SyscallError } from '../../linux/syscall-error.js';
import { NR } from '../../linux/numbers.js';
import { TRAP_BIT, isCaught, isIgnored, signalBit } from '../../linux/signal-set.js';
import { SIGINFO_BYTES, SI_KERNEL, TRAP_BRKPT, TRAP_TRACE } from '../../linux/siginfo.js';
import { REG, TRAP_FLAG, USER_IP } from '../../linux/user-regs.js';
import { PLAIN_STOP, exited, killed, stopEvent, stopSignal } from '../../linux/wait-status.js';
import type { SlotStop } from '../../arch/arch.js';
import { stopAt } from '../../arch/slot.js';
import type { ArmReport, Phase } from '../engine.js';
import type { AddressSpace, Arm, WatchedCall } from './address-space.js';
import { breakOffAgain, brokenOffCall, isBrokenOff, mayEnd, type BrokenOff } from './broken-off.js';
import { Arming, FAULTS } from './arming.js';
import type { Call } from './calls.js';
import { FollowCpu } from './follow-cpu.js';
import { Hits, type HitReply } from './hits.js';
import { isGroupStop, onlyStops } from './job-control.js';
import { Ledger } from './ledger.js';
import { STUB_LENGTH } from './linker-watch.js';
import { REASON, WORD, type Mailbox } from './mailbox.js';
import { Demand } from './demand.js';
import { News } from './news.js';
import type { Answer, Command } from './protocol.js';
import { toPlain } from './protocol.js';
import { Returns } from './returns.js';
import { addressAt, hideFromSyscall, leaveSlot, translateInfo } from './slot-exit.js';
import { stepInPlace } from './in-place.js';
import { IDLE, type Process, type Stepping, type Thread } from './thread.js';
import { Tracees, type StopListener } from './tracees.js';
import type { Want } from './wants.js';

const SYSCALL_STOP = SIG.trap | 0x80;
/** Everything but what the instruction itself may raise: blocked while a thread is stepped out of its slot. */
const ALL_BUT_FAULTS = [...FAULTS].reduce((mask, s) => mask & ~signalBit(s), 0xffff_ffff_ffff_ffffn);
/** Signals whose default is to be ignored (signal(7)): CHLD, CONT, URG, WINCH. */
const IGNORED_BY_DEFAULT: ReadonlySet<number> = new Set([SIG.chld, 18, 23, 28]);
const PROT_EXEC = 4n;
/** How long to look for a reply before going to sleep, ms, where another CPU can make it: a wake-up costs as much. */
const SPIN_MS = 0.05;
/** How long to sleep for a reply without looking at events, ms: all that could come is that a target is killed. */
const NAP_MS = 5;
/** How long the reply of handlers that have finished may take, ms: it is being written. */
const REPLY_MS = 100;
const CLOSE_TIMEOUT = 3000;
const TOO_MANY = 'too many hits wait for their handlers';

export class Tracer implements StopListener {
  readonly #tracees: Tracees;
  readonly #hits: Hits;
  readonly #arming: Arming;
  readonly #returns: Returns;
  readonly #demand: Demand;
  /** Processes that we keep stopped since they were started. */
  readonly #paused = new Set<Process>();
  readonly #cpu = new FollowCpu();
  readonly #spins: boolean;
  readonly #news: News;

  constructor(
    private readonly mailbox: Mailbox,
    private readonly answer: (message: Answer) => void,
    private readonly nextCommand: () => Command | undefined,
    cpus: number,
  ) {
    const bell = new BellWait(mailbox.address, mailbox.words);
    this.#spins = cpus > 1;
    this.#news = new News(answer);
    this.#tracees = new Tracees(bell, this);
    this.#hits = new Hits(mailbox, () => answer({ kind: 'wake' }));
    this.#arming = new Arming(this.#tracees, (thread) => this.#endHit(thread), Ledger.at(mailbox.ledger));
    this.#returns = new Returns(this.#arming, (call) => this.#abandoned([call]));
    this.#demand = new Demand(this.#tracees, this.#arming, this.#paused);
  }

  /** Until the engine is closed. */
  run(): void {
    try {
      this.#serve();
    } finally {
      // also after an error of ours: this thread's end detaches, and a breakpoint left behind would kill
      this.#close();
      this.#tracees.bell.close();
    }
  }

  #serve(): void {
    for (;;) {
      this.#takeReplies();
      const reasons = this.#rung();
      if (reasons !== 0) {
        if ((reasons & REASON.floatRegs) !== 0) this.#hits.serveFloatRegs();
        if ((reasons & REASON.command) === 0) continue;
        if (Atomics.load(this.mailbox.words, WORD.closeRequested) === 1 || !this.#commands()) break;
      } else if (this.#hits.outstanding === 0) {
        this.#tracees.take(undefined);
      } else if (!this.#lookForReply()) {
        this.#expire();
        this.#sleepForReply();
      }
    }
  }

  #rung(): number {
    const reasons = this.#tracees.bell.rung() | this.#tracees.rungMeanwhile;
    this.#tracees.rungMeanwhile = 0;
    return reasons;
  }

  readonly #replied = (): boolean => this.#hits.replied;

  /** A short busy wait: a handler on another CPU answers in less time than going to sleep takes. */
  #lookForReply(): boolean {
    if (!this.#spins || !this.#hits.replyImminent) return this.#hits.replied;
    for (let limit = 0; ;) {
      for (let i = 0; i < 100; i++) if (this.#hits.replied) return true;
      if (!this.#tracees.quiet && this.#tracees.takeNow()) return true;
      const now = performance.now();
      if (limit === 0) limit = now + SPIN_MS;
      else if (now > limit) return false;
    }
  }

  #sleepForReply(): void {
    const { bell, quiet } = this.#tracees;
    if (quiet) bell.nap(Math.min(NAP_MS, this.#hits.nextDeadline() ?? 0), this.#replied);
    else this.#tracees.take(this.#hits.nextDeadline(), this.#replied);
  }

  #takeReplies(): void {
    for (let reply = this.#hits.takeReply(); reply !== undefined; reply = this.#hits.takeReply())
      this.#takeReply(reply);
  }

  // ---- commands

  #commands(): boolean {
    for (let command = this.nextCommand(); command !== undefined; command = this.nextCommand()) {
      const { id, kind } = command;
      if (kind === 'close') {
        this.answer({ kind: 'done', id, value: undefined });
        return false;
      }
      this.#news.hold();
      try {
        this.answer({ kind: 'done', id, value: this.#command(command) });
      } catch (e) {
        this.answer({ kind: 'failed', id, error: toPlain(e) });
      }
      this.#news.release();
    }
    return true;
  }

  #command(command: Exclude<Command, { kind: 'close' }>): unknown {
    switch (command.kind) {
      case 'apply':
        return this.#demand.apply(command.changes);
      case 'spawn':
        return this.#spawn(command.program);
      case 'resume':
        return this.#resumePaused(command.pid);
    }
  }

  #spawn(program: Program): number {
    const child = clonePaused(program);
    const { bell } = this.#tracees;
    try {
      const thread = this.#tracees.addChild(child.pid);
      thread.process.space.frozen = 1;
      child.proceed();
      while (bell.reap(child.pid) === child.pid) {
        const { status } = bell;
        if (exited(status) || killed(status)) {
          this.#tracees.children.delete(child.pid);
          this.#tracees.ended(thread, status);
          const { step, errno } = child.failure();
          throw new SyscallError(step, errno);
        }
        if (stopEvent(status) === EVENT.exec) {
          this.#paused.add(thread.process);
          this.#startedOrEnded(thread, status);
          return child.pid;
        }
        ptrace.cont(child.pid, stopEvent(status) === 0 ? stopSignal(status) : 0);
      }
      throw new SyscallError(`wait4(${child.pid})`, 10);
    } finally {
      child.release();
    }
  }

  /** A program whose memory may not be opened is not run at all. */
  #startedOrEnded(thread: Thread, status: number): void {
    try {
      this.#tracees.executed(thread, status);
    } catch (e) {
      process.kill(thread.tid, 'SIGKILL'); // our child, stopped: the number is its own
      throw e;
    }
  }

  #resumePaused(pid: number): void {
    const process = this.#tracees.processes.get(pid);
    if (process === undefined || !this.#paused.delete(process)) return;
    if (process.wants.size === 0) this.#arming.detach(process.space);
    else this.#tracees.thaw(process.space);
  }

  /** Disarm and let go of everything; what does not stop in time goes when this thread ends, without a breakpoint. */
  #close(): void {
    for (const process of [...this.#tracees.processes.values()]) {
      if (process.role === 'leaving' || process.threads.size === 0) continue;
      try {
        this.#paused.delete(process);
        this.#arming.detach(process.space);
      } catch (e) {
        this.answer({ kind: 'crashed', error: toPlain(e) });
      }
    }
    const limit = performance.now() + CLOSE_TIMEOUT;
    const isAwaited = (t: Thread): boolean => !t.inVfork && !t.isZombie;
    const { threads } = this.#tracees;
    while (
      ([...threads.values()].some(isAwaited) || this.#tracees.expectsOrphans) &&
      performance.now() < limit
    )
      this.#tracees.take(50);
  }

  // ---- what stops mean

  stopped(thread: Thread, status: number): void {
    const event = stopEvent(status);
    const signal = stopSignal(status);
    if (event === EVENT.vforkDone) thread.inVfork = false;
    if (event === EVENT.exec) return this.#executed(thread, status);
    if (thread.process.role === 'leaving') {
      thread.pending = status;
      return this.#arming.leave(thread);
    }
    if (thread.process.space.isBehind && thread.process.space.frozen === 0)
      return this.#rearm(thread, thread.process.space, status);
    if (isGroupStop(status) && this.#tracees.listen(thread)) return;
    if (event !== 0) {
      this.#noteCall(thread, event);
      return this.#goOn(thread);
    }
    if (signal === SYSCALL_STOP) return this.#systemCall(thread);
    if (signal === SIG.trap) return this.#trapped(thread);
    this.#signalled(thread, signal);
  }

  postponed(thread: Thread, status: number): number {
    return this.#arming.postponed(thread, status);
  }

  threadGone(thread: Thread): void {
    this.#missed(thread, 'the thread ended before the handlers had run');
    this.#hits.drop(thread);
    const { process, tid } = thread;
    this.#abandoned(process.space.calls.remove((c) => c.tid === tid));
  }

  /** Calls that will not return. */
  #abandoned(calls: readonly Call[]): void {
    for (const [siteId, left] of groupBy(calls, (call) => call.siteId)) {
      const { pid, trees } = left[0]!.process;
      this.answer({ kind: 'abandoned', siteId, pid, trees, calls: left.map((c) => c.id) });
    }
  }

  processGone(process: Process, status: number | undefined): void {
    this.#paused.delete(process);
    this.#arming.traps.forget(process);
    this.#noLongerOurs(process);
    if (status !== undefined && this.#tracees.children.has(process.pid)) this.childEnded(process.pid, status);
  }

  #noLongerOurs(process: Process): void {
    if (process.role === 'wanted' || process.wants.size > 0)
      this.#news.tell({ kind: 'ended', pid: process.pid });
    this.processLeft(process);
  }

  processLeft(process: Process): void {
    this.#abandoned(process.space.calls.remove((c) => c.process === process));
    for (const root of this.#demand.leave(process)) this.#news.tell({ kind: 'treeEnded', root });
  }

  born(child: Process, parent: Process): void {
    this.#demand.inherit(child, parent);
    if (child.role === 'wanted')
      this.#news.tell({ kind: 'born', pid: child.pid, parent: parent.pid, trees: child.trees });
  }

  copied(child: Process): void {
    this.#arming.traps.inherited(child);
  }

  memoryLeft(space: AddressSpace): void {
    try {
      this.#report(this.#demand.tidy(space));
    } catch (e) {
      if (!(e instanceof ProcessError)) throw e; // one that does not stop, or has ended: what is armed does nothing
    }
  }

  memoryClosed(process: Process, why: Error): void {
    const refusal = { code: 'memory-closed', reason: why.message };
    for (const siteId of process.wants.keys())
      this.#news.tell({
        kind: 'state',
        report: { siteId, pid: process.pid, trees: process.trees, state: 'gone', refusal },
      });
    this.#noLongerOurs(process);
  }

  childEnded(pid: number, status: number): void {
    this.#tracees.children.delete(pid);
    if (exited(status)) this.answer({ kind: 'exited', pid, code: (status >>> 8) & 0xff, signal: null });
    else this.answer({ kind: 'exited', pid, code: null, signal: status & 0x7f });
  }

  /** A thread goes on after a stop that was asked for: what it was in the middle of. */
  #noteCall(thread: Thread, event: number): void {
    const known = thread.brokenOff;
    thread.brokenOff = undefined;
    const { regs, address } = this.#tracees.scratch;
    const { arms } = thread.process.space;
    if (event !== EVENT.stop || arms.size === 0 || !ptrace.getRegs(thread.tid, address)) return;
    const call = brokenOffCall(regs);
    if (call !== undefined) thread.brokenOff = arms.has(call.at) ? call : undefined;
    else if (known?.at === Number(regs[REG.ip])) thread.brokenOff = known; // put back before the call
  }

  /** Resume: with the step it is in the middle of, or with a signal that was held, if there is one. */
  #goOn(thread: Thread): void {
    if (thread.activity.kind === 'stepping') return this.#step(thread, thread.activity);
    const held = this.#arming.takeHeld(thread);
    if (held === undefined) return this.#tracees.resume(thread);
    thread.savedInfo = held.info;
    this.#resumeWith(thread, held.signal);
  }

  /** With the signal that the thread is stopped for. SIGTRAP meets the program's own action, not ours. */
  #resumeWith(thread: Thread, signal: number): void {
    if (signal !== SIG.trap || thread.process.space.frozen > 0) return this.#tracees.resume(thread, signal);
    this.#arming.traps.deliver(thread, this.#tracees.readInfo(thread) && this.#tracees.scratch.infoCode > 0);
  }

  /** New memory: nothing of ours is in it. What is wanted of the process is armed again before it runs. */
  #executed(thread: Thread, status: number): void {
    const { process } = thread;
    this.#arming.traps.executed(thread);
    if (process.role !== 'wanted') {
      process.role = 'leaving';
      thread.pending = status;
      return this.#arming.leave(thread);
    }
    if (this.#paused.has(process)) process.space.frozen = 1;
    this.#rearm(thread, process.space);
  }

  /** Arm a memory anew while `thread`, whose stop is the reason, waits; then let it go on. */
  #rearm(thread: Thread, space: AddressSpace, status = PLAIN_STOP): void {
    thread.pending = status;
    space.frozen++;
    this.#syncFrozen(thread);
  }

  /** Arm what is new, and let go on what may: its memory is frozen once for this. */
  #syncFrozen(thread: Thread): void {
    const { space } = thread.process;
    try {
      if (space.isWanted) this.#report(this.#arming.sync(thread.process));
    } catch (e) {
      if (!(e instanceof UprobeError)) throw e;
      this.#report(notArmed(thread.process, e));
    } finally {
      space.isBehind = false;
      this.#tracees.thaw(space);
    }
  }

  #report(reports: readonly ArmReport[]): void {
    for (const report of reports) this.#news.tell({ kind: 'state', report });
  }

  /** SIGTRAP: a breakpoint of ours, a step of ours, or the program's own business. */
  #trapped(thread: Thread): void {
    if (thread.strayTrap) {
      thread.strayTrap = false;
      if (this.#tracees.readInfo(thread) && this.#tracees.scratch.infoCode === TRAP_BRKPT)
        return this.#goOn(thread);
    }
    if (thread.activity.kind === 'stepping' && this.#steppingTrapped(thread, thread.activity)) return;
    const { space } = thread.process;
    const slot = this.#hits.nextSlot;
    const { scratch } = this.#tracees;
    const regs = slot < 0 ? scratch.regs : this.mailbox.regs(slot);
    if (
      !ptrace.getRegsAndMask(
        thread.tid,
        slot < 0 ? scratch.address : this.mailbox.regsAddress(slot),
        scratch.wordAddress,
      )
    )
      return;
    const address = Number(regs[REG.ip]) - 1;
    const arm = space.arms.get(address);
    if (arm === undefined) return this.#strangeTrap(thread, address);
    if (this.#arming.traps.mayBlock(thread)) return this.#hitUnblocking(thread, arm, slot);
    if (arm.template.length > 1) return this.#hit(thread, arm, slot);
    // one byte behind a one-byte instruction a thread may be for other reasons: a step of its own, a signal sent to it
    const stepsItself = (regs[REG.flags]! & TRAP_FLAG) !== 0n;
    if (slot >= 0 && !stepsItself && this.#onlyHandlers(thread, arm))
      return this.#hitToBeConfirmed(thread, arm, slot);
    if (this.#arming.breakpointInfo(thread)) this.#hit(thread, arm, slot);
    else this.#arming.traps.deliver(thread, stepsItself);
  }

  /**
   * The kernel is asked what the stop was for while the handlers run, which saves a tenth of the hit. Should somebody have
   * sent SIGTRAP to the thread at this very place, its registers and its signal are as they were; the handlers' call is
   * for nothing.
   */
  #hitToBeConfirmed(thread: Thread, arm: Arm, slot: number): void {
    this.#hit(thread, arm, slot);
    if (this.#arming.breakpointInfo(thread)) return;
    this.#hits.drop(thread);
    ptrace.pokeUser(thread.tid, USER_IP, arm.address + 1);
    this.#arming.traps.deliver(thread, false);
  }

  /**
   * A hit in a thread that seems to have blocked SIGTRAP. If one was waiting for it to be unblocked, that is what the stop
   * tells of instead (a signal does not wait twice), and it has to wait on.
   */
  #hitUnblocking(thread: Thread, arm: Arm, slot: number): void {
    const mask = this.#tracees.scratch.word[0]!;
    const isBreakpoint = this.#arming.breakpointInfo(thread);
    if (!isBreakpoint && arm.template.length === 1) return this.#arming.traps.deliver(thread, false);
    if (!ptrace.pokeUser(thread.tid, USER_IP, arm.slot)) return;
    this.#arming.traps.hit(
      thread,
      mask,
      isBreakpoint ? undefined : this.#tracees.scratch.info.slice(0, SIGINFO_BYTES),
    );
    this.#hit(thread, arm, slot);
  }

  /** A SIGTRAP that comes while we step. False: the step ran into a breakpoint of ours. */
  #steppingTrapped(thread: Thread, step: Stepping): boolean {
    const code = this.#tracees.readInfo(thread) ? this.#tracees.scratch.infoCode : TRAP_TRACE;
    const { raisesTrap } = step.arm.template;
    if (code === SI_KERNEL && !raisesTrap) {
      // over a load of ss, which takes the next instruction along
      thread.activity = IDLE;
      this.#arming.restoreMask(thread);
      return false;
    }
    const isWaiting = code <= 0 && thread.trapMask !== undefined; // one that waited took the place of the step's own
    if (code === TRAP_TRACE || (code === TRAP_BRKPT && !raisesTrap) || isWaiting) this.#stepped(thread, step);
    else this.#signalled(thread, SIG.trap);
    return true;
  }

  /** A breakpoint that was taken out since the thread ran into it, or no breakpoint of ours. */
  #strangeTrap(thread: Thread, address: number): void {
    const { space } = thread.process;
    const inside = space.inSlot(address + 1);
    if (inside !== undefined) return this.#trappedInSlot(thread, inside.arm, inside.at);
    const byte = space.memory.read(address, 1);
    const wasOurs = byte !== undefined && byte[0] !== 0xcc && space.wasArmed(address);
    const isBreakpoint = this.#arming.breakpointInfo(thread);
    if (wasOurs && isBreakpoint) {
      ptrace.pokeUser(thread.tid, USER_IP, address);
      return this.#goOn(thread);
    }
    this.#arming.traps.deliver(thread, isBreakpoint || this.#tracees.scratch.infoCode > 0);
  }

  /** A program that steps itself has come to a stop in a slot; or its own breakpoint has run there. */
  #trappedInSlot(thread: Thread, arm: Arm, at: number): void {
    const { scratch } = this.#tracees;
    const isStep = this.#tracees.readInfo(thread) && scratch.infoCode === TRAP_TRACE;
    if (!isStep || !ptrace.getRegs(thread.tid, scratch.address)) return this.#signalled(thread, SIG.trap);
    const stop = stopAt(arm.template, at);
    if (stop?.resume === undefined) return this.#tracees.resume(thread); // half done: the trap after the rest is the one
    leaveSlot(this.#tracees, thread, arm, stop);
    if (stop.silent) return this.#goOn(thread);
    if (translateInfo(this.#tracees, arm)) this.#tracees.writeInfo(thread);
    this.#arming.traps.deliver(thread, true);
  }

  /** What a hit means is up to the process: others that share the memory may want other things, or nothing. */
  #wantAt(thread: Thread, { want }: Arm): Want | undefined {
    return want && thread.process.wants.get(want.site.id);
  }

  /** That handlers were called for nothing can be undone; that it was counted, or a return awaited, not. */
  #onlyHandlers(thread: Thread, arm: Arm): boolean {
    const want = this.#wantAt(thread, arm);
    return want?.pre === true && want.counters.length === 0 && !want.return;
  }

  #hit(thread: Thread, arm: Arm, slot: number): void {
    this.#cpu.hit(thread);
    thread.retried = undefined;
    const regs = this.#regsIn(slot);
    // what the handlers see is the place itself, not the byte behind the breakpoint
    regs[REG.ip] = BigInt(arm.address);
    if (thread.brokenOff?.at !== arm.address) thread.brokenOff = undefined;
    if (arm.returns === undefined) return this.#arrived(thread, arm, slot);
    this.#returned(thread, arm, this.#returns.returned(arm, thread.process.space, regs), slot);
  }

  #regsIn(slot: number): BigUint64Array {
    return slot < 0 ? this.#tracees.scratch.regs : this.mailbox.regs(slot);
  }

  /** Calls have returned to where the thread is: their handlers one after the other, then what is there itself. */
  #returned(thread: Thread, arm: Arm, calls: readonly Call[], slot: number): void {
    for (const [i, call] of calls.entries()) {
      const want = thread.process.wants.get(call.siteId);
      if (want?.return !== true) continue;
      if (slot >= 0) {
        if (!ptrace.pokeUser(thread.tid, USER_IP, arm.slot)) return;
        return this.#hits.post(thread, arm, 'return', want, { call, others: calls.slice(i + 1) });
      }
      this.#report1(call.siteId, thread, 'return', TOO_MANY);
    }
    this.#arrived(thread, arm, slot);
  }

  /** Handlers of one return are done, or given up, and the thread is to go on at `ip`. */
  #afterReturn(thread: Thread, arm: Arm, others: readonly Call[], ip: number): void {
    const armed = thread.process.space.arms.get(arm.address) === arm;
    if (others.length === 0 && (!armed || arm.want === undefined || ip !== arm.address))
      return armed && ip === arm.address ? this.#runDisplaced(thread, arm) : this.#goOnAt(thread, ip);
    const slot = this.#readRegs(thread);
    if (slot === undefined) return;
    this.#regsIn(slot)[REG.ip] = BigInt(ip);
    this.#returned(thread, arm, others, slot);
  }

  /** The registers of a stopped thread, in the slot of its next hit, or in the scratch (-1). Undefined when it is gone. */
  #readRegs(thread: Thread): number | undefined {
    const slot = this.#hits.nextSlot;
    const to = slot < 0 ? this.#tracees.scratch.address : this.mailbox.regsAddress(slot);
    return ptrace.getRegs(thread.tid, to) ? slot : undefined;
  }

  /** The thread is at the instruction, its registers read. */
  #arrived(thread: Thread, arm: Arm, slot: number): void {
    const regs = this.#regsIn(slot);
    const ip = Number(regs[REG.ip]);
    if (ip !== arm.address) return this.#goOnAt(thread, ip); // a return handler has sent it elsewhere
    const want = this.#wantAt(thread, arm);
    if (want === undefined) return this.#runDisplaced(thread, arm);
    for (const counter of want.counters) this.mailbox.counters[counter]!++;
    const call = want.return ? this.#entered(thread, want, regs) : undefined;
    if (!want.pre) return this.#runInstruction(thread, arm);
    if (slot < 0) {
      this.#report1(want.site.id, thread, 'pre', TOO_MANY);
      return this.#runInstruction(thread, arm);
    }
    // the thread must know where to go on before its stop is taken: from then on it goes on there if we are killed
    if (ptrace.pokeUser(thread.tid, USER_IP, arm.slot)) this.#hits.post(thread, arm, 'pre', want, { call });
  }

  /** A function whose return is wanted begins. */
  #entered(thread: Thread, want: Want, regs: BigUint64Array): Call | undefined {
    const entered = this.#returns.entered(thread, want, regs);
    if (entered.call === undefined) this.#report1(want.site.id, thread, 'return', entered.why);
    return entered.call;
  }

  /** The instruction, in steps where post handlers follow it. */
  #runInstruction(thread: Thread, arm: Arm): void {
    if (this.#wantAt(thread, arm)?.post === true) this.#runStepped(thread, arm, true);
    else this.#runDisplaced(thread, arm);
  }

  /** Run the displaced instruction in its slot, registers as they are. */
  #runDisplaced(thread: Thread, arm: Arm): void {
    if (arm.template.inPlace || thread.held.length > 0) return this.#runStepped(thread, arm, false);
    if (arm.watch === undefined) return this.#tracees.resumeAt(thread, arm.slot);
    if (ptrace.pokeUser(thread.tid, USER_IP, arm.slot)) this.#goThrough(thread, arm);
  }

  /** The instruction, step by step: for who wants to know when it has ended, or because signals wait for that. */
  #runStepped(thread: Thread, arm: Arm, post: boolean): void {
    const { scratch } = this.#tracees;
    if (!ptrace.getRegs(thread.tid, scratch.address)) return;
    const { entersKernel } = arm.template;
    // a system call could wait for the very signal that waits for its end
    if (entersKernel && thread.held.length > 0) return this.#goOnAt(thread, arm.address);
    // nothing comes after rt_sigreturn; and the step would take the trap flag that it loads for ours
    if (entersKernel && scratch.regs[REG.ax] === BigInt(NR.rtSigreturn))
      return this.#goOnAt(thread, arm.slot);
    const traced = (scratch.regs[REG.flags]! & TRAP_FLAG) !== 0n;
    if (!ptrace.pokeUser(thread.tid, USER_IP, arm.slot) || this.#watched(thread, arm)) return;
    this.#arming.traps.beforeSteps(thread);
    thread.activity = { kind: 'stepping', arm, post, traced };
    this.#step(thread, thread.activity);
  }

  #step(thread: Thread, { arm }: Stepping): void {
    if (arm.template.inPlace) stepInPlace(this.#tracees, thread, arm);
    else this.#tracees.step(thread);
  }

  /** A system call that we watch. True when it has been made here, and the thread has gone on behind it. */
  #watched(thread: Thread, arm: Arm): boolean {
    if (arm.watch === undefined) return false;
    const { space } = thread.process;
    const mattered = space.watchesMasks;
    const isMade = this.#watch(thread, arm, arm.watch);
    if (mattered !== space.watchesMasks) {
      this.#rearm(thread, space);
      return true;
    }
    if (isMade) this.#goOn(thread);
    return isMade;
  }

  /** The thread is at its slot. True: it is behind the call now. */
  #watch(thread: Thread, arm: Arm, watch: WatchedCall): boolean {
    const { traps } = this.#arming;
    if (watch === 'sigaction') return traps.emulate(thread, arm.address + STUB_LENGTH);
    if (watch === 'sigmask') traps.followMask(thread);
    else if (watch === 'sigreturn') traps.followReturn(thread);
    else if (this.#mapsCode(thread, arm)) thread.inMappingCall = true;
    return false;
  }

  /** The same where the thread has been pointed at its slot already. */
  #goThrough(thread: Thread, arm: Arm): void {
    const mustStep = arm.template.inPlace === true || thread.held.length > 0;
    if (mustStep || this.#wantAt(thread, arm)?.post === true) return this.#runInstruction(thread, arm);
    if (!this.#watched(thread, arm)) this.#tracees.resume(thread);
  }

  #goOnAt(thread: Thread, ip: number): void {
    if (thread.held.length === 0) this.#tracees.resumeAt(thread, ip);
    else if (ptrace.pokeUser(thread.tid, USER_IP, ip)) this.#goOn(thread);
  }

  /** Whether the system call that the linker is about to make concerns executable memory. */
  #mapsCode(thread: Thread, arm: Arm): boolean {
    if (arm.watch === 'unmap') return true;
    const { scratch } = this.#tracees;
    if (!ptrace.getRegs(thread.tid, scratch.address)) return false;
    return (scratch.regs[REG.dx]! & PROT_EXEC) !== 0n && BigInt.asIntN(32, scratch.regs[REG.r8]!) >= 0n;
  }

  #takeReply(reply: HitReply): void {
    const { thread, arm, phase, skip, changed, slot } = reply;
    const regs = this.mailbox.regs(slot);
    if (phase === 'fault') return this.#faultHandled(reply);
    if (phase === 'return') {
      if (changed && !ptrace.setRegs(thread.tid, this.mailbox.regsAddress(slot))) return;
      return this.#afterReturn(thread, arm, reply.others, Number(regs[REG.ip]));
    }
    const armed = thread.process.space.arms.get(arm.address) === arm;
    // as with the kernel's uprobes, a handler that moved ip has decided where the thread goes on
    const runs = armed && phase === 'pre' && !skip && regs[REG.ip] === BigInt(arm.address);
    if (runs) regs[REG.ip] = BigInt(arm.slot); // where it is already
    if (changed && !ptrace.setRegs(thread.tid, this.mailbox.regsAddress(slot))) return;
    if (!runs) return changed ? this.#goOn(thread) : this.#goOnAt(thread, Number(regs[REG.ip]));
    this.#goThrough(thread, arm);
  }

  /** The stop after one step in a slot; its siginfo is in the scratch. */
  #stepped(thread: Thread, { arm, post, traced }: Stepping): void {
    this.#arming.traps.afterStep(thread);
    const slot = this.#readRegs(thread);
    if (slot === undefined) return;
    const regs = this.#regsIn(slot);
    const { template } = arm;
    const ip = Number(regs[REG.ip]);
    const at = ip - arm.slot;
    const inside = at >= 0 && at < template.code.length;
    const stop = inside ? stopAt(template, at) : undefined;
    const isRound = traced && stop?.resume === 0; // of a rep prefix
    const brokenOff = template.entersKernel === true && isBrokenOff(regs);
    if (inside && !isRound && (stop?.resume !== template.length || brokenOff))
      return this.#tracees.step(thread);
    const end = inside ? addressAt(arm, stop) : ip;
    regs[REG.ip] = BigInt(end);
    if (stop?.afterSyscall) hideFromSyscall(thread, arm, regs);
    if (template.pushesFlags && !traced) this.#arming.clearPushedTrapFlag(thread, Number(regs[REG.sp]));
    thread.activity = IDLE;
    this.#arming.restoreMask(thread);
    this.#arming.traps.afterSteps(thread);
    if (traced && !template.entersKernel && !stop?.silent) this.#holdTrap(thread, arm);
    if (template.entersKernel && this.#mapped(thread, regs)) this.#syncAt(thread, end);
    this.#afterInstruction(thread, arm, post && !isRound, end);
  }

  /** The trap at the end of our step is the program's as well, which steps itself. */
  #holdTrap(thread: Thread, arm: Arm): void {
    translateInfo(this.#tracees, arm);
    thread.held.unshift({
      signal: SIG.trap,
      info: this.#tracees.scratch.info.slice(0, SIGINFO_BYTES),
    });
  }

  /** Whether a system call that was stepped over may have changed the mappings. */
  #mapped(thread: Thread, regs: BigUint64Array): boolean {
    const { space } = thread.process;
    if (!space.traceSyscalls && !thread.inMappingCall) return false;
    const nr = Number(BigInt.asIntN(32, regs[REG.origAx]!));
    if (nr !== NR.mmap && nr !== NR.munmap) return false;
    thread.inMappingCall = false;
    return BigInt.asIntN(64, regs[REG.ax]!) >= 0n && space.isWanted;
  }

  /** Arm what is new while this thread waits at `ip`, behind the system call that mapped it. */
  #syncAt(thread: Thread, ip: number): void {
    const { space } = thread.process;
    ptrace.pokeUser(thread.tid, USER_IP, ip);
    space.frozen++;
    this.#syncFrozen(thread);
    const slot = this.#hits.nextSlot;
    if (slot >= 0) ptrace.getRegs(thread.tid, this.mailbox.regsAddress(slot));
  }

  /** The instruction has ended, and the thread goes on at `end`; its registers are in the next slot of the mailbox. */
  #afterInstruction(thread: Thread, arm: Arm, post: boolean, end: number): void {
    const want = this.#wantAt(thread, arm);
    if (post && want !== undefined) {
      if (this.#hits.nextSlot >= 0) return this.#hits.post(thread, arm, 'post', want);
      this.#report1(want.site.id, thread, 'post', TOO_MANY);
    }
    ptrace.pokeUser(thread.tid, USER_IP, end);
    this.#goOn(thread);
  }

  /** A signal about to be delivered. A thread inside a slot must not be seen there by the program. */
  #signalled(thread: Thread, signal: number): void {
    const { space } = thread.process;
    const { scratch } = this.#tracees;
    const call = thread.brokenOff;
    thread.brokenOff = undefined;
    if (space.arms.size === 0 && space.areas.length === 0) return this.#deliver(thread, signal);
    if (!ptrace.getRegs(thread.tid, scratch.address)) return;
    const ip = Number(scratch.regs[REG.ip]);
    const inside = space.inSlot(ip) ?? inPlaceAt(thread, ip);
    if (call !== undefined && call.at === (inside?.at === 0 ? inside.arm.address : ip))
      return this.#signalledBefore(thread, call, signal);
    if (inside === undefined) return this.#deliver(thread, signal);
    if (onlyStops(thread.tid, signal)) return this.#tracees.stop(thread, signal);
    const { arm, at } = inside;
    if (FAULTS.has(signal) && this.#tracees.readInfo(thread) && scratch.infoCode > 0)
      return this.#instructionFaulted(thread, arm, at, signal);
    const stop = stopAt(arm.template, at);
    const hasEnded = stop?.resume === arm.template.length;
    if (arm.template.entersKernel && stop?.resume !== undefined)
      return this.#signalledAtSyscall(thread, arm, stop, signal);
    if (hasEnded && thread.activity.kind !== 'stepping') {
      leaveSlot(this.#tracees, thread, arm, stop);
      return this.#deliver(thread, signal);
    }
    this.#holdSignal(thread, arm, signal);
  }

  /** The displaced instruction has raised a signal: its fault handlers first, then the program as if it had run in its own place. */
  #instructionFaulted(thread: Thread, arm: Arm, at: number, signal: number): void {
    this.#arming.translateFault(thread, arm, at);
    // a system call that seccomp forbids: SIGSYS first, then the trap of our step over it
    if (thread.activity.kind === 'stepping' && arm.template.entersKernel)
      thread.strayTrap = this.#arming.stepTrapQueued(thread);
    this.#arming.restoreMask(thread);
    const want = this.#wantAt(thread, arm);
    const { scratch } = this.#tracees;
    if (want?.fault !== true || !this.#tracees.readInfo(thread)) return this.#deliver(thread, signal);
    thread.savedInfo = scratch.info.slice();
    const raised = { signal, code: scratch.infoCode, address: scratch.infoTarget64 };
    thread.activity = IDLE;
    const slot = this.#readRegs(thread);
    if (slot === undefined) return;
    if (slot >= 0) return this.#hits.post(thread, arm, 'fault', want, { raised });
    this.#report1(want.site.id, thread, 'fault', TOO_MANY);
    this.#deliver(thread, signal);
  }

  #faultHandled({ thread, arm, skip, changed, slot, signal }: HitReply): void {
    const regs = this.mailbox.regs(slot);
    const ip = Number(regs[REG.ip]);
    if (!skip || (ip === arm.address && !mayRetry(thread, arm))) return this.#deliver(thread, signal);
    if (changed && !ptrace.setRegs(thread.tid, this.mailbox.regsAddress(slot))) return;
    thread.savedInfo = undefined;
    const armed = thread.process.space.arms.get(arm.address) === arm;
    if (ip === arm.address && armed) this.#runInstruction(thread, arm);
    else this.#goOnAt(thread, ip);
  }

  /**
   * A system call is not waited for: it could wait for this signal. One that comes before it is delivered before it, and the
   * place is hit again; one that breaks it off may have it made anew, from its own place.
   */
  #signalledAtSyscall(thread: Thread, arm: Arm, stop: SlotStop, signal: number): void {
    const { regs } = this.#tracees.scratch;
    const brokenOff = stop.resume !== 0 && isBrokenOff(regs);
    // no handler will run, and the call is made where the thread is
    if ((brokenOff || stop.resume === 0) && doesNothing(thread, signal))
      return this.#resumeInSlot(thread, signal);
    if (brokenOff) this.#missPost(thread, regs);
    leaveSlot(this.#tracees, thread, arm, stop);
    this.#arming.restoreMask(thread);
    this.#deliver(thread, signal);
  }

  /** A system call was to be made again when the signal came. */
  #signalledBefore(thread: Thread, call: BrokenOff, signal: number): void {
    thread.brokenOff = call; // still, where no handler runs
    if (doesNothing(thread, signal)) return this.#resumeInSlot(thread, signal);
    if (onlyStops(thread.tid, signal)) return this.#tracees.stop(thread, signal);
    thread.brokenOff = undefined;
    const { regs, address } = this.#tracees.scratch;
    breakOffAgain(regs, call);
    ptrace.setRegs(thread.tid, address);
    this.#missPost(thread, regs);
    this.#arming.restoreMask(thread);
    this.#deliver(thread, signal);
  }

  /** Nobody will see the end of a system call that is broken off for a handler. */
  #missPost(thread: Thread, regs: BigUint64Array): void {
    const { activity } = thread;
    const site = activity.kind === 'stepping' && activity.post ? activity.arm.want?.site : undefined;
    if (site !== undefined && mayEnd(regs))
      this.#report1(site.id, thread, 'post', 'a signal broke the system call off');
  }

  #resumeInSlot(thread: Thread, signal: number): void {
    if (thread.activity.kind !== 'stepping') return this.#tracees.resume(thread, signal);
    thread.running = true;
    ptrace.step(thread.tid, signal);
  }

  #deliver(thread: Thread, signal: number): void {
    if (thread.activity.kind === 'stepping') thread.activity = IDLE;
    this.#resumeWith(thread, signal);
  }

  /** The instruction first: as the kernel's uprobes do, the signal is delivered when it has ended. */
  #holdSignal(thread: Thread, arm: Arm, signal: number): void {
    const { scratch } = this.#tracees;
    if (this.#tracees.readInfo(thread))
      thread.held.push({ signal, info: scratch.info.slice(0, SIGINFO_BYTES) });
    if (thread.savedMask === undefined && ptrace.getSigMask(thread.tid, scratch.wordAddress)) {
      thread.savedMask = scratch.word[0]!;
      scratch.word[0] = (thread.savedMask | ALL_BUT_FAULTS) & ~TRAP_BIT;
      ptrace.setSigMask(thread.tid, scratch.wordAddress);
    }
    if (thread.activity.kind !== 'stepping') {
      const traced = (scratch.regs[REG.flags]! & TRAP_FLAG) !== 0n;
      thread.activity = { kind: 'stepping', arm, post: false, traced };
    }
    this.#step(thread, thread.activity);
  }

  /** The end of a system call that may have mapped or unmapped a file. */
  #systemCall(thread: Thread): void {
    const { scratch } = this.#tracees;
    if (!ptrace.getRegs(thread.tid, scratch.address)) return;
    const nr = Number(BigInt.asIntN(32, scratch.regs[REG.origAx]!));
    const result = BigInt.asIntN(64, scratch.regs[REG.ax]!);
    const entering = result === -38n; // -ENOSYS until the call has been made (entry_64.S)
    if (!entering && nr === NR.rtSigaction && scratch.regs[REG.di] === BigInt(SIG.trap))
      this.#arming.traps.called(thread);
    if (entering || (nr !== NR.mmap && nr !== NR.munmap)) return this.#tracees.resume(thread);
    thread.inMappingCall = false;
    if (result >= 0n) this.#rearm(thread, thread.process.space);
    else this.#goOn(thread);
  }

  // ---- hits that were not handled

  /** Hits whose handlers take too long go on without them. */
  #expire(): void {
    for (const thread of this.#hits.expired()) {
      if (thread.activity.kind !== 'handlers') continue;
      const { arm, phase, others, signal } = thread.activity;
      if (!this.#missed(thread, 'the deadline passed before the handlers had run')) continue;
      // before the instruction it is where it shall go on: at the slot, or at the place where that was disarmed
      if (phase === 'pre') {
        if (thread.process.space.arms.get(arm.address) === arm) this.#goThrough(thread, arm);
        else this.#goOn(thread);
      } else if (phase === 'return') {
        this.#afterReturn(thread, arm, others, arm.address);
      } else if (phase === 'fault') {
        this.#deliver(thread, signal);
      } else {
        ptrace.pokeUser(thread.tid, USER_IP, this.#afterPost(thread, arm));
        this.#goOn(thread);
      }
    }
  }

  /** The process is being left: true when the handlers have not finished, and what they do now is for nothing. */
  #endHit(thread: Thread): boolean {
    if (this.#missed(thread, 'the probe was removed while the hit waited')) return true;
    const limit = performance.now() + REPLY_MS;
    while (thread.activity.kind === 'handlers' && performance.now() < limit) this.#takeReplies();
    if (thread.activity.kind !== 'handlers') return false;
    this.#hits.drop(thread);
    return true;
  }

  /** Where a thread whose post handlers are given up goes on: its own ip, translated out of the slot. */
  #afterPost(thread: Thread, arm: Arm): number {
    const { scratch } = this.#tracees;
    ptrace.getRegs(thread.tid, scratch.address);
    const ip = Number(scratch.regs[REG.ip]);
    return ip >= arm.slot && ip < arm.slot + arm.template.code.length
      ? arm.address + arm.template.length
      : ip;
  }

  #missed(thread: Thread, why: string): boolean {
    if (thread.activity.kind !== 'handlers') return false;
    const { phase, siteId } = thread.activity;
    if (!this.#hits.abandon(thread)) return false;
    this.#report1(siteId, thread, phase, why);
    return true;
  }

  #report1(siteId: number, thread: Thread, phase: Phase, why: string): void {
    const { pid, trees } = thread.process;
    this.answer({ kind: 'missed', siteId, pid, trees, phase, why });
  }
}

/** How often in a row a fault handler may have one instruction tried again. */
const MOST_RETRIES = 16;

function mayRetry(thread: Thread, arm: Arm): boolean {
  if (thread.retried?.arm !== arm) thread.retried = { arm, times: 0 };
  return ++thread.retried.times <= MOST_RETRIES;
}

/** A process whose new mappings could not be armed goes on without; one that has ended needs no word. */
function notArmed(process: Process, { code, message }: UprobeError): ArmReport[] {
  if (process.threads.size === 0) return [];
  const { pid, trees } = process;
  const refusal = { code, reason: message };
  const reports = [...process.wants.keys()].map((siteId): ArmReport => ({
    siteId,
    pid,
    trees,
    state: 'refused',
    refusal,
  }));
  for (const report of reports) process.states.set(report.siteId, report);
  return reports;
}

/** Where a thread that is stepped over an instruction in its own place still stands before it. */
function inPlaceAt({ activity }: Thread, ip: number): { readonly arm: Arm; readonly at: number } | undefined {
  if (activity.kind !== 'stepping' || !activity.arm.template.inPlace || activity.arm.address !== ip)
    return undefined;
  return { arm: activity.arm, at: 0 };
}

/** Whether a signal will do nothing at all to a thread (a traced one is told of it all the same). */
const doesNothing = ({ tid }: Thread, signal: number): boolean =>
  isIgnored(tid, signal) || (IGNORED_BY_DEFAULT.has(signal) && !isCaught(tid, signal));
