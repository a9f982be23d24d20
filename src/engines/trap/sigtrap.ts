/**
 * The action that a probed process has for SIGTRAP. While it has breakpoints its real action is our carrier's handler
 * (carrier.ts); its own is kept here, and in the carrier for the time when we are gone.
 */
import { MAP, NR, PROT, SIG } from '../../linux/numbers.js';
import { statusField } from '../../linux/proc-status.js';
import type { AddressSpace } from './address-space.js';
import { Carrier, SIG_DFL, SIG_IGN, type Action } from './carrier.js';
import type { RemoteSyscalls } from './remote-syscall.js';
import type { Ledger } from './ledger.js';
import type { Process, Thread } from './thread.js';

const PAGE = 4096;
const ACTION_BYTES = 32;
/** sizeof(sigset_t) as the kernel takes it. */
const SET_BYTES = 8;
const TRAP_BIT = 1n << BigInt(SIG.trap - 1);

export class TrapActions {
  constructor(
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

  /** A child has a copy of its parent's memory and actions, and is probed as well. */
  inherited(child: Process): void {
    const { carrier } = child.space;
    if (carrier !== undefined) this.ledger?.add(child.pid, carrier.base);
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
