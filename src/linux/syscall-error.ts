import { constants } from 'node:os';
import { UprobeError } from '../base/errors.js';

const names = new Map<number, string>(Object.entries(constants.errno).map(([name, value]) => [value, name]));

export const errnoName = (errno: number): string => names.get(errno) ?? `errno ${errno}`;

/** A system call that failed. The message ends in what to do, where that is known. */
export class SyscallError extends UprobeError {
  override readonly name = 'SyscallError';
  /** The call with its telling arguments, e.g. `ptrace(PTRACE_SEIZE, 812)`. */
  readonly syscall: string;
  readonly errno: number;
  readonly hint: string | undefined;
  constructor(syscall: string, errno: number, hint?: string) {
    super(errnoName(errno), `${syscall}: ${errnoName(errno)}${hint === undefined ? '' : `. ${hint}`}`);
    this.syscall = syscall;
    this.errno = errno;
    this.hint = hint;
  }
}

/** The result of a raw call, or a SyscallError when it is negative. */
export function check(result: number, syscall: string, hint?: string): number {
  if (result < 0) throw new SyscallError(syscall, -result, hint);
  return result;
}
