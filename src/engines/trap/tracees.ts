/**
 * Every thread we trace: waiting for their stops, telling new threads from new processes, holding a whole address
 * space still. What a stop means is for others to say.
 */
import { readdirSync } from 'node:fs';
import { ProcessError, messageOf } from '../../base/errors.js';
import type { BellWait } from '../../linux/doorbell.js';
import { mapRegion } from '../../linux/memory.js';
import { ERRNO, NR, SIG } from '../../linux/numbers.js';
import { statusField } from '../../linux/proc-status.js';
import { EVENT, OPTION, ptrace } from '../../linux/ptrace.js';
import { SyscallError } from '../../linux/syscall-error.js';
import { AddressSpace } from './address-space.js';
import { REG_WORDS } from './mailbox.js';
import { IDLE, Process, Thread, type Role } from './thread.js';

/** Indices into the kernel's user_regs_struct (arch/x86/include/asm/user_64.h), in 64-bit words. */
export const REG = {
  r11: 6,
  r10: 7,
  r9: 8,
  r8: 9,
  ax: 10,
  cx: 11,
  dx: 12,
  si: 13,
  di: 14,
  origAx: 15,
  ip: 16,
  flags: 18,
  sp: 19,
} as const;
export const SIGINFO_BYTES = 128;

const OPTIONS = OPTION.sysgood | OPTION.fork | OPTION.vfork | OPTION.clone | OPTION.exec | OPTION.vforkDone;
const CLONE_VM = 0x100n;
const CLONE_THREAD = 0x10000n;
/** How long a thread may take to stop, ms: uninterruptible sleep (a dead disk) is the only thing that takes long. */
const STOP_TIMEOUT = 3000;
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
    return Number(this.#infoFields.getBigUint64(16, true));
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

/** Offset in struct user, for PTRACE_POKEUSER. */
export const USER_IP = REG.ip * 8;

export const exited = (status: number): boolean => (status & 0x7f) === 0;
export const killed = (status: number): boolean => (status & 0x7f) !== 0 && (status & 0xff) !== 0x7f;
export const stopSignal = (status: number): number => (status >>> 8) & 0xff;
export const stopEvent = (status: number): number => status >>> 16;
/** A stop that means nothing but "go on": as after an interrupt. */
export const PLAIN_STOP = (EVENT.stop << 16) | (SIG.trap << 8) | 0x7f;

export class Tracees {
  readonly threads = new Map<number, Thread>();
  readonly processes = new Map<number, Process>();
  readonly scratch = new Scratch();
  /** PTRACE_O_* of every tracee. */
  readonly options = OPTIONS;
  /** Children of ours, traced or not: their end is reported to whoever started them. */
  readonly children = new Set<number>();
  /** Stops of threads whose creation has not been reported yet. */
  readonly #early = new Map<number, number>();

  constructor(
    readonly bell: BellWait,
    readonly listener: StopListener,
  ) {}

  /** Take one event if there is one, or wait up to `timeout` ms for it (`unless`: see BellWait.next). False when there was none. */
  take(timeout: number | undefined, unless?: () => boolean): boolean {
    return this.#serve(this.bell.next(timeout, unless));
  }

  /** No thread of a few runs: no event can come that a short sleep on the bell would miss for long. */
  get quiet(): boolean {
    if (this.threads.size > FEW) return false;
    for (const thread of this.threads.values()) if (thread.running) return false;
    return true;
  }

  /** Take one event that is already there. */
  takeNow(): boolean {
    return this.#serve(this.bell.poll());
  }

  /** The thread whose stop has been looked at and not been taken. */
  #looked: Thread | undefined;

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
    const { status } = this.bell;
    if (exited(status) || killed(status)) this.#dispatch(thread.tid, status);
  }

  addThread(tid: number, process: Process): Thread {
    const thread = new Thread(tid, process);
    this.threads.set(tid, thread);
    process.threads.set(tid, thread);
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
    this.listener.processGone(process, status);
  }

  #dispatch(tid: number, status: number): void {
    const thread = this.threads.get(tid);
    if (thread === undefined) return this.#unknown(tid, status);
    if (exited(status) || killed(status)) return this.ended(thread, status);
    thread.running = false;
    this.#looked = thread;
    thread.inCall = IN_CALL.has(stopEvent(status));
    const event = stopEvent(status);
    if (event === EVENT.fork || event === EVENT.vfork || event === EVENT.clone) this.#adopt(thread, event);
    if (event === EVENT.exec) return this.executed(thread, status);
    if (thread.process.space.frozen > 0) thread.pending = this.listener.postponed(thread, status);
    else this.listener.stopped(thread, status);
  }

  #unknown(tid: number, seen: number): void {
    const status = exited(seen) || killed(seen) || !this.bell.consume(tid) ? seen : this.bell.status;
    if (exited(status) || killed(status)) {
      this.#early.delete(tid);
      if (this.children.has(tid)) this.listener.childEnded(tid, status);
      return;
    }
    this.#early.set(tid, status);
  }

  /** A thread made another thread or process: the new one is traced already and stops by itself. */
  #adopt(parent: Thread, event: number): void {
    if (!ptrace.getEventMessage(parent.tid, this.scratch.wordAddress)) return;
    const tid = Number(this.scratch.word[0]);
    const flags = this.#cloneFlags(parent);
    const { process } = parent;
    if ((flags & CLONE_THREAD) !== 0n) {
      this.addThread(tid, process).blocksTrap = parent.blocksTrap;
    } else if ((flags & CLONE_VM) !== 0n) {
      this.#addProcess(tid, process.space, 'carried', process);
      if (event === EVENT.vfork) parent.inVfork = true;
    } else {
      this.#adoptFork(tid, process);
    }
    const early = this.#early.get(tid);
    if (early === undefined) return;
    this.#early.delete(tid);
    this.#dispatch(tid, early);
  }

  /** A copy of the memory, breakpoints and all: it gets its own bytes back before it runs, and is let go. */
  #adoptFork(tid: number, parent: Process): void {
    let space: AddressSpace;
    try {
      space = parent.space.copyFor(tid);
    } catch {
      return; // killed already: its end is reported as an unknown thread's
    }
    this.#addProcess(tid, space, 'leaving', parent);
  }

  /** A child has copies of its parent's actions for signals. */
  #addProcess(pid: number, space: AddressSpace, role: Role, parent: Process): void {
    const child = new Process(pid, space, role);
    child.trapAction = parent.trapAction;
    this.addThread(pid, child);
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

  /** execve: the old memory and all other threads are gone; whoever called it is the leader now. */
  executed(reported: Thread, status: number): void {
    const { process } = reported;
    for (const other of [...process.threads.values()]) if (other !== reported) this.forget(other);
    const old = process.space;
    old.threads.delete(reported);
    if (old.threads.size === 0) old.close();
    this.listener.threadGone(reported);
    process.space = new AddressSpace(process.pid, process.role === 'wanted' ? process : undefined);
    process.space.threads.add(reported);
    reported.running = false;
    reported.inCall = true;
    reported.activity = IDLE;
    reported.pending = undefined;
    reported.inVfork = false;
    reported.savedMask = undefined;
    reported.trapMask = undefined;
    this.listener.stopped(reported, status);
  }

  /** Attach every thread of a running process. None of them has been stopped yet. */
  attach(pid: number): Process {
    this.#refuseForeignChild(pid);
    let process: Process | undefined;
    try {
      ptrace.seize(pid, OPTIONS);
      process = new Process(pid, new AddressSpace(pid, undefined), 'wanted');
      process.space.owner = process;
      this.addThread(pid, process);
      while (this.#seizeNewThreads(process));
      return process;
    } catch (e) {
      if (process !== undefined) this.letGo(process);
      else this.#undoSeize(pid);
      if (e instanceof ProcessError) throw e;
      const code = e instanceof SyscallError && e.errno === ERRNO.ESRCH ? 'no-such-process' : 'cannot-attach';
      throw new ProcessError(code, pid, `process ${pid} cannot be attached: ${messageOf(e)}`, { cause: e });
    }
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
      try {
        ptrace.seize(tid, OPTIONS);
      } catch (e) {
        // Ended between the listing and now, or made by a thread of which we have just become the tracer
        if (
          e instanceof SyscallError &&
          (e.errno === ERRNO.ESRCH || statusField(tid, 'TracerPid') === String(this.bell.tid))
        )
          continue;
        throw e;
      }
      this.addThread(tid, process);
      found = true;
    }
    return found;
  }

  #undoSeize(tid: number): void {
    if (!ptrace.interruptIfThere(tid)) return;
    if (this.bell.reap(tid) === tid) ptrace.detach(tid, 0);
  }

  /** A child of ours that is about to execute its first program. */
  addChild(pid: number): Thread {
    ptrace.seize(pid, OPTIONS);
    this.children.add(pid);
    const process = new Process(pid, new AddressSpace(pid, undefined), 'wanted');
    process.space.owner = process;
    return this.addThread(pid, process);
  }

  /** Stop every thread of an address space, and keep them: their stops wait in `pending`. */
  freeze(space: AddressSpace): void {
    this.#takeStop();
    space.frozen++;
    const mustStop = (t: Thread): boolean => t.running && !t.inVfork;
    for (const t of space.threads)
      if (mustStop(t) && !t.interrupted) t.interrupted = ptrace.interruptIfThere(t.tid);
    const limit = performance.now() + STOP_TIMEOUT;
    for (;;) {
      const late = [...space.threads].find(mustStop);
      if (late === undefined) return;
      if (performance.now() > limit) throw this.#doesNotStop(late, space);
      this.take(100);
      this.rungMeanwhile |= this.bell.rung();
    }
  }

  /** Reasons of rings that came while we waited for something else. */
  rungMeanwhile = 0;

  #doesNotStop(thread: Thread, space: AddressSpace): ProcessError {
    space.frozen--;
    return new ProcessError(
      'does-not-stop',
      thread.process.pid,
      `thread ${thread.tid} of process ${thread.process.pid} does not stop (state ${statusField(thread.tid, 'State') ?? 'gone'}): it is in an ` +
        'uninterruptible system call. Try again when that has ended',
    );
  }

  /** Let the threads go on, each with the stop that it waits in. */
  thaw(space: AddressSpace): void {
    if (--space.frozen > 0) return;
    for (const thread of [...space.threads]) {
      const status = thread.pending;
      if (thread.running || status === undefined) continue;
      thread.pending = undefined;
      this.listener.stopped(thread, status);
    }
  }

  /** Resume. `signal`: delivered now, where the thread is in the stop before its delivery. */
  resume(thread: Thread, signal = 0): void {
    if (signal === 0 && this.#keptStopped(thread)) return;
    if (signal !== 0 && thread.savedInfo !== undefined) this.setInfo(thread, thread.savedInfo);
    thread.savedInfo = undefined;
    thread.running = true;
    if (thread.process.space.traceSyscalls || thread.activity.kind === 'mapping-call')
      ptrace.untilSyscall(thread.tid, signal);
    else ptrace.cont(thread.tid, signal);
  }

  /** Resume at another address. */
  resumeAt(thread: Thread, ip: number): void {
    const { space } = thread.process;
    if (space.frozen === 0 && !space.traceSyscalls && thread.activity.kind === 'none') {
      thread.savedInfo = undefined;
      thread.running = true;
      ptrace.pokeUserAndCont(thread.tid, USER_IP, ip);
    } else if (ptrace.pokeUser(thread.tid, USER_IP, ip)) {
      this.resume(thread);
    }
  }

  /** A thread that could go on while all of its memory must stand still goes on with the others. */
  #keptStopped(thread: Thread): boolean {
    if (thread.process.space.frozen === 0) return false;
    thread.pending = PLAIN_STOP;
    return true;
  }

  step(thread: Thread): void {
    if (this.#keptStopped(thread)) return;
    thread.savedInfo = undefined;
    thread.running = true;
    ptrace.step(thread.tid, 0);
  }

  /**
   * In group-stop: stay stopped, and tell us of SIGCONT. A thread that was made to do something for us meanwhile is not in
   * that stop any more (EIO): it is sent back into it, and will be reported once more.
   */
  listen(thread: Thread): void {
    thread.running = true;
    if (ptrace.listen(thread.tid)) return;
    thread.interrupted = ptrace.interruptIfThere(thread.tid);
    ptrace.cont(thread.tid, 0);
  }

  /** Let one stopped thread go for good. */
  release(thread: Thread, signal: number): void {
    if (signal !== 0 && thread.savedInfo !== undefined) this.setInfo(thread, thread.savedInfo);
    ptrace.detach(thread.tid, signal);
    this.forget(thread);
    if (thread.process.threads.size === 0) this.processes.delete(thread.process.pid);
  }

  /** Give up on a process half attached: nothing was changed in it. */
  letGo(process: Process): void {
    process.role = 'leaving';
    try {
      this.freeze(process.space);
    } catch {
      return; // they go at their next stop
    }
    this.thaw(process.space);
  }

  /** The siginfo of the stop a thread is in, in `scratch.info`. */
  readInfo(thread: Thread): boolean {
    if (thread.savedInfo === undefined) return ptrace.getSigInfo(thread.tid, this.scratch.infoAddress);
    this.scratch.info.set(thread.savedInfo);
    return true;
  }

  setInfo(thread: Thread, info: Uint8Array): void {
    this.scratch.info.set(info);
    ptrace.setSigInfo(thread.tid, this.scratch.infoAddress);
  }
}
