/**
 * The tracer: what every stop means, and the loop that waits for stops, replies and commands. One OS thread owns
 * all of it; nothing here waits for the handlers.
 */
import { BellWait } from '../../linux/doorbell.js';
import { clonePaused, type Program } from '../../linux/clone.js';
import { SIG } from '../../linux/numbers.js';
import { EVENT, ptrace } from '../../linux/ptrace.js';
import { ProcessError, UprobeError } from '../../base/errors.js';
import { SyscallError } from '../../linux/syscall-error.js';
import { readMemory, writeMemory } from '../../linux/process-memory.js';
import { NR } from '../../linux/numbers.js';
import { stopAt } from '../../arch/slot.js';
import type { ArmReport, Phase } from '../engine.js';
import type { AddressSpace, Arm } from './address-space.js';
import { Arming } from './arming.js';
import { FollowCpu } from './follow-cpu.js';
import { Hits, type HitReply } from './hits.js';
import { REASON, WORD, type Mailbox } from './mailbox.js';
import { Demand } from './demand.js';
import { News } from './news.js';
import type { Answer, Command } from './protocol.js';
import { toPlain } from './protocol.js';
import { IDLE, type Process, type Thread } from './thread.js';
import {
  PLAIN_STOP,
  REG,
  SIGINFO_BYTES,
  USER_IP,
  Tracees,
  exited,
  killed,
  stopEvent,
  stopSignal,
  type StopListener,
} from './tracees.js';
import type { Want } from './wants.js';

const SYSCALL_STOP = SIG.trap | 0x80;
const GROUP_STOPS: ReadonlySet<number> = new Set([SIG.stop, SIG.tstp, SIG.ttin, SIG.ttou]);
const FAULTS: ReadonlySet<number> = new Set([SIG.ill, SIG.trap, SIG.bus, SIG.fpe, SIG.segv, SIG.sys]);
/** Everything but what the instruction itself may raise: blocked while a thread is stepped out of its slot. */
const ALL_BUT_FAULTS = [...FAULTS].reduce((mask, s) => mask & ~(1n << BigInt(s - 1)), 0xffff_ffff_ffff_ffffn);
const TRAP_FLAG = 0x100n;
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
    const bell = new BellWait(mailbox.address, mailbox.words.subarray(0, 2));
    this.#spins = cpus > 1;
    this.#news = new News(answer);
    this.#tracees = new Tracees(bell, this);
    this.#hits = new Hits(mailbox, () => answer({ kind: 'wake' }));
    this.#arming = new Arming(this.#tracees, (thread) => this.#endHit(thread));
    this.#demand = new Demand(this.#tracees, this.#arming, this.#paused);
    Atomics.store(mailbox.words, WORD.tracerTid, bell.tid);
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
    if (event === EVENT.stop && GROUP_STOPS.has(signal)) return this.#tracees.listen(thread);
    if (event !== 0) return this.#goOn(thread);
    if (signal === SYSCALL_STOP) return this.#systemCall(thread);
    if (signal === SIG.trap) return this.#trapped(thread);
    this.#signalled(thread, signal);
  }

  threadGone(thread: Thread): void {
    this.#missed(thread, 'the thread ended before the handlers had run');
    this.#hits.drop(thread);
  }

  processGone(process: Process, status: number | undefined): void {
    this.#paused.delete(process);
    this.#noLongerOurs(process);
    if (status !== undefined && this.#tracees.children.has(process.pid)) this.childEnded(process.pid, status);
  }

  #noLongerOurs(process: Process): void {
    if (process.role === 'wanted' || process.wants.size > 0)
      this.#news.tell({ kind: 'ended', pid: process.pid });
    this.processLeft(process);
  }

  processLeft(process: Process): void {
    for (const root of this.#demand.leave(process)) this.#news.tell({ kind: 'treeEnded', root });
  }

  born(child: Process, parent: Process): void {
    this.#demand.inherit(child, parent);
    if (child.role === 'wanted')
      this.#news.tell({ kind: 'born', pid: child.pid, parent: parent.pid, trees: child.trees });
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

  /** Resume: with the step it is in the middle of, or with a signal that was held, if there is one. */
  #goOn(thread: Thread): void {
    if (thread.activity.kind === 'stepping') return this.#tracees.step(thread);
    const held = thread.held.shift();
    if (held === undefined) return this.#tracees.resume(thread);
    thread.savedInfo = held.info;
    this.#tracees.resume(thread, held.signal);
  }

  /** New memory: nothing of ours is in it. What is wanted of the process is armed again before it runs. */
  #executed(thread: Thread, status: number): void {
    const { process } = thread;
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
    if (thread.activity.kind === 'stepping')
      return this.#stepped(thread, thread.activity.arm, thread.activity.post);
    const { space } = thread.process;
    const slot = this.#hits.nextSlot;
    const regs = slot < 0 ? this.#tracees.scratch.regs : this.mailbox.regs(slot);
    if (
      !ptrace.getRegs(thread.tid, slot < 0 ? this.#tracees.scratch.address : this.mailbox.regsAddress(slot))
    )
      return;
    const address = Number(regs[REG.ip]) - 1;
    const arm = space.arms.get(address);
    if (arm === undefined) return this.#strangeTrap(thread, address);
    if (arm.template.length > 1) return this.#hit(thread, arm, slot);
    // one byte behind a one-byte instruction a thread may be for other reasons: a step of its own, a signal sent to it
    const stepsItself = (regs[REG.flags]! & TRAP_FLAG) !== 0n;
    if (slot >= 0 && !stepsItself && this.#onlyHandlers(thread, arm))
      return this.#hitToBeConfirmed(thread, arm, slot);
    if (this.#arming.breakpointInfo(thread)) this.#hit(thread, arm, slot);
    else this.#tracees.resume(thread, SIG.trap);
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
    this.#tracees.resume(thread, SIG.trap);
  }

  /** A breakpoint that was taken out since the thread ran into it, or no breakpoint of ours. */
  #strangeTrap(thread: Thread, address: number): void {
    const byte = thread.process.space.memory.read(address, 1);
    if (byte !== undefined && byte[0] !== 0xcc && this.#arming.breakpointInfo(thread)) {
      ptrace.pokeUser(thread.tid, USER_IP, address);
      return this.#goOn(thread);
    }
    this.#tracees.resume(thread, SIG.trap);
  }

  /** What a hit means is up to the process: others that share the memory may want other things, or nothing. */
  #wantAt(thread: Thread, { want }: Arm): Want | undefined {
    return want && thread.process.wants.get(want.site.id);
  }

  #onlyHandlers(thread: Thread, arm: Arm): boolean {
    const want = this.#wantAt(thread, arm);
    return want?.pre === true && want.counters.length === 0;
  }

  #hit(thread: Thread, arm: Arm, slot: number): void {
    this.#cpu.hit(thread);
    const want = this.#wantAt(thread, arm);
    if (want === undefined) return this.#runDisplaced(thread, arm);
    for (const counter of want.counters) this.mailbox.counters[counter]!++;
    if (!want.pre) return this.#runInstruction(thread, arm);
    if (slot < 0) {
      this.#report1(want.site.id, thread, 'pre', TOO_MANY);
      return this.#runInstruction(thread, arm);
    }
    // what the handlers see is the place itself, not the byte behind the breakpoint
    this.mailbox.regs(slot)[REG.ip] = BigInt(arm.address);
    this.#hits.post(thread, arm, 'pre', want);
  }

  /** The instruction, in steps where post handlers follow it. */
  #runInstruction(thread: Thread, arm: Arm): void {
    if (this.#wantAt(thread, arm)?.post !== true) return this.#runDisplaced(thread, arm);
    if (!ptrace.pokeUser(thread.tid, USER_IP, arm.slot)) return;
    thread.activity = { kind: 'stepping', arm, post: true };
    this.#tracees.step(thread);
  }

  /** Run the displaced instruction in its slot, registers as they are. */
  #runDisplaced(thread: Thread, arm: Arm): void {
    if (arm.watch !== undefined && this.#mapsCode(thread, arm)) thread.activity = { kind: 'mapping-call' };
    this.#goOnAt(thread, arm.slot);
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
    const armed = thread.process.space.arms.get(arm.address) === arm;
    // as with the kernel's uprobes, a handler that moved ip has decided where the thread goes on
    const runs = armed && phase === 'pre' && !skip && regs[REG.ip] === BigInt(arm.address);
    if (changed && !ptrace.setRegs(thread.tid, this.mailbox.regsAddress(slot))) return;
    if (!runs) return changed ? this.#goOn(thread) : this.#goOnAt(thread, Number(regs[REG.ip]));
    this.#runInstruction(thread, arm);
  }

  /** The stop after one step in a slot. */
  #stepped(thread: Thread, arm: Arm, post: boolean): void {
    const slot = this.#hits.nextSlot;
    const address = slot < 0 ? this.#tracees.scratch.address : this.mailbox.regsAddress(slot);
    const regs = slot < 0 ? this.#tracees.scratch.regs : this.mailbox.regs(slot);
    if (!ptrace.getRegs(thread.tid, address)) return;
    const ip = Number(regs[REG.ip]);
    const at = ip - arm.slot;
    let end = ip;
    if (at >= 0 && at < arm.template.code.length) {
      const stop = stopAt(arm.template, at);
      if (stop?.resume !== arm.template.length) return this.#tracees.step(thread);
      end = arm.address + arm.template.length;
      regs[REG.ip] = BigInt(end);
      if (arm.template.pushesFlags) this.#clearPushedTrapFlag(thread, Number(regs[REG.sp]));
    }
    thread.activity = IDLE;
    this.#arming.restoreMask(thread);
    const want = this.#wantAt(thread, arm);
    if (!post || want === undefined) {
      ptrace.pokeUser(thread.tid, USER_IP, end);
      return this.#goOn(thread);
    }
    if (slot >= 0) return this.#hits.post(thread, arm, 'post', want);
    this.#report1(want.site.id, thread, 'post', TOO_MANY);
    ptrace.pokeUser(thread.tid, USER_IP, end);
    this.#goOn(thread);
  }

  /** A step sets the trap flag, and pushf has just pushed it. */
  #clearPushedTrapFlag(thread: Thread, sp: number): void {
    const { fd } = thread.process.space.memory;
    const flags = readMemory(fd, sp, 2);
    if (flags !== undefined)
      writeMemory(fd, sp, Uint8Array.of(flags[0]!, flags[1]! & ~Number(TRAP_FLAG >> 8n)));
  }

  /** A signal about to be delivered. A thread inside a slot must not be seen there by the program. */
  #signalled(thread: Thread, signal: number): void {
    const { space } = thread.process;
    const { scratch } = this.#tracees;
    if (space.areas.length === 0 || !ptrace.getRegs(thread.tid, scratch.address))
      return this.#deliver(thread, signal);
    const ip = Number(scratch.regs[REG.ip]);
    const inside = space.inSlot(ip);
    if (inside === undefined) return this.#deliver(thread, signal);
    const { arm, at } = inside;
    if (FAULTS.has(signal) && this.#tracees.readInfo(thread) && scratch.infoCode > 0) {
      this.#arming.translateFault(thread, arm, at);
      this.#arming.restoreMask(thread);
      return this.#deliver(thread, signal);
    }
    const stop = stopAt(arm.template, at);
    if (stop?.resume === arm.template.length && thread.activity.kind !== 'stepping') {
      ptrace.pokeUser(thread.tid, USER_IP, arm.address + stop.resume);
      return this.#deliver(thread, signal);
    }
    this.#holdSignal(thread, arm, signal);
  }

  #deliver(thread: Thread, signal: number): void {
    if (thread.activity.kind === 'stepping') thread.activity = IDLE;
    this.#tracees.resume(thread, signal);
  }

  /** The instruction first: as the kernel's uprobes do, the signal is delivered when it has ended. */
  #holdSignal(thread: Thread, arm: Arm, signal: number): void {
    const { scratch } = this.#tracees;
    if (this.#tracees.readInfo(thread))
      thread.held.push({ signal, info: scratch.info.slice(0, SIGINFO_BYTES) });
    if (thread.savedMask === undefined && ptrace.getSigMask(thread.tid, scratch.wordAddress)) {
      thread.savedMask = scratch.word[0]!;
      scratch.word[0] = thread.savedMask | ALL_BUT_FAULTS;
      ptrace.setSigMask(thread.tid, scratch.wordAddress);
    }
    const post = thread.activity.kind === 'stepping' && thread.activity.post;
    thread.activity = { kind: 'stepping', arm, post };
    this.#tracees.step(thread);
  }

  /** The end of a system call that may have mapped or unmapped a file. */
  #systemCall(thread: Thread): void {
    const { scratch } = this.#tracees;
    if (!ptrace.getRegs(thread.tid, scratch.address)) return;
    const nr = Number(BigInt.asIntN(32, scratch.regs[REG.origAx]!));
    const result = BigInt.asIntN(64, scratch.regs[REG.ax]!);
    const entering = result === -38n; // -ENOSYS until the call has been made (entry_64.S)
    if (entering || (nr !== NR.mmap && nr !== NR.munmap)) return this.#tracees.resume(thread);
    thread.activity = IDLE;
    if (result >= 0n) this.#rearm(thread, thread.process.space);
    else this.#goOn(thread);
  }

  // ---- hits that were not handled

  /** Hits whose handlers take too long go on without them. */
  #expire(): void {
    for (const thread of this.#hits.expired()) {
      if (thread.activity.kind !== 'handlers') continue;
      const { arm, phase } = thread.activity;
      if (!this.#missed(thread, 'the deadline passed before the handlers had run')) continue;
      if (phase === 'pre') this.#runDisplaced(thread, arm);
      else {
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
    const { arm, phase } = thread.activity;
    if (!this.#hits.abandon(thread)) return false;
    if (arm.want !== undefined) this.#report1(arm.want.site.id, thread, phase, why);
    return true;
  }

  #report1(siteId: number, thread: Thread, phase: Phase, why: string): void {
    const { pid, trees } = thread.process;
    this.answer({ kind: 'missed', siteId, pid, trees, phase, why });
  }
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
