/**
 * System calls that a stop or a signal has broken off. What becomes of one is decided when its thread goes on
 * (arch/x86/kernel/signal.c, arch_do_signal_or_restart): it is made again, or ends with EINTR when a handler runs.
 */
import { REG } from '../../linux/user-regs.js';

/** What the kernel leaves in rax meanwhile (include/linux/errno.h). */
const ERESTARTSYS = -512n;
const ERESTARTNOINTR = -513n;
const ERESTARTNOHAND = -514n;
const ERESTART_RESTARTBLOCK = -516n;
const RESTARTS: ReadonlySet<bigint> = new Set([
  ERESTARTSYS,
  ERESTARTNOINTR,
  ERESTARTNOHAND,
  ERESTART_RESTARTBLOCK,
]);
const NR_RESTART = 219n;
const SYSCALL_BYTES = 2;

/** No system call to restart: entry_64.S leaves -1 outside of one, and signal.c looks at it. */
export const NO_CALL = 0xffff_ffff_ffff_ffffn;

const resultOf = (regs: BigUint64Array): bigint => BigInt.asIntN(64, regs[REG.ax]!);

export const isBrokenOff = (regs: BigUint64Array): boolean =>
  BigInt.asIntN(64, regs[REG.origAx]!) >= 0n && RESTARTS.has(resultOf(regs));

/** A handler may run, and the call end with EINTR. */
export const mayEnd = (regs: BigUint64Array): boolean =>
  isBrokenOff(regs) && resultOf(regs) !== ERESTARTNOINTR;

/** A call that was broken off at a stop of ours and that its thread is about to make again. */
export interface BrokenOff {
  /** The system call instruction. */
  readonly at: number;
  readonly ax: bigint;
  readonly origAx: bigint;
}

/** The call of a thread with these registers, which is behind the instruction. */
export const brokenOffCall = (regs: BigUint64Array): BrokenOff | undefined =>
  isBrokenOff(regs)
    ? { at: Number(regs[REG.ip]) - SYSCALL_BYTES, ax: regs[REG.ax]!, origAx: regs[REG.origAx]! }
    : undefined;

/** A signal has come before that: the call is as it was when it was broken off. */
export function breakOffAgain(regs: BigUint64Array, { at, ax, origAx }: BrokenOff): void {
  regs[REG.ip] = BigInt(at + SYSCALL_BYTES);
  regs[REG.ax] = ax;
  regs[REG.origAx] = origAx;
}

/** As the kernel lets a thread go on that no signal comes to: the call is made again. */
export function restarted(regs: BigUint64Array): BigUint64Array {
  const words = regs.slice();
  words[REG.origAx] = NO_CALL;
  if (!isBrokenOff(regs)) return words;
  words[REG.ax] = resultOf(regs) === ERESTART_RESTARTBLOCK ? NR_RESTART : regs[REG.origAx]!;
  words[REG.ip] = regs[REG.ip]! - BigInt(SYSCALL_BYTES);
  return words;
}
