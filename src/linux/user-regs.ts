/** A thread's registers as ptrace(2) shows them. */

/** Indices into the kernel's user_regs_struct (arch/x86/include/asm/user_64.h), in 64-bit words. */
export const REG = {
  r11: 6,
  r10: 7,
  r9: 8,
  r8: 9,
  ax: 10,
  cx: 11,
  dx: 12,
  si: 13,
  di: 14,
  origAx: 15,
  ip: 16,
  flags: 18,
  sp: 19,
} as const;

/** Offsets in struct user, for PTRACE_POKEUSER. */
export const USER_IP = REG.ip * 8;
/** TF in the flags: the processor traps after the next instruction. */
export const TRAP_FLAG = 0x100n;
