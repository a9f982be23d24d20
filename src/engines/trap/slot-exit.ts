/**
 * Taking a stopped thread out of its XOL slot: its registers, and the siginfo of its stop, as they would be had the
 * instruction run in its own place.
 */
import type { SlotStop } from '../../arch/arch.js';
import { stopBefore } from '../../arch/slot.js';
import { ptrace } from '../../linux/ptrace.js';
import { REG, TRAP_FLAG, USER_IP } from '../../linux/user-regs.js';
import type { Arm } from './address-space.js';
import type { Thread } from './thread.js';
import type { Tracees } from './tracees.js';

const userOffset = (register: number): number => register * 8;

/** What the program's own address is for a stop at `stop`: half done counts as not begun. */
export const addressAt = (arm: Arm, stop: SlotStop | undefined): number => arm.address + (stop?.resume ?? 0);

/**
 * The registers of a thread at this stop, which are in the scratch. One that is half done has not begun afterwards: only a
 * fault ends so.
 */
export function leaveSlot(tracees: Tracees, thread: Thread, arm: Arm, stop: SlotStop | undefined): void {
  const { tid } = thread;
  ptrace.pokeUser(tid, USER_IP, addressAt(arm, stop));
  if (stop === undefined) return;
  const { regs } = tracees.scratch;
  if (stop.undoSp !== 0) ptrace.pokeUser(tid, userOffset(REG.sp), Number(regs[REG.sp]) + stop.undoSp);
  if (stop.afterSyscall) hideFromSyscall(thread, arm, regs);
  if (stop.at === 0) hideTrapFlag(thread, arm, regs);
}

/**
 * What `syscall` has left: the address behind it in rcx; in r11 the flags, with the trap flag where we stepped. PTRACE_GETREGS
 * shows in the flags the program's own trap flag alone.
 */
export function hideFromSyscall(thread: Thread, arm: Arm, regs: BigUint64Array): void {
  const cx = arm.address + arm.template.length;
  const r11 = (regs[REG.r11]! & ~TRAP_FLAG) | (regs[REG.flags]! & TRAP_FLAG);
  ptrace.pokeUser(thread.tid, userOffset(REG.cx), cx);
  if (r11 !== regs[REG.r11]) ptrace.pokeUser(thread.tid, userOffset(REG.r11), Number(r11));
  regs[REG.cx] = BigInt(cx);
  regs[REG.r11] = r11;
}

/**
 * Before a step over popf or iret the kernel forgets that it was we who set the trap flag, for the instruction sets it anew
 * (arch/x86/kernel/step.c). Where it has not run, the flag is taken back here.
 */
function hideTrapFlag(thread: Thread, arm: Arm, regs: BigUint64Array): void {
  const { activity } = thread;
  if (arm.template.loadsFlags !== true || activity.kind !== 'stepping' || activity.traced) return;
  const flags = regs[REG.flags]!;
  if ((flags & TRAP_FLAG) !== 0n)
    ptrace.pokeUser(thread.tid, userOffset(REG.flags), Number(flags & ~TRAP_FLAG));
}

/**
 * SIGILL, SIGFPE and SIGTRAP carry the address of the instruction, SIGSYS that behind it (sigaction(2); si_addr and
 * si_call_addr, at offset 16). `scratch.info` is that of the stop; it is changed, and true returned, where it tells of the slot.
 */
export function translateInfo(tracees: Tracees, arm: Arm): boolean {
  const { scratch } = tracees;
  const at = scratch.infoTarget - arm.slot;
  if (at < 0 || at >= arm.template.code.length) return false;
  scratch.infoTarget = addressAt(arm, stopBefore(arm.template, at));
  return true;
}
