/** siginfo_t (sigaction(2); include/uapi/asm-generic/siginfo.h). */

export const SIGINFO_BYTES = 128;
/** si_code: the kernel has raised the signal, for a breakpoint instruction among others. The greatest of all. */
export const SI_KERNEL = 0x80;
/** si_code of SIGTRAP: the end of a system call that was stepped over; int1. */
export const TRAP_BRKPT = 1;
/** si_code of SIGTRAP: a step. */
export const TRAP_TRACE = 2;
