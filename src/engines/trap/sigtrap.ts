/**
 * The action that a probed process has for SIGTRAP. While it has breakpoints its real action is our carrier's handler
 * (carrier.ts); its own is kept here, and in the carrier for the time when we are gone.
 */
import { ERRNO, MAP, NR, PROT, SIG } from '../../linux/numbers.js';
import { ptrace } from '../../linux/ptrace.js';
import { TRAP_BIT, isCaught, isIgnored, signalBit, signalSet } from '../../linux/signal-set.js';
import { SIGINFO_BYTES } from '../../linux/siginfo.js';
import { REG } from '../../linux/user-regs.js';
import { PLAIN_STOP } from '../../linux/wait-status.js';
import type { AddressSpace } from './address-space.js';
import { Carrier, SIG_DFL, SIG_IGN, UC_MASK, type Action } from './carrier.js';
import type { RemoteSyscalls } from './remote-syscall.js';
import type { Ledger } from './ledger.js';
import type { Process, Thread } from './thread.js';
import type { Tracees } from './tracees.js';

const PAGE = 4096;
const ACTION_BYTES = 32;
/** sizeof(sigset_t) as the kernel takes it. */
const SET_BYTES = 8;
/** Words of an action. */
const FLAGS_WORD = 1;
const MASK_WORD = 3;
const SA_NODEFER = 0x4000_0000n;
const SA_RESETHAND = 0x8000_0000n;
/** SIGKILL and SIGSTOP. */
const UNBLOCKABLE = signalBit(SIG.kill) | signalBit(SIG.stop);
/** Changes of masks that are watched in a program to which SIGTRAP is nothing. Those that block it mostly do so early. */
const MOST_MASK_CALLS = 64;
const SIG_BLOCK = 0;
const SIG_SETMASK = 2;

const FAULTS = signalBit(SIG.ill) | signalBit(SIG.fpe) | signalBit(SIG.segv) | signalBit(SIG.bus);
const LOW_FAULTS = Number(FAULTS);
const blocksFaults = (mask: bigint): boolean => (mask & FAULTS) === FAULTS;

/** An action that needs neither flags nor a mask. */
const simple = (handler: bigint): Action => BigUint64Array.of(handler, 0n, 0n, 0n);

export class TrapActions {
  constructor(
    private readonly tracees: Tracees,
    private readonly remote: RemoteSyscalls,
    /** Where it is told which processes have a carrier. */
    private readonly ledger: Ledger | undefined,
  ) {}

  /** Before the first breakpoint: the carrier at `base`, and its handler for the process of `thread`. False where it may not be. */
  install(thread: Thread, space: AddressSpace, base: number): boolean {
    return (
      this.remote.unfiltered(thread, () => {
        const own = this.#present(thread);
        const carrier = new Carrier(base, this.ledger?.mark ?? 0n);
        carrier.write(space.memory, own);
        this.ledger?.add(thread.process.pid, base);
        if (this.#set(thread, carrier.ours) < 0) return false;
        thread.process.trapAction = own;
        space.carrier = carrier;
        space.principal = thread.process;
        return true;
      }) ?? false
    );
  }

  /** A child has a copy of its parent's memory and actions, and is probed as well. */
  inherited(child: Process): void {
    const { carrier } = child.space;
    if (carrier !== undefined) this.ledger?.add(child.pid, carrier.base);
  }

  /** Before anything is armed: who blocks SIGTRAP. */
  lookAtMasks(space: AddressSpace): void {
    space.watchesMasks = true;
    for (const thread of space.threads) {
      const mask = signalSet(thread.tid, 'SigBlk');
      // one that blocks everything does so for a moment
      thread.blocksTrap = (mask & TRAP_BIT) !== 0n && !blocksFaults(mask);
      space.masksMatter ||= thread.blocksTrap;
    }
    for (const { pid } of space.processes())
      space.masksMatter ||= isCaught(pid, SIG.trap) || isIgnored(pid, SIG.trap);
  }

  /** Looked at in every hit, whose thread's mask is in the scratch: whether `hit` has anything to do. */
  mayBlock(thread: Thread): boolean {
    const { lowWord } = this.tracees.scratch;
    return thread.blocksTrap || thread.trapMask !== undefined || (lowWord[0]! & LOW_FAULTS) === LOW_FAULTS;
  }

  /**
   * A thread has run into a breakpoint, with this mask now. If it had blocked SIGTRAP, the kernel has unblocked it and taken
   * our handler out (kernel/signal.c, force_sig_info_to_task): both are put back. The kernel does not tell; but who
   * blocks even what cannot sensibly be blocked has blocked all signals. The thread must be where it shall go on.
   */
  hit(thread: Thread, mask: bigint, waiting?: Uint8Array): void {
    if (!thread.blocksTrap && !blocksFaults(mask)) {
      thread.trapMask = undefined;
      return;
    }
    const { carrier } = thread.process.space;
    if (carrier === undefined) return;
    this.remote.unfiltered(thread, () => this.#set(thread, carrier.ours));
    thread.trapMask = mask | TRAP_BIT;
    this.#setMask(thread, thread.trapMask);
    if (waiting !== undefined) this.#queue(thread, waiting);
  }

  /**
   * A thread may send itself any signal with any siginfo (rt_sigqueueinfo(2)). The stop it is in has nothing to tell any more:
   * without a step, for which SIGTRAP would be unblocked.
   */
  #queue(thread: Thread, info: Uint8Array): void {
    const { process, tid } = thread;
    const { pending } = thread;
    thread.savedInfo = undefined;
    thread.pending = PLAIN_STOP;
    this.remote.unfiltered(thread, () =>
      this.#withPage(thread, (page) => {
        process.space.memory.write(page, info);
        this.remote.call(thread, NR.rtTgsigqueueinfo, [process.pid, tid, SIG.trap, page]);
      }),
    );
    thread.pending = pending;
  }

  /** A step of a thread that blocks SIGTRAP would do the same: it is unblocked until the thread's mask is restored. */
  beforeSteps(thread: Thread): void {
    if (thread.trapMask === undefined || thread.savedMask !== undefined) return;
    thread.savedMask = thread.trapMask;
    this.#setMask(thread, thread.trapMask & ~TRAP_BIT);
  }

  /** The stop after a step, which was not blocked: is it another SIGTRAP's that waited? */
  afterStep(thread: Thread): void {
    const { scratch } = this.tracees;
    if (thread.trapMask === undefined || !this.tracees.readInfo(thread) || scratch.infoCode > 0) return;
    thread.waitingTrap = scratch.info.slice(0, SIGINFO_BYTES);
  }

  /** The steps are over, and the mask is as it was. */
  afterSteps(thread: Thread): void {
    const { waitingTrap } = thread;
    thread.waitingTrap = undefined;
    if (waitingTrap !== undefined) this.#queue(thread, waitingTrap);
  }

  #setMask(thread: Thread, mask: bigint): void {
    const { scratch } = this.tracees;
    scratch.word[0] = mask;
    ptrace.setSigMask(thread.tid, scratch.wordAddress);
  }

  /** The end of a handler brings back the mask that its frame has. */
  followReturn(thread: Thread): void {
    const { scratch } = this.tracees;
    if (!ptrace.getRegs(thread.tid, scratch.address)) return;
    const set = this.#setAt(thread, Number(scratch.regs[REG.sp]) + UC_MASK);
    if (set !== undefined) this.#blocks(thread, (set & TRAP_BIT) !== 0n && !blocksFaults(set));
  }

  /** Every call that is watched costs as much as a hit: not for ever in programs that care for SIGTRAP as little as most. */
  #blocks(thread: Thread, blocksTrap: boolean): void {
    const { space } = thread.process;
    thread.blocksTrap = blocksTrap;
    space.masksMatter ||= blocksTrap;
    if (!space.masksMatter && ++space.maskCalls > MOST_MASK_CALLS) space.watchesMasks = false;
  }

  #setAt(thread: Thread, address: number): bigint | undefined {
    const bytes = thread.process.space.memory.read(address, SET_BYTES);
    return bytes && new DataView(bytes.buffer, bytes.byteOffset, SET_BYTES).getBigUint64(0, true);
  }

  /** The thread is about to change its mask. */
  followMask(thread: Thread): void {
    const { scratch } = this.tracees;
    const { regs } = scratch;
    if (!ptrace.getRegs(thread.tid, scratch.address) || regs[REG.si] === 0n) return;
    const set = this.#setAt(thread, Number(regs[REG.si]));
    if (set === undefined) return;
    const has = (set & TRAP_BIT) !== 0n;
    const how = Number(BigInt.asIntN(32, regs[REG.di]!));
    if (how === SIG_SETMASK) this.#blocks(thread, has && !blocksFaults(set));
    else if (how === SIG_BLOCK) this.#blocks(thread, thread.blocksTrap || (has && !blocksFaults(set)));
    else this.#blocks(thread, thread.blocksTrap && !has);
  }

  /** Its own action, which another one is in the place of, ignores it. */
  isIgnored(process: Process): boolean {
    return process.trapAction?.[0] === SIG_IGN;
  }

  /** The process has its own action again. */
  restore(thread: Thread): void {
    const { process } = thread;
    const { carrier, principal } = process.space;
    const own = process.trapAction;
    if (own === undefined || carrier === undefined) return;
    this.remote.unfiltered(thread, () => {
      if (process === principal) this.#set(thread, carrier.own);
      else this.#setTo(thread, own);
    });
    process.trapAction = undefined;
  }

  /** A process that has come into a memory with a carrier, and has actions of its own. */
  join(thread: Thread): void {
    const { process } = thread;
    const { carrier, principal } = process.space;
    if (carrier === undefined || process.trapAction !== undefined) return;
    this.remote.unfiltered(thread, () => {
      const own = this.#present(thread);
      // clone(2), CLONE_SIGHAND: its actions are those of another process here
      const isOurs = own[0] === BigInt(carrier.handler);
      process.trapAction = isOurs ? (principal?.trapAction ?? simple(SIG_DFL)) : own;
      if (!isOurs) this.#set(thread, carrier.ours);
      this.ledger?.add(process.pid, carrier.base);
    });
  }

  #setTo(thread: Thread, action: Action): void {
    this.#withPage(thread, (page) => {
      thread.process.space.memory.write(page, new Uint8Array(action.slice().buffer));
      this.#set(thread, page);
    });
  }

  /** Nothing of ours is in the process any more, or it has ended. */
  forget(process: Process): void {
    this.ledger?.remove(process.pid);
  }

  /**
   * The process executes another program, which keeps what was ignored and loses every handler (execve(2)). It had one of
   * ours; so what its own action was is made anew.
   */
  executed(thread: Thread): void {
    const { process } = thread;
    const own = process.trapAction;
    process.trapAction = undefined;
    this.forget(process);
    if (own?.[0] !== SIG_IGN) return;
    this.remote.unfiltered(thread, () => this.#setTo(thread, simple(SIG_IGN)));
  }

  /**
   * rt_sigaction for SIGTRAP by the program itself, which would take our handler out: done here on its own action instead.
   * `next`: the address behind the system call. False where it is for another signal.
   */
  emulate(thread: Thread, next: number): boolean {
    const { process } = thread;
    const { scratch } = this.tracees;
    const { regs } = scratch;
    const own = process.trapAction;
    if (own === undefined || !ptrace.getRegs(thread.tid, scratch.address)) return false;
    if (BigInt.asIntN(32, regs[REG.di]!) !== BigInt(SIG.trap) || regs[REG.r10] !== BigInt(SET_BYTES))
      return false;
    regs[REG.ax] = BigInt.asUintN(
      64,
      BigInt(-this.#exchange(process, own, Number(regs[REG.si]), Number(regs[REG.dx]))),
    );
    regs[REG.ip] = BigInt(next);
    regs[REG.cx] = BigInt(next);
    regs[REG.r11] = regs[REG.flags]!;
    return ptrace.setRegs(thread.tid, scratch.address);
  }

  /** As do_sigaction() of kernel/signal.c. Returns an errno. */
  #exchange(process: Process, own: Action, from: number, to: number): number {
    const { memory } = process.space;
    if (from !== 0) {
      const bytes = memory.read(from, ACTION_BYTES);
      if (bytes === undefined) return ERRNO.EFAULT;
      const action = new BigUint64Array(Uint8Array.from(bytes).buffer);
      action[MASK_WORD] = action[MASK_WORD]! & ~UNBLOCKABLE;
      this.#keepOwn(process, action);
    }
    const old = new Uint8Array(own.buffer, own.byteOffset, ACTION_BYTES);
    return to === 0 || memory.write(to, old) ? 0 : ERRNO.EFAULT;
  }

  #keepOwn(process: Process, action: Action): void {
    const { space } = process;
    process.trapAction = action;
    if (action[0] !== SIG_DFL) space.masksMatter = space.watchesMasks = true;
    // a child that shares the memory for a while has actions of its own
    if (process === space.principal) space.carrier?.keepOwn(space.memory, action);
  }

  /**
   * The SIGTRAP that a thread is stopped for is the program's own business, and meets the program's own action. `forced`: by
   * an instruction, which ignoring it does not help against.
   */
  deliver(thread: Thread, forced: boolean): void {
    const { carrier } = thread.process.space;
    if (carrier === undefined || thread.process.trapAction === undefined || this.#hasOwn(thread, carrier))
      return this.tracees.resume(thread, SIG.trap);
    const own = thread.process.trapAction;
    if (own[0] === SIG_IGN && !forced) return this.tracees.resume(thread);
    const isHandled = own[0]! > SIG_IGN;
    this.remote.unfiltered(thread, () => this.#set(thread, isHandled ? carrier.own : carrier.none));
    if (isHandled) this.#intoHandler(thread, own, carrier);
    else this.tracees.resume(thread, SIG.trap);
  }

  /** It has set an action in a way that we did not see. That is its own then. */
  #hasOwn(thread: Thread, carrier: Carrier): boolean {
    const real = this.remote.unfiltered(thread, () => this.#ask(thread));
    // the default may also be the kernel's doing
    if (real === undefined || real[0] === SIG_DFL || real[0] === BigInt(carrier.handler)) return false;
    this.#keepOwn(thread.process, real);
    return true;
  }

  /** The thread has just made rt_sigaction, in a program of which every system call is looked at. */
  called(thread: Thread): void {
    const { carrier } = thread.process.space;
    if (carrier === undefined || thread.process.trapAction === undefined) return;
    thread.pending = PLAIN_STOP;
    const real = this.remote.unfiltered(thread, () => this.#ask(thread));
    if (real !== undefined && real[0] !== BigInt(carrier.handler)) {
      this.#keepOwn(thread.process, real);
      this.remote.unfiltered(thread, () => this.#set(thread, carrier.ours));
    }
    thread.pending = undefined;
  }

  /** As far as the first instruction of the program's handler; then ours is the action again. */
  #intoHandler(thread: Thread, own: Action, carrier: Carrier): void {
    const status = this.remote.deliver(thread, SIG.trap);
    if (status === undefined) return;
    if ((own[FLAGS_WORD]! & SA_RESETHAND) !== 0n)
      this.#keepOwn(thread.process, BigUint64Array.of(SIG_DFL, own[FLAGS_WORD]!, own[2]!, own[MASK_WORD]!));
    thread.pending = status;
    this.remote.unfiltered(thread, () => this.#set(thread, carrier.ours));
    thread.pending = undefined;
    if (status === PLAIN_STOP && (own[FLAGS_WORD]! & SA_NODEFER) === 0n) thread.blocksTrap = true;
    if (status === PLAIN_STOP) this.tracees.resume(thread);
    else this.tracees.listener.stopped(thread, status); // its stack could not take the frame
  }

  #set(thread: Thread, action: number): number {
    return this.remote.call(thread, NR.rtSigaction, [SIG.trap, action, 0, SET_BYTES]);
  }

  /** Only of a handler there is more to know than /proc tells. */
  #present(thread: Thread): Action {
    const { pid } = thread.process;
    if (!isCaught(pid, SIG.trap)) return simple(isIgnored(pid, SIG.trap) ? SIG_IGN : SIG_DFL);
    return this.#ask(thread) ?? simple(SIG_DFL);
  }

  /** What the kernel has for it. */
  #ask(thread: Thread): Action | undefined {
    const bytes = this.#withPage(thread, (page) => {
      this.remote.call(thread, NR.rtSigaction, [SIG.trap, 0, page, SET_BYTES]);
      return thread.process.space.memory.read(page, ACTION_BYTES);
    });
    return bytes && new BigUint64Array(Uint8Array.from(bytes).buffer);
  }

  /** Memory of the target that the kernel may write to, for as long as `body` runs. */
  #withPage<T>(thread: Thread, body: (page: number) => T): T | undefined {
    const flags = MAP.private | MAP.anonymous;
    const page = this.remote.call(thread, NR.mmap, [0, PAGE, PROT.read | PROT.write, flags, -1, 0]);
    if (page < 0) return undefined;
    try {
      return body(page);
    } finally {
      this.remote.call(thread, NR.munmap, [page, PAGE]);
    }
  }
}
