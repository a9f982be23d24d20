/**
 * A target may be killed at any moment, also while it is stopped and being changed. What is asked of it then fails in
 * whatever way; that is no failure of ours, and its end is reported by wait like any other.
 */
import { ProcessError } from '../../base/errors.js';
import { SIG } from '../../linux/numbers.js';
import { statusField } from '../../linux/proc-status.js';

export const ended = (pid: number): ProcessError =>
  new ProcessError('no-such-process', pid, `process ${pid} has ended`);

export const hasEnded = (e: unknown): boolean => e instanceof ProcessError && e.code === 'no-such-process';

const SIGKILL_BIT = 1n << BigInt(SIG.kill - 1);

/** It has ended, has no memory any more, or is about to be killed (proc_pid_status(5)). */
function isDying(pid: number): boolean {
  const pending = ['SigPnd', 'ShdPnd'].map((field) => BigInt(`0x${statusField(pid, field) ?? '0'}`));
  return statusField(pid, 'VmSize') === undefined || pending.some((set) => (set & SIGKILL_BIT) !== 0n);
}

/** Do something to a process. Whatever goes wrong when it is dying is `no-such-process`. */
export function unlessDying<T>(pid: number, action: () => T): T {
  try {
    return action();
  } catch (e) {
    throw isDying(pid) ? ended(pid) : e;
  }
}

/** Do something to a process; not at all, or in part, when it is dying: then undefined. */
export function ifAlive<T>(pid: number, action: () => T): T | undefined {
  try {
    return unlessDying(pid, action);
  } catch (e) {
    if (hasEnded(e)) return undefined;
    throw e;
  }
}
