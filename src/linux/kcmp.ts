/** kcmp(2): what two processes have in common. */
import { readFileSync } from 'node:fs';
import { syscall } from './ffi.js';
import { NR } from './numbers.js';

const KCMP_VM = 1;

/**
 * Whether they have one memory. False where the kernel does not tell: processes that we may not trace. Those that have none
 * (they have ended, or are the kernel's own) are all alike to it: it compares pointers.
 */
export const shareMemory = (a: number, b: number): boolean =>
  syscall(NR.kcmp, a, b, KCMP_VM) === 0 && hasMemory(a);

/** proc_pid_statm(5): the first number is the size of the whole. */
function hasMemory(pid: number): boolean {
  try {
    return !readFileSync(`/proc/${pid}/statm`, 'latin1').startsWith('0 ');
  } catch {
    return false;
  }
}
