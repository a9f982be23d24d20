/**
 * The action that a probed process has for SIGTRAP. While it has breakpoints its real action is our carrier's handler
 * (carrier.ts); its own is kept here, and in the carrier for the time when we are gone.
 */
import { ERRNO, MAP, NR, PROT, SIG } from '../../linux/numbers.js';
import { statusField } from '../../linux/proc-status.js';
import { ptrace } from '../../linux/ptrace.js';
import type { AddressSpace } from './address-space.js';
import { Carrier, SIG_DFL, SIG_IGN, type Action } from './carrier.js';
import type { RemoteSyscalls } from './remote-syscall.js';
import type { Ledger } from './ledger.js';
import type { Process, Thread } from './thread.js';
import { PLAIN_STOP, REG, type Tracees } from './tracees.js';

const PAGE = 4096;
const ACTION_BYTES = 32;
/** sizeof(sigset_t) as the kernel takes it. */
const SET_BYTES = 8;
/** Words of an action. */
const FLAGS_WORD = 1;
const MASK_WORD = 3;
const SA_RESETHAND = 0x8000_0000n;
/** SIGKILL and SIGSTOP. */
const UNBLOCKABLE = (1n << BigInt(SIG.kill - 1)) | (1n << BigInt(SIG.stop - 1));
const TRAP_BIT = 1n << BigInt(SIG.trap - 1);

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
        return true;
      }) ?? false
    );
  }

  /** The process has its own action again. */
  restore(thread: Thread): void {
    const { process } = thread;
    const { carrier } = process.space;
    if (process.trapAction === undefined || carrier === undefined) return;
    this.remote.unfiltered(thread, () => this.#set(thread, carrier.own));
    process.trapAction = undefined;
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
    this.remote.unfiltered(thread, () =>
      this.#withPage(thread, (page) => {
        process.space.memory.write(page, new Uint8Array(BigUint64Array.of(SIG_IGN, 0n, 0n, 0n).buffer));
        this.#set(thread, page);
      }),
    );
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
    // a child that shares the memory for a while has actions of its own
    if (process === space.owner) space.carrier?.keepOwn(space.memory, action);
  }

  /**
   * The SIGTRAP that a thread is stopped for is the program's own business, and meets the program's own action. `forced`: by
   * an instruction, which ignoring it does not help against.
   */
  deliver(thread: Thread, forced: boolean): void {
    const own = thread.process.trapAction;
    const { carrier } = thread.process.space;
    if (own === undefined || carrier === undefined) return this.tracees.resume(thread, SIG.trap);
    if (own[0] === SIG_IGN && !forced) return this.tracees.resume(thread);
    const isHandled = own[0]! > SIG_IGN;
    this.remote.unfiltered(thread, () => this.#set(thread, isHandled ? carrier.own : carrier.none));
    if (isHandled) this.#intoHandler(thread, own, carrier);
    else this.tracees.resume(thread, SIG.trap);
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
    if (status === PLAIN_STOP) this.tracees.resume(thread);
    else this.tracees.listener.stopped(thread, status); // its stack could not take the frame
  }

  #set(thread: Thread, action: number): number {
    return this.remote.call(thread, NR.rtSigaction, [SIG.trap, action, 0, SET_BYTES]);
  }

  /** Only of a handler there is more to know than /proc tells. */
  #present(thread: Thread): Action {
    const has = (field: string): boolean =>
      (BigInt(`0x${statusField(thread.process.pid, field) ?? '0'}`) & TRAP_BIT) !== 0n;
    const simple = (handler: bigint): Action => BigUint64Array.of(handler, 0n, 0n, 0n);
    if (!has('SigCgt')) return simple(has('SigIgn') ? SIG_IGN : SIG_DFL);
    const asked = this.#withPage(thread, (page) => {
      this.remote.call(thread, NR.rtSigaction, [SIG.trap, 0, page, SET_BYTES]);
      return thread.process.space.memory.read(page, ACTION_BYTES);
    });
    return asked === undefined ? simple(SIG_DFL) : new BigUint64Array(Uint8Array.from(asked).buffer);
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
