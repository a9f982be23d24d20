/**
 * The returns of probed functions. At a function's entry the word on top of the stack says where it will return to: a
 * breakpoint there, and the stack pointer, tell when it has. The stack itself is not touched, so exceptions, longjmp and
 * backtraces find it as it is. A breakpoint stays, for the next call from the same place, as long as the function is probed.
 */
import { REG } from '../../linux/user-regs.js';
import { asAddress } from '../../base/address.js';
import type { Displaced } from '../../arch/arch.js';
import { LONGEST_CALL } from '../../arch/x64/return-address.js';
import { x64 } from '../../arch/x64/x64.js';
import { mappingAt } from '../../process/maps.js';
import type { AddressSpace, Arm } from './address-space.js';
import type { Arming } from './arming.js';
import type { Call } from './calls.js';
import { ARGS } from './mailbox.js';
import type { Thread } from './thread.js';
import type { Want } from './wants.js';

const ARG_REGS = [REG.di, REG.si, REG.dx, REG.cx, REG.r8, REG.r9];
/** Why a return cannot be seen. */
const NO_STACK = 'its return address cannot be read';
const NOT_IN_A_FILE =
  'the function returns into code that is in no file (made at run time), where a breakpoint could be overwritten or moved';
const NOT_BEHIND_A_CALL =
  "the word on top of the stack is no return address (no call stands before it): the place may be no function's entry";
const NO_BREAKPOINT = 'no breakpoint can be put where the function returns to';

/** A call, or why its return will not be seen. */
export type Entered = { readonly call: Call } | { readonly call: undefined; readonly why: string };

export class Returns {
  #lastId = 0;

  constructor(
    private readonly arming: Arming,
    /** A call whose frame was left. */
    private readonly left: (call: Call) => void,
  ) {}

  /** A thread is at the first instruction of a function whose returns are wanted. */
  entered(thread: Thread, want: Want, regs: BigUint64Array): Entered {
    const { space } = thread.process;
    const sp = Number(regs[REG.sp]);
    const returnAddress = space.word(sp);
    if (returnAddress === undefined) return { call: undefined, why: NO_STACK };
    const why = this.#watch(thread, space, returnAddress, want.site.id);
    if (why !== undefined) return { call: undefined, why };
    const args = new BigUint64Array(ARGS);
    for (let i = 0; i < ARGS; i++) args[i] = regs[ARG_REGS[i]!]!;
    const call: Call = {
      id: (this.#lastId = (this.#lastId % 0x7fff_ffff) + 1),
      siteId: want.site.id,
      process: thread.process,
      tid: thread.tid,
      returnAddress,
      sp,
      time: process.hrtime.bigint(),
      args,
      lastConsumer: want.lastConsumer,
    };
    const { calls } = space;
    calls.enter(call, this.left);
    if (calls.areMany) calls.sweep((at) => space.word(at), this.left);
    return { call };
  }

  /** The calls that a thread at an armed return address has just come back from, the innermost first. */
  returned(arm: Arm, space: AddressSpace, regs: BigUint64Array): Call[] {
    return space.calls.returned(arm.address, Number(regs[REG.sp]));
  }

  /** A breakpoint at a return address; why there can be none. */
  #watch(thread: Thread, space: AddressSpace, address: number, siteId: number): string | undefined {
    const known = space.arms.get(address);
    if (known !== undefined) {
      known.returns ??= new Set();
      known.returns.add(siteId);
      return undefined;
    }
    const refused = space.unwatchable.get(address);
    if (refused !== undefined) return refused;
    const why = this.#arm(thread, space, address, siteId);
    if (why !== undefined) space.unwatchable.set(address, why);
    return why;
  }

  #arm(thread: Thread, space: AddressSpace, address: number, siteId: number): string | undefined {
    const mapping = mappingAt(space.maps(), address);
    if (mapping === undefined || mapping.ino === 0n || mapping.perms[2] !== 'x') return NOT_IN_A_FILE;
    const reach = Math.min(LONGEST_CALL, address - mapping.start);
    const before = space.originalText(address - reach, reach);
    if (before === undefined || !x64.mayBeReturnAddress(address, before)) return NOT_BEHIND_A_CALL;
    const bytes = space.originalText(address, Math.min(x64.maxInstruction, mapping.end - address));
    const instruction = bytes && x64.decode(bytes, asAddress(address));
    if (instruction === undefined) return NO_BREAKPOINT;
    const displaced: Displaced = x64.displace(instruction);
    if (!displaced.ok) return `${NO_BREAKPOINT}: ${displaced.refusal.reason}`;
    const { template } = displaced;
    const returns = new Set([siteId]);
    const request = {
      address,
      bytes: instruction.bytes,
      template,
      want: undefined,
      watch: undefined,
      returns,
    };
    const refusal = this.arming.armBeside(thread, request);
    return refusal && `${NO_BREAKPOINT}: ${refusal.reason}`;
  }
}
