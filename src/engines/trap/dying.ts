/**
 * A target may be killed at any moment, also while it is stopped and being changed. What is asked of it then fails in
 * whatever way; that is no failure of ours, and its end is reported by wait like any other.
 */
import { ProcessError } from '../../base/errors.js';
import { ERRNO, SIG } from '../../linux/numbers.js';
import { statusField } from '../../linux/proc-status.js';
import { signalBit, signalSet } from '../../linux/signal-set.js';
import { SyscallError } from '../../linux/syscall-error.js';
import type { AddressSpace } from './address-space.js';

export const ended = (pid: number): ProcessError =>
  new ProcessError('no-such-process', pid, `process ${pid} has ended`);

/** What opening something of a process in /proc fails with when it has ended. */
export const isGone = (e: unknown): boolean =>
  e instanceof SyscallError
    ? e.errno === ERRNO.ENOENT || e.errno === ERRNO.ESRCH
    : e instanceof Error && 'code' in e && (e.code === 'ENOENT' || e.code === 'ESRCH');

export const isEnd = (e: unknown): boolean => e instanceof ProcessError && e.code === 'no-such-process';

/** The thread that shows a memory has ended, has no memory any more, or is about to be killed (proc_pid_status(5)). */
function isDying(tid: number): boolean {
  const pending = signalSet(tid, 'SigPnd') | signalSet(tid, 'ShdPnd');
  return statusField(tid, 'VmSize') === undefined || (pending & signalBit(SIG.kill)) !== 0n;
}

/** Change a memory. Whatever goes wrong while its process is dying is `no-such-process`. */
export function unlessDying<T>({ pid, shownBy }: AddressSpace, change: () => T): T {
  try {
    return change();
  } catch (e) {
    throw isGone(e) || isDying(shownBy) ? ended(pid) : e;
  }
}
