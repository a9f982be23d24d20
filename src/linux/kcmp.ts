/** kcmp(2): what two processes have in common. */
import { syscall } from './ffi.js';
import { NR } from './numbers.js';

const KCMP_VM = 1;

/** Whether they have one memory. False where the kernel does not tell: processes that we may not trace. */
export const shareMemory = (a: number, b: number): boolean => syscall(NR.kcmp, a, b, KCMP_VM) === 0;
