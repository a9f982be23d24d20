/** What brings the hits of places to programs, whichever way the kernel at hand has. */
import { ProcessError, RefusedError, type UprobeError } from '../../base/errors.js';
import { linkHint } from '../../linux/bpf.js';
import type { Keeper } from '../../linux/keeper.js';
import { ERRNO } from '../../linux/numbers.js';
import { SyscallError } from '../../linux/syscall-error.js';
import type { ModuleFacts } from '../engine.js';
import type { Programs } from './programs.js';

/** What is attached: programs of a group, at places of a file that have numbers in them. */
export interface Attached {
  readonly keeper: Keeper;
  readonly programs: Programs;
  readonly module: ModuleFacts;
  /** By their numbers. */
  readonly places: readonly AttachedPlace[];
  /** The processes, 0 for all. */
  readonly pids: readonly number[];
}

export interface AttachedPlace {
  /** Where the kernel stops. */
  readonly offset: number;
  readonly cookie: bigint;
}

export interface Attachment {
  /** Take some out, `left` stay. When it resolves the programs do nothing more for them, and have done everything for the others. */
  remove(numbers: readonly number[], left: readonly number[]): Promise<void>;
  /** What is open still, to be closed by the caller. */
  take(): number[];
}

/** A path of the file for whoever shares our descriptors. */
export const pathOf = ({ fd }: ModuleFacts): string => `/proc/self/fd/${fd}`;

/** An operation that the kernel does not know (include/linux/errno.h): an instruction that it will not step over. */
const ENOTSUPP = 524;

/** Why a call did not attach. `places`: how many it was for. */
export function attachError(
  { path }: ModuleFacts,
  places: number,
  call: string,
  errno: number,
  pid: number,
): UprobeError {
  if (errno === ERRNO.ESRCH && pid !== 0)
    return new ProcessError('no-such-process', pid, `there is no process ${pid}`);
  if (errno === ENOTSUPP || errno === ERRNO.ENOEXEC)
    return new RefusedError(path, {
      code: 'kernel-refuses-instruction',
      reason: `the kernel does not take a uprobe on ${places === 1 ? 'this instruction' : 'one of these instructions'}`,
      remedy: 'Probe the instruction before or behind it',
    });
  return new SyscallError(call, errno, linkHint(errno, path));
}
