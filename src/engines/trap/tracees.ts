/**
 * Every thread we trace: waiting for their stops, telling new threads from new processes, holding a whole address
 * space still. What a stop means is for others to say.
 */
import { readdirSync } from 'node:fs';
import { ProcessError, messageOf } from '../../base/errors.js';
import type { BellWait } from '../../linux/doorbell.js';
import { mapRegion } from '../../linux/memory.js';
import { ERRNO, NR, SIG } from '../../linux/numbers.js';
import { shareMemory } from '../../linux/kcmp.js';
import { statusField } from '../../linux/proc-status.js';
import { EVENT, OPTION, ptrace } from '../../linux/ptrace.js';
import { SyscallError } from '../../linux/syscall-error.js';
import { SIGINFO_BYTES, SI_KERNEL } from '../../linux/siginfo.js';
import { REG, USER_IP } from '../../linux/user-regs.js';
import { PLAIN_STOP, exited, killed, signalStop, stopEvent } from '../../linux/wait-status.js';
import { liveThread } from '../../process/check.js';
import { AddressSpace } from './address-space.js';
import { isEnd, isGone } from './dying.js';
import { REG_WORDS } from './mailbox.js';
import { mayOweReport, Orphans, sharerOf } from './orphans.js';
import { sharersOf, waitsForChild } from './sharers.js';
import { IDLE, Process, Thread, type Role } from './thread.js';

const OPTIONS = OPTION.sysgood | OPTION.fork | OPTION.vfork | OPTION.clone | OPTION.exec | OPTION.vforkDone;
const CLONE_VM = 0x100n;
const CLONE_THREAD = 0x10000n;
/** How long a thread may take to stop, ms: uninterruptible sleep (a dead disk) is the only thing that takes long. */
const STOP_TIMEOUT = 3000;
/** How long to wait for a thread before looking whether it can stop at all, ms. */
const FIRST_LOOK_MS = 5;
/** How long one instruction may take while all other threads wait for it, ms. */
const STEP_TIMEOUT = 1000;
const FEW = 8;
/** Events that are reported from inside a system call. */
const IN_CALL: ReadonlySet<number> = new Set([
  EVENT.fork,
  EVENT.vfork,
  EVENT.clone,
  EVENT.exec,
  EVENT.vforkDone,
]);

export interface StopListener {
  /**
   * A thread of a frozen address space has stopped: the status to keep for later. The stop is taken then, and what must
   * not be lost with us has to be in the thread's registers.
   */
  postponed(thread: Thread, status: number): number;
  /** A thread of an address space that is not frozen has stopped and waits for us. */
  stopped(thread: Thread, status: number): void;
  /** A thread ended: what it held must be given back. */
  threadGone(thread: Thread): void;
  /** A process has no thread any more. `status`: how it ended, when that was reported. */
  processGone(process: Process, status: number | undefined): void;
  /** We have let a process go. */
  processLeft(process: Process): void;
  /** A process of a tree that is wanted has made another process. What is wanted of that is to be said now. */
  born(child: Process, parent: Process): void;
  /** The same child has a copy of the memory, with all that was ours in it. */
  copied(child: Process): void;
  /** A process has left a memory in which others stay. */
  memoryLeft(space: AddressSpace): void;
  /** A process has executed a program whose memory may not be opened, and was let go: nothing of ours is in it. */
  memoryClosed(process: Process, why: Error): void;
  /** A child that we started and do not trace any more has ended. */
  childEnded(pid: number, status: number): void;
}

/** Scratch memory for ptrace: one set of registers, one siginfo, one word. */
class Scratch {
  readonly address: number;
  readonly regs: BigUint64Array;
  readonly info: Uint8Array;
  readonly #infoFields: DataView;
  readonly word: BigUint64Array;
  /** The lower half of the first word. */
  readonly lowWord: Uint32Array;
  constructor() {
    const region = mapRegion(4096);
    const { buffer } = region.bytes;
    this.address = region.address;
    this.regs = new BigUint64Array(buffer, 0, REG_WORDS);
    this.info = new Uint8Array(buffer, 512, SIGINFO_BYTES);
    this.#infoFields = new DataView(buffer, 512, SIGINFO_BYTES);
    this.word = new BigUint64Array(buffer, 1024, 2);
    this.lowWord = new Uint32Array(buffer, 1024, 1);
  }
  /** si_code: who raised the signal; positive when it was the kernel, for something the thread did (sigaction(2)). */
  get infoCode(): number {
    return this.#infoFields.getInt32(8, true);
  }
  /** si_signo. */
  get infoSignal(): number {
    return this.#infoFields.getInt32(0, true);
  }
  /** si_addr. */
  get infoTarget(): number {
    return Number(this.infoTarget64);
  }
  get infoTarget64(): bigint {
    return this.#infoFields.getBigUint64(16, true);
  }
  set infoTarget(address: number) {
    this.#infoFields.setBigUint64(16, BigInt(address), true);
  }
  get infoAddress(): number {
    return this.address + 512;
  }
  get wordAddress(): number {
    return this.address + 1024;
  }
}

export class Tracees {
  readonly threads = new Map<number, Thread>();
  readonly processes = new Map<number, Process>();
  readonly scratch = new Scratch();
  /** PTRACE_O_* of every tracee. */
  readonly options = OPTIONS;
  /** Children of ours, traced or not: their end is reported to whoever started them. */
  readonly children = new Set<number>();
  readonly #orphans = new Orphans();

  constructor(
    readonly bell: BellWait,
    readonly listener: StopListener,
  ) {}

  /** Take one event if there is one, or wait up to `timeout` ms for it (`unless`: see BellWait.next). False when there was none. */
  take(timeout: number | undefined, unless?: () => boolean): boolean {
    if (this.#takeLater()) return true;
    const taken = this.#serve(this.bell.next(this.#orphans.wait(timeout), unless));
    if (!this.#orphans.isEmpty) this.#adoptLost();
    return taken;
  }

  /** No thread of a few runs: no event can come that a short sleep on the bell would miss for long. */
  get quiet(): boolean {
    if (this.threads.size > FEW || this.#later.length > 0) return false;
    for (const thread of this.threads.values()) if (thread.running) return false;
    return true;
  }

  /** A child of somebody who has ended may still turn up. */
  get expectsOrphans(): boolean {
    return !this.#orphans.isEmpty;
  }

  /** Take one event that is already there. */
  takeNow(): boolean {
    return this.#takeLater() || this.#serve(this.bell.poll());
  }

  readonly #later: { readonly tid: number; readonly status: number }[] = [];

  /**
   * A stop that was found while something was done with the thread for us. True where it is the end of all that: another
   * thread has executed a program, or this one is no more. It is seen to when we are done.
   */
  isTheEnd(thread: Thread, status: number): boolean {
    if (exited(status) || killed(status)) this.ended(thread, status);
    else if (stopEvent(status) === EVENT.exec) this.#later.push({ tid: thread.tid, status });
    else return false;
    return true;
  }

  #takeLater(): boolean {
    const next = this.#later.shift();
    if (next !== undefined) this.#dispatch(next.tid, next.status);
    return next !== undefined;
  }

  /** The thread whose stop has been looked at and not been taken. */
  #looked: Thread | undefined;
  #lookedStatus = 0;

  #look(thread: Thread, status: number): void {
    this.#looked = thread;
    this.#lookedStatus = status;
  }

  #serve(tid: number): boolean {
    if (tid <= 0) return false;
    this.#dispatch(tid, this.bell.status);
    this.#takeStop();
    return true;
  }

  /**
   * A thread that goes on at once takes its stop with it. Of one that stays stopped we are told again and again until the
   * stop is taken, from when on it is lost if we are.
   */
  #takeStop(): void {
    const thread = this.#looked;
    this.#looked = undefined;
    if (thread === undefined || thread.running || !this.bell.consume(thread.tid)) return;
    // killed in that stop, it has ended, or a thread that executes a program has taken its place
    if (this.bell.status !== this.#lookedStatus) this.isTheEnd(thread, this.bell.status);
  }

  addThread(tid: number, process: Process): Thread {
    const thread = new Thread(tid, process);
    this.threads.set(tid, thread);
    process.threads.set(tid, thread);
    if (process.threads.size > 1) process.hadThreads = true;
    process.space.threads.add(thread);
    this.processes.set(process.pid, process);
    return thread;
  }

  forget(thread: Thread): void {
    const { process } = thread;
    this.listener.threadGone(thread);
    this.threads.delete(thread.tid);
    process.threads.delete(thread.tid);
    process.space.threads.delete(thread);
    if (process.space.threads.size === 0) process.space.close();
  }

  /** A thread has ended: forget it, and with the last one its process. */
  ended(thread: Thread, status: number): void {
    const { process } = thread;
    this.forget(thread);
    if (process.threads.size > 0) return;
    this.processes.delete(process.pid);
    this.#gone(process, status);
    if (process.space.threads.size > 0) this.listener.memoryLeft(process.space);
  }

  /** Of a process that may have made another one it can still be asked in which trees it was. */
  #gone(process: Process, status: number): void {
    const tell = (): void => this.listener.processGone(process, status);
    const { space } = process;
    if (!mayOweReport(process, status)) return tell();
    if (!isFollowed(process)) {
      this.#orphans.remember({ process, space });
      return tell();
    }
    this.#orphans.remember({ process, space }, tell);
    if (this.children.has(process.pid)) this.listener.childEnded(process.pid, status);
  }

  #dispatch(tid: number, status: number): void {
    const thread = this.threads.get(tid) ?? this.#newLeader(tid, status);
    if (thread === undefined) return this.#unknown(tid, status);
    if (exited(status) || killed(status)) return this.ended(thread, status);
    thread.running = false;
    this.#look(thread, status);
    thread.inCall = IN_CALL.has(stopEvent(status));
    thread.interrupted = false; // any stop is the one that was asked for (kernel/signal.c, ptrace_stop)
    const event = stopEvent(status);
    if (event === EVENT.fork || event === EVENT.vfork || event === EVENT.clone) {
      this.#adopt(thread, event);
      this.#look(thread, status); // the new one's first stop may have been seen to: this one's is still there
    }
    if (event === EVENT.exec) return this.#executed(thread, status);
    try {
      if (thread.process.space.frozen > 0) thread.pending = this.listener.postponed(thread, status);
      else this.listener.stopped(thread, status);
    } catch (e) {
      // it has ended, or another program has, while something was done with it
      if (!isEnd(e)) throw e;
    }
  }

  /** Of a process whose first thread had ended before we came: one that executes a program takes its place. */
  #newLeader(tid: number, status: number): Thread | undefined {
    const process = this.processes.get(tid);
    const isNew = process !== undefined && stopEvent(status) === EVENT.exec;
    return isNew ? this.addThread(tid, process) : undefined;
  }

  #unknown(tid: number, seen: number): void {
    const status = exited(seen) || killed(seen) || !this.bell.consume(tid) ? seen : this.bell.status;
    if (exited(status) || killed(status)) {
      this.#orphans.ended(tid);
      if (this.children.has(tid)) this.listener.childEnded(tid, status);
      return;
    }
    this.#orphans.stopped(tid, status);
  }

  /** A thread made another thread or process: the new one is traced already and stops by itself. */
  #adopt(parent: Thread, event: number): void {
    if (!ptrace.getEventMessage(parent.tid, this.scratch.wordAddress)) return;
    const tid = Number(this.scratch.word[0]);
    if (this.threads.has(tid)) return; // so late that it was taken for an orphan
    const flags = this.#cloneFlags(parent);
    const { process } = parent;
    // made by a `syscall` that we step over, it begins in the slot as well, behind the call
    const activity = parent.activity.kind === 'stepping' ? { ...parent.activity, post: false } : IDLE;
    if ((flags & CLONE_THREAD) !== 0n) {
      this.addThread(tid, process);
    } else if ((flags & CLONE_VM) !== 0n) {
      if (event === EVENT.vfork) parent.inVfork = true;
      this.#adoptSharing(tid, process);
    } else {
      this.#adoptFork(tid, process, process.space, parent.tid);
    }
    const made = this.threads.get(tid);
    if (made !== undefined) {
      made.activity = activity;
      made.blocksTrap = parent.blocksTrap;
    }
    const early = this.#orphans.announced(tid);
    if (early !== undefined) this.#dispatch(tid, early);
  }

  /** Children whose parents could not say that they had made them. */
  #adoptLost(): void {
    for (const [tid, status] of this.#orphans.takeLost()) {
      const sharer = sharerOf(tid, this.processes.values());
      if (sharer !== undefined) this.#adoptSharing(tid, sharer);
      else this.#adoptOrphan(tid);
      if (this.threads.has(tid)) this.#dispatch(tid, status);
      else ptrace.detach(tid, 0); // nothing of ours is in it
    }
    this.#orphans.forget();
  }

  #adoptOrphan(tid: number): void {
    const living = [...this.processes.values()].map((process) => ({ process, space: process.space }));
    try {
      const parent = this.#orphans.parentOf(tid, living);
      if (parent !== undefined) this.#adoptFork(tid, parent.process, parent.space);
    } catch (e) {
      if (!isGone(e)) throw e;
    }
  }

  /** A child has copies of its parent's actions for signals. */
  #addProcess(pid: number, space: AddressSpace, role: Role, parent: Process): Process {
    const child = new Process(pid, space, role);
    child.trapAction = parent.trapAction;
    this.addThread(pid, child);
    return child;
  }

  /** A process in the memory of its parent. */
  #adoptSharing(tid: number, parent: Process): void {
    const child = this.#addProcess(
      tid,
      parent.space,
      parent.role === 'leaving' ? 'leaving' : 'carried',
      parent,
    );
    if (isFollowed(parent)) this.listener.born(child, parent);
  }

  /**
   * A copy of the memory, breakpoints and all. A child that is followed keeps them; any other gets its own bytes back before
   * it runs, and is let go.
   */
  #adoptFork(tid: number, parent: Process, memory = parent.space, maker = 0): void {
    try {
      if (!isFollowed(parent)) {
        this.#addProcess(tid, memory.copyFor(tid), 'leaving', parent);
        return;
      }
      const child = this.#addProcess(tid, new AddressSpace(tid), 'wanted', parent);
      this.listener.born(child, parent);
      child.space.inherit(memory, maker, child);
      this.listener.copied(child);
    } catch (e) {
      if (!isGone(e)) throw e; // killed already: its end is reported as an unknown thread's
    }
  }

  /** The flags a new task was made with, from the system call its parent is still in. */
  #cloneFlags(parent: Thread): bigint {
    const { regs } = this.scratch;
    if (!ptrace.getRegs(parent.tid, this.scratch.address)) return 0n;
    const nr = Number(BigInt.asIntN(64, regs[REG.origAx]!));
    if (nr === NR.clone) return regs[REG.di]!;
    if (nr === NR.vfork) return CLONE_VM;
    if (nr !== NR.clone3) return 0n;
    const bytes = parent.process.space.memory.read(Number(regs[REG.di]), 8); // struct clone_args begins with its flags
    return bytes === undefined ? 0n : new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true);
  }

  #executed(reported: Thread, status: number): void {
    let space: AddressSpace;
    try {
      space = new AddressSpace(reported.process.pid);
    } catch (e) {
      if (!(e instanceof Error)) throw e;
      return this.#letExecutedGo(reported, e);
    }
    this.#enter(reported, space, status);
  }

  /** The same for who can be told that the memory of the program cannot be opened: throws then. */
  executed(reported: Thread, status: number): void {
    this.#enter(reported, new AddressSpace(reported.process.pid), status);
  }

  /** execve: the old memory and all other threads are gone; whoever called it is the leader now. */
  #enter(reported: Thread, space: AddressSpace, status: number): void {
    const { process } = reported;
    const old = process.space;
    if (process.hadThreads) this.#orphans.remember({ process, space: old });
    process.hadThreads = false;
    this.#leaveOthers(reported);
    old.threads.delete(reported);
    this.listener.threadGone(reported);
    process.space = space;
    space.threads.add(reported);
    reported.running = false;
    reported.isZombie = false;
    reported.inCall = true;
    reported.activity = IDLE;
    reported.inMappingCall = false;
    reported.pending = undefined;
    reported.inVfork = false;
    reported.stopsAgain = false;
    reported.brokenOff = undefined;
    reported.savedMask = undefined;
    reported.trapMask = undefined;
    if (old.threads.size === 0) old.close();
    else this.listener.memoryLeft(old);
    this.listener.stopped(reported, status);
  }

  #leaveOthers(reported: Thread): void {
    for (const other of [...reported.process.threads.values()]) if (other !== reported) this.forget(other);
  }

  #letExecutedGo(reported: Thread, why: Error): void {
    const { process } = reported;
    this.#leaveOthers(reported);
    ptrace.detach(reported.tid, 0);
    this.forget(reported);
    this.processes.delete(process.pid);
    this.listener.memoryClosed(process, why);
    if (process.space.threads.size > 0) this.listener.memoryLeft(process.space);
  }

  /** Attach every thread of a running process, and of those that share its memory. None of them has been stopped yet. */
  attach(pid: number): Process {
    this.#refuseForeignChild(pid);
    const attached: Process[] = [];
    try {
      const first = hasEnded(pid) ? liveThread(pid) : pid;
      if (first === undefined) throw new ProcessError('no-such-process', pid, `process ${pid} has ended`);
      ptrace.seize(first, OPTIONS);
      const process = new Process(pid, this.#spaceOf(pid, first), 'wanted');
      this.addThread(first, process);
      attached.push(process);
      while (this.#seizeNewThreads(process));
      while (this.#seizeSharers(process, attached));
      return process;
    } catch (e) {
      if (attached.length === 0) this.#undoSeize(pid);
      for (const process of attached) this.letGo(process);
      if (e instanceof ProcessError) throw e;
      const code = e instanceof SyscallError && e.errno === ERRNO.ESRCH ? 'no-such-process' : 'cannot-attach';
      throw new ProcessError(code, pid, `process ${pid} cannot be attached: ${messageOf(e)}`, { cause: e });
    }
  }

  /** A memory of its own, or that of a process which we trace already. */
  #spaceOf(pid: number, shownBy: number): AddressSpace {
    for (const { space } of this.processes.values()) {
      if (!shareMemory(shownBy, space.shownBy)) continue;
      // who was about to be let go is carried over what is armed again
      for (const process of space.processes()) if (process.role === 'leaving') process.role = 'carried';
      return space;
    }
    return new AddressSpace(pid, shownBy);
  }

  /** What is put into this memory concerns them, too: they are carried over it. */
  #seizeSharers(process: Process, attached: Process[]): boolean {
    let found = false;
    for (const pid of sharersOf(process.pid, process.space.shownBy)) {
      if (this.threads.has(pid) || !this.#seized(pid)) continue;
      const sharer = new Process(pid, process.space, 'carried');
      this.addThread(pid, sharer);
      attached.push(sharer);
      while (this.#seizeNewThreads(sharer));
      found = true;
    }
    return found;
  }

  /** ptrace(2): stops of a child are also reported to its parent's waits, and Node's event loop waits for its children. */
  #refuseForeignChild(pid: number): void {
    if (this.children.has(pid) || statusField(pid, 'PPid') !== String(process.pid)) return;
    throw new ProcessError(
      'is-our-child',
      pid,
      `process ${pid} was started by this program with node:child_process, whose waiting for it would take its stops away ` +
        'from the tracer: start it with spawnTarget instead',
    );
  }

  #seizeNewThreads(process: Process): boolean {
    let found = false;
    for (const name of readdirSync(`/proc/${process.pid}/task`)) {
      const tid = Number(name);
      if (this.threads.has(tid)) continue;
      if (!this.#seized(tid)) continue;
      this.addThread(tid, process);
      found = true;
    }
    return found;
  }

  /** False: it has just ended, or was made by a thread of which we have just become the tracer. */
  #seized(tid: number): boolean {
    try {
      ptrace.seize(tid, OPTIONS);
      return true;
    } catch (e) {
      const isEnded = (e instanceof SyscallError && e.errno === ERRNO.ESRCH) || hasEnded(tid);
      if (isEnded || statusField(tid, 'TracerPid') === String(this.bell.tid)) return false;
      throw e;
    }
  }

  #undoSeize(tid: number): void {
    if (!ptrace.interruptIfThere(tid) || this.bell.reap(tid) !== tid) return;
    const { status } = this.bell;
    // the end of a program that we have started is told nowhere else
    if (!exited(status) && !killed(status)) ptrace.detach(tid, 0);
    else if (this.children.has(tid)) this.listener.childEnded(tid, status);
  }

  /** A child of ours that is about to execute its first program. */
  addChild(pid: number): Thread {
    ptrace.seize(pid, OPTIONS);
    this.children.add(pid);
    const process = new Process(pid, new AddressSpace(pid), 'wanted');
    return this.addThread(pid, process);
  }

  /**
   * Stop every thread of an address space, and keep them: their stops wait in `pending`. Returns a thread that does not stop, if
   * there is one; the space is frozen all the same.
   */
  freeze(space: AddressSpace): Thread | undefined {
    this.#takeStop();
    space.frozen++;
    const mustStop = (t: Thread): boolean => t.running && !t.inVfork && !t.isZombie;
    for (const t of space.threads)
      if (mustStop(t) && !t.interrupted) t.interrupted = ptrace.interruptIfThere(t.tid);
    const limit = performance.now() + STOP_TIMEOUT;
    for (let patience = FIRST_LOOK_MS; ; patience = 100) {
      const late = [...space.threads].find(mustStop);
      if (late === undefined) return undefined;
      if (performance.now() > limit) return late;
      if (!this.take(patience)) {
        late.isZombie = hasEnded(late.tid);
        late.inVfork = waitsForChild(late.tid, space.memory.fd);
      }
      this.rungMeanwhile |= this.bell.rung();
    }
  }

  /** Reasons of rings that came while we waited for something else. */
  rungMeanwhile = 0;

  /** Let the threads go on, each with the stop that it waits in. */
  thaw(space: AddressSpace): void {
    if (--space.frozen > 0) return;
    for (const thread of [...space.threads]) {
      const status = thread.pending;
      if (thread.running || status === undefined) continue;
      thread.pending = undefined;
      this.listener.stopped(thread, status);
    }
    if (space.wasLeft && space.frozen === 0 && space.threads.size > 0) this.listener.memoryLeft(space);
  }

  /** Resume. `signal`: delivered now, where the thread is in the stop before its delivery. */
  resume(thread: Thread, signal = 0): void {
    if (this.#keptStopped(thread, signal)) return;
    this.#stopAgain(thread);
    if (signal !== 0 && thread.savedInfo !== undefined) this.setInfo(thread, thread.savedInfo);
    thread.savedInfo = undefined;
    thread.running = true;
    if (thread.process.space.traceSyscalls || thread.inMappingCall) ptrace.untilSyscall(thread.tid, signal);
    else ptrace.cont(thread.tid, signal);
  }

  /** Resume at another address. */
  resumeAt(thread: Thread, ip: number): void {
    const { space } = thread.process;
    if (
      space.frozen === 0 &&
      !space.traceSyscalls &&
      !thread.inMappingCall &&
      !thread.stopsAgain &&
      thread.activity.kind === 'none'
    ) {
      thread.savedInfo = undefined;
      thread.running = true;
      ptrace.pokeUserAndCont(thread.tid, USER_IP, ip);
    } else if (ptrace.pokeUser(thread.tid, USER_IP, ip)) {
      this.resume(thread);
    }
  }

  /** A thread that could go on while all of its memory must stand still goes on with the others. */
  #keptStopped(thread: Thread, signal = 0): boolean {
    if (thread.process.space.frozen === 0) return false;
    thread.pending = signal === 0 ? PLAIN_STOP : signalStop(signal);
    return true;
  }

  step(thread: Thread): void {
    if (this.#keptStopped(thread)) return;
    this.#stopAgain(thread);
    thread.savedInfo = undefined;
    thread.running = true;
    ptrace.step(thread.tid, 0);
  }

  /**
   * An interrupt of a stopped thread is seen to before it runs. Its stop says whether the process is in group-stop, and behind it
   * the kernel sees to a system call that was broken off, with a signal that has come meanwhile or without
   * (arch/x86/kernel/signal.c, arch_do_signal_or_restart).
   */
  #stopAgain(thread: Thread): void {
    if (!thread.stopsAgain) return;
    thread.stopsAgain = false;
    thread.interrupted = ptrace.interruptIfThere(thread.tid);
  }

  /** Resume with a signal that stops the process. Whether or not SIGCONT was quicker, there is a stop before it runs. */
  stop(thread: Thread, signal: number): void {
    thread.stopsAgain = true;
    this.resume(thread, signal);
  }

  /**
   * Step a thread and wait for what comes of it, which is in `pending` then, while all others of its address space (frozen)
   * stand still. It may take longer where the instruction waits for one of them (userfaultfd(2)): then it still runs.
   */
  stepAlone(thread: Thread): void {
    thread.savedInfo = undefined;
    thread.running = true;
    if (!ptrace.step(thread.tid, 0)) return;
    const limit = performance.now() + STEP_TIMEOUT;
    while (thread.running && this.threads.get(thread.tid) === thread && performance.now() < limit) {
      this.take(100);
      this.rungMeanwhile |= this.bell.rung();
    }
  }

  /**
   * In group-stop: stay stopped, and tell us of SIGCONT. False: a thread that was made to do something for us meanwhile is not in
   * that stop any more (EIO). It comes back into it, and is reported once more, when it goes on.
   */
  listen(thread: Thread): boolean {
    thread.running = ptrace.listen(thread.tid);
    if (!thread.running) thread.stopsAgain = true;
    return thread.running;
  }

  /**
   * The thread is in the stop before the delivery of a signal (ptrace(2), signal-delivery-stop): it can be resumed with any. In
   * others the kernel leaves its own mark in si_code (kernel/signal.c, ptrace_notify): SIGTRAP, and the event above it.
   */
  isAtSignal(thread: Thread): boolean {
    if (!ptrace.getSigInfo(thread.tid, this.scratch.infoAddress)) return false;
    const { infoCode, infoSignal } = this.scratch;
    return infoCode <= SI_KERNEL && !(infoSignal === SIG.trap && infoCode === SIG.trap);
  }

  /** Let one stopped thread go for good. */
  release(thread: Thread, signal: number): void {
    if (signal !== 0 && thread.savedInfo !== undefined) this.setInfo(thread, thread.savedInfo);
    ptrace.detach(thread.tid, signal);
    this.forget(thread);
    if (thread.process.threads.size > 0) return;
    this.processes.delete(thread.process.pid);
    this.listener.processLeft(thread.process);
  }

  /** Give up on a process half attached: nothing was changed in it. */
  letGo(process: Process): void {
    process.role = 'leaving';
    this.freeze(process.space); // whoever is late goes at the next stop
    this.thaw(process.space);
  }

  /** The siginfo of the stop a thread is in, in `scratch.info`. */
  readInfo(thread: Thread): boolean {
    if (thread.savedInfo === undefined) return ptrace.getSigInfo(thread.tid, this.scratch.infoAddress);
    this.scratch.info.set(thread.savedInfo);
    return true;
  }

  /** The siginfo of the stop a thread is in shall be what is in `scratch.info`. */
  writeInfo(thread: Thread): void {
    if (thread.savedInfo === undefined) ptrace.setSigInfo(thread.tid, this.scratch.infoAddress);
    else thread.savedInfo = this.scratch.info.slice();
  }

  setInfo(thread: Thread, info: Uint8Array): void {
    this.scratch.info.set(info);
    ptrace.setSigInfo(thread.tid, this.scratch.infoAddress);
  }
}

/** What it makes is probed as well. */
const isFollowed = ({ role, trees }: Process): boolean => role !== 'leaving' && trees.length > 0;

/** A leader that has ended is listed as long as other threads of its process live. */
const hasEnded = (tid: number): boolean => /^[ZX]/.test(statusField(tid, 'State') ?? '');
