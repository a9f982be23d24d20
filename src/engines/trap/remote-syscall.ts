/**
 * System calls made by a thread of the target for us: executable memory near its text has to come from itself. The
 * thread is pointed at a `syscall` instruction (call-stub.ts), steps over it, and gets its registers back.
 */
import { ProcessError } from '../../base/errors.js';
import { ERRNO, MAP, NR, PROT, SIG } from '../../linux/numbers.js';
import { statusField } from '../../linux/proc-status.js';
import { TRAP_BIT } from '../../linux/signal-set.js';
import { OPTION, ptrace } from '../../linux/ptrace.js';
import type { Mapping } from '../../process/maps.js';
import { REACH, type AddressSpace } from './address-space.js';
import { NO_CALL, isBrokenOff, restarted } from './broken-off.js';
import { SYSCALL_BYTES, keepRegisters, plantStub, type CallStub } from './call-stub.js';
import { ended } from './dying.js';
import { isGroupStop, onlyStops } from './job-control.js';
import type { Thread } from './thread.js';
import type { Tracees } from './tracees.js';
import { mapRegion } from '../../linux/memory.js';
import { SIGINFO_BYTES } from '../../linux/siginfo.js';
import { REG, TRAP_FLAG } from '../../linux/user-regs.js';
import { PLAIN_STOP, stopEvent, stopSignal } from '../../linux/wait-status.js';
import { REG_WORDS } from './mailbox.js';

const SYSCALL_INSTRUCTION = Uint8Array.of(0x0f, 0x05);
const PAGE = 4096;
const SYSCALL_STOP = SIG.trap | 0x80;
/** Another place would be refused as well. */
const GIVE_UP: ReadonlySet<number> = new Set([ERRNO.EPERM, ERRNO.EACCES, ERRNO.ENOMEM]);
/** Signals may keep coming before the step: each is held, and this bounds how many. */
const MAX_STOPS = 256;

export class RemoteSyscalls {
  readonly #saved = mapRegion(PAGE);
  readonly #savedRegs = new BigUint64Array(this.#saved.bytes.buffer, 0, REG_WORDS);
  constructor(private readonly tracees: Tracees) {}

  /** A system call by `thread`, which must be stopped and not in vfork: its result, or minus the errno. */
  call(thread: Thread, nr: number, args: readonly number[]): number {
    if (thread.inCall) this.#finishCall(thread);
    this.#passStop(thread);
    this.#keepStop(thread);
    if (thread.savedInfo !== undefined || thread.held.length > 0) return this.#callStepping(thread, nr, args);
    const result = this.#callThrough(thread, nr, args);
    // only a stop for a signal can be left with a signal: those that came meanwhile would lose their siginfo
    if (thread.held.length > 0) this.toSignalStop(thread);
    return result;
  }

  /**
   * From one stop at a system call to the next. None of these is a signal, so there is none that could be left over if we
   * were killed.
   */
  #callThrough(thread: Thread, nr: number, args: readonly number[]): number {
    const { scratch } = this.tracees;
    this.#prepare(thread, nr, args);
    // from a stop at a system call the kernel does not go on to decide what becomes of the other one
    thread.stopsAgain ||= isBrokenOff(this.#savedRegs);
    this.#toSystemCall(thread);
    this.#toSystemCall(thread);
    const result = Number(BigInt.asIntN(64, scratch.regs[REG.ax]!));
    ptrace.setRegs(thread.tid, this.#saved.address);
    return result;
  }

  /** To a stop before the delivery of a signal, registers as they are. */
  toSignalStop(thread: Thread): void {
    if (thread.inCall) this.#finishCall(thread);
    this.#passStop(thread);
    this.#callStepping(thread, NR.gettid, []);
  }

  /** A step: the thread stays in the stop for a signal that it is in. */
  #callStepping(thread: Thread, nr: number, args: readonly number[]): number {
    const { scratch } = this.tracees;
    const stub = this.#prepare(thread, nr, args);
    this.#stepTo(thread, stub.at + SYSCALL_BYTES);
    const result = Number(BigInt.asIntN(64, scratch.regs[REG.ax]!));
    ptrace.setRegs(thread.tid, this.#saved.address);
    return result;
  }

  /** Registers for the call; those that the thread has are in `#saved`. */
  #prepare(thread: Thread, nr: number, args: readonly number[]): CallStub {
    const { scratch } = this.tracees;
    const { space } = thread.process;
    const stub = (space.callStub ??= this.#findStub(space));
    if (!ptrace.getRegs(thread.tid, this.#saved.address)) throw gone(thread);
    const saved = this.#savedRegs;
    keepRegisters(space.memory, stub, restarted(saved));
    scratch.regs.set(saved);
    const fields = [REG.di, REG.si, REG.dx, REG.r10, REG.r8, REG.r9];
    fields.forEach((reg, i) => (scratch.regs[reg] = BigInt.asUintN(64, BigInt(args[i] ?? 0))));
    scratch.regs[REG.ax] = BigInt(nr);
    scratch.regs[REG.origAx] = NO_CALL;
    scratch.regs[REG.ip] = BigInt(stub.at);
    if (!ptrace.setRegs(thread.tid, scratch.address)) throw gone(thread);
    return stub;
  }

  /** To the end of the system call that it is in, where its result is in its registers. */
  #finishCall(thread: Thread): void {
    this.#toSystemCall(thread);
    thread.inCall = false;
  }

  /** To the next entry or exit of a system call; its registers are then in the scratch. */
  #toSystemCall(thread: Thread): void {
    const { scratch } = this.tracees;
    for (let i = 0, stop = 0; i < MAX_STOPS; i++) {
      const status = this.#nextStop(thread, ptrace.untilSyscall(thread.tid, stop));
      if (stopEvent(status) === 0 && stopSignal(status) === SYSCALL_STOP) return;
      stop = stopToPass(thread, status);
      if (stop !== 0 || stopEvent(status) !== 0 || !ptrace.getSigInfo(thread.tid, scratch.infoAddress))
        continue;
      thread.held.push({ signal: stopSignal(status), info: scratch.info.slice(0, SIGINFO_BYTES) });
    }
    throw tooManySignals(thread);
  }

  /** The stop of a thread that has just been resumed; its registers are then in the scratch. */
  #nextStop(thread: Thread, resumed: boolean): number {
    const { scratch, bell } = this.tracees;
    if (!resumed || bell.reap(thread.tid) !== thread.tid) throw gone(thread);
    const { status } = bell;
    if (this.tracees.isTheEnd(thread, status)) throw gone(thread);
    if (!ptrace.getRegs(thread.tid, scratch.address)) throw gone(thread);
    if (stopEvent(status) !== 0) thread.interrupted = false;
    thread.stopsAgain ||= isGroupStop(status);
    return status;
  }

  /** Executable memory within reach of `near`: its address, or minus the errno. */
  allocateNear(thread: Thread, near: number, length: number): number {
    const { space } = thread.process;
    const allocate = (): number => {
      for (const address of gapsNear(space.maps(), near, length)) {
        const flags = MAP.private | MAP.anonymous | MAP.fixedNoreplace;
        const got = this.call(thread, NR.mmap, [address, length, PROT.read | PROT.exec, flags, -1, 0]);
        if (got === address) return got;
        if (got > 0)
          this.call(thread, NR.munmap, [got, length]); // before 4.17 the flag was only a hint
        else if (GIVE_UP.has(-got)) return got;
      }
      return -ERRNO.ENOMEM;
    };
    return this.unfiltered(thread, allocate) ?? -ERRNO.EPERM;
  }

  /** Where a filter forbids it the memory stays: harmless, and nothing runs in it any more. */
  unmap(thread: Thread, areas: readonly { readonly start: number; readonly size: number }[]): void {
    this.unfiltered(thread, () => {
      for (const { start, size } of joined(areas)) this.call(thread, NR.munmap, [start, size]);
    });
  }

  /**
   * Seccomp may kill for a system call that the program never makes: with CAP_SYS_ADMIN it can be held off, in strict
   * mode too. undefined, and nothing done, where it cannot.
   */
  unfiltered<T>(thread: Thread, body: () => T): T | undefined {
    if ((statusField(thread.tid, 'Seccomp') ?? '0') === '0') return body();
    if (ptrace.setOptions(thread.tid, this.tracees.options | OPTION.suspendSeccomp) < 0) return undefined;
    try {
      return body();
    } finally {
      ptrace.setOptions(thread.tid, this.tracees.options);
    }
  }

  /**
   * Deliver the signal that a thread is stopped for, as far as the first instruction of its handler. Returns the stop it is
   * in then; undefined when it has ended.
   */
  deliver(thread: Thread, signal: number): number | undefined {
    if (thread.savedInfo !== undefined) this.tracees.setInfo(thread, thread.savedInfo);
    thread.savedInfo = undefined;
    try {
      const status = this.#nextStop(thread, ptrace.step(thread.tid, signal));
      // kernel/signal.c, signal_delivered(): ptrace_notify(SIGTRAP), which is no signal
      return stopEvent(status) === 0 && stopSignal(status) === SIG.trap ? PLAIN_STOP : status;
    } catch (e) {
      if (this.tracees.threads.get(thread.tid) !== thread) return undefined;
      throw e;
    }
  }

  /**
   * One step by a stopped thread, to its next instruction; signals that come instead are held. So is the step's own trap where
   * the program steps itself.
   */
  step(thread: Thread): void {
    const { scratch } = this.tracees;
    this.#passStop(thread);
    this.#keepStop(thread);
    this.#stepTo(thread, undefined);
    if ((scratch.regs[REG.flags]! & TRAP_FLAG) === 0n) return;
    if (ptrace.getSigInfo(thread.tid, scratch.infoAddress))
      thread.held.unshift({ signal: SIG.trap, info: scratch.info.slice(0, SIGINFO_BYTES) });
  }

  /**
   * A signal that stops the process is not kept for later: SIGCONT takes back what the kernel knows of (kernel/signal.c,
   * prepare_signal), and would come before it. The thread is in a stop of job control then, or in the one that we ask for.
   */
  #passStop(thread: Thread): void {
    const { pending } = thread;
    const signal = pending === undefined ? 0 : stopToPass(thread, pending);
    if (signal === 0) return;
    thread.interrupted = ptrace.interruptIfThere(thread.tid);
    thread.pending = this.#nextStop(thread, ptrace.cont(thread.tid, signal));
    thread.savedInfo = undefined;
  }

  /** The siginfo of the stop it is in would be lost with the step: keep it. */
  #keepStop(thread: Thread): void {
    const { pending } = thread;
    if (thread.savedInfo !== undefined || (pending !== undefined && stopEvent(pending) !== 0)) return;
    if (ptrace.getSigInfo(thread.tid, this.tracees.scratch.infoAddress))
      thread.savedInfo = this.tracees.scratch.info.slice();
  }

  /** Step until the thread stops for the step itself (at `ip`, when given). Its registers are then in the scratch. */
  #stepTo(thread: Thread, ip: number | undefined): void {
    const { scratch } = this.tracees;
    const unblocked = this.#unblockTrap(thread);
    this.#stepUntil(thread, ip);
    if (unblocked === undefined) return;
    scratch.word[0] = unblocked;
    ptrace.setSigMask(thread.tid, scratch.wordAddress);
  }

  /** The trap of a step in a thread that blocks SIGTRAP would take the program's action away (kernel/signal.c, force_sig). */
  #unblockTrap(thread: Thread): bigint | undefined {
    const { scratch } = this.tracees;
    if (!ptrace.getSigMask(thread.tid, scratch.wordAddress)) return undefined;
    const mask = scratch.word[0]!;
    if ((mask & TRAP_BIT) === 0n) return undefined;
    scratch.word[0] = mask & ~TRAP_BIT;
    ptrace.setSigMask(thread.tid, scratch.wordAddress);
    return mask;
  }

  #stepUntil(thread: Thread, ip: number | undefined): void {
    const { scratch } = this.tracees;
    for (let i = 0, stop = 0; i < MAX_STOPS; i++) {
      const status = this.#nextStop(thread, ptrace.step(thread.tid, stop));
      stop = stopToPass(thread, status);
      if (stop !== 0 || stopEvent(status) !== 0) continue;
      if (stopSignal(status) === SIG.trap && (ip === undefined || Number(scratch.regs[REG.ip]) === ip))
        return;
      if (!ptrace.getSigInfo(thread.tid, scratch.infoAddress)) continue;
      // a step that begins in the exit of a system call stops once before it has stepped (si_code: TRAP_BRKPT)
      if (stopSignal(status) !== SIG.trap || scratch.infoCode <= 0)
        thread.held.push({ signal: stopSignal(status), info: scratch.info.slice(0, SIGINFO_BYTES) });
    }
    throw tooManySignals(thread);
  }

  /** Where this memory has a `syscall` instruction. */
  #findStub(space: AddressSpace): CallStub {
    const maps = space.maps();
    const planted = plantStub(space.memory, maps);
    if (planted !== undefined) return planted;
    const executable = maps.filter((m) => m.perms[2] === 'x' && m.perms[0] === 'r');
    const vdsoFirst = executable.toSorted(
      (a, b) => Number(b.path === '[vdso]') - Number(a.path === '[vdso]'),
    );
    for (const m of vdsoFirst) {
      for (let at = m.start; at < m.end; at += 1 << 20) {
        const text = space.memory.read(at, Math.min((1 << 20) + 1, m.end - at));
        const found =
          text === undefined
            ? -1
            : Buffer.from(text.buffer, text.byteOffset, text.length).indexOf(SYSCALL_INSTRUCTION);
        if (found >= 0) return { at: at + found, heals: false };
      }
    }
    throw new ProcessError(
      'no-syscall-instruction',
      space.pid,
      `process ${space.pid} has no system call instruction in its text`,
    );
  }
}

/** A signal that stops the process, which comes while its thread does something for us; 0 for any other. */
const stopToPass = ({ tid }: Thread, status: number): number =>
  stopEvent(status) === 0 && onlyStops(tid, stopSignal(status)) ? stopSignal(status) : 0;

const tooManySignals = (thread: Thread): ProcessError =>
  new ProcessError(
    'cannot-step',
    thread.process.pid,
    `thread ${thread.tid} gets signals faster than it can be stepped`,
  );

const gone = ({ process: { pid } }: Thread): ProcessError => ended(pid);

/** Neighbours as one: fewer calls. */
function joined(
  areas: readonly { readonly start: number; readonly size: number }[],
): { start: number; size: number }[] {
  const result: { start: number; size: number }[] = [];
  for (const { start, size } of areas.toSorted((a, b) => a.start - b.start)) {
    const last = result.at(-1);
    if (last !== undefined && last.start + last.size === start) last.size += size;
    else result.push({ start, size });
  }
  return result;
}

/** Free places for `length` bytes within ±2 GiB of `near`, the nearest first; a few, since the first nearly always does. */
function gapsNear(maps: readonly Mapping[], near: number, length: number): number[] {
  const lowest = Math.max(0x10000, near - REACH);
  const highest = near + REACH - length;
  const places: number[] = [];
  let free = lowest;
  for (const m of [...maps, { start: Infinity, end: Infinity }]) {
    const start = Math.ceil(free / PAGE) * PAGE;
    // one page apart on either side: stacks grow down, and neighbours of equal rights would be merged with ours
    const end = Math.min(m.start - PAGE, highest + length);
    if (end - (start + PAGE) >= length) {
      places.push(start + PAGE, Math.floor((end - length) / PAGE) * PAGE);
    }
    free = Math.max(free, m.end);
    if (free > highest) break;
  }
  return [...new Set(places)].toSorted((a, b) => Math.abs(a - near) - Math.abs(b - near)).slice(0, 8);
}
