/** What a struct bpf_insn is made of (include/uapi/linux/bpf.h, bpf_common.h; RFC 9669). Data. */

/** Bits 0–2 of an opcode. */
export const CLASS = { ld: 0, ldx: 1, st: 2, stx: 3, alu32: 4, jmp: 5, jmp32: 6, alu64: 7 } as const;

/** Of ALU and jump instructions, bit 3: the second operand is a register (BPF_X), not the immediate (BPF_K). */
export const SOURCE_REGISTER = 0x08;

/** Bits 4–7 of ALU opcodes. */
export const ALU = {
  add: 0x00,
  sub: 0x10,
  mul: 0x20,
  div: 0x30,
  or: 0x40,
  and: 0x50,
  lsh: 0x60,
  rsh: 0x70,
  neg: 0x80,
  mod: 0x90,
  xor: 0xa0,
  mov: 0xb0,
  arsh: 0xc0,
} as const;
export type AluOperation = keyof typeof ALU;

/** Bits 4–7 of jumps; those with an s compare signed numbers. */
export const JUMP = {
  eq: 0x10,
  gt: 0x20,
  ge: 0x30,
  set: 0x40,
  ne: 0x50,
  sgt: 0x60,
  sge: 0x70,
  lt: 0xa0,
  le: 0xb0,
  slt: 0xc0,
  sle: 0xd0,
} as const;
export type JumpOperation = keyof typeof JUMP;
export const JUMP_ALWAYS = 0x00;
export const CALL = 0x80;
export const EXIT = 0x90;

/** Bits 3–4 of loads and stores: how many bytes. */
export const SIZE = { 4: 0x00, 2: 0x08, 1: 0x10, 8: 0x18 } as const;
export type Size = keyof typeof SIZE;

/** Bits 5–7 of loads and stores. */
export const MODE = { imm: 0x00, mem: 0x60, atomic: 0xc0 } as const;

/** In the immediate of an atomic store. */
export const ATOMIC = { add: 0x00, xchg: 0xe1, cmpxchg: 0xf1 } as const;
export type AtomicOperation = keyof typeof ATOMIC;

/** What the source register's number means in a 16-byte load and in a call. */
export const PSEUDO = { mapFd: 1, mapValue: 2, kfunc: 2 } as const;

/** Functions of the kernel by their numbers (enum bpf_func_id). */
export const HELPER = {
  map_lookup_elem: 1,
  map_update_elem: 2,
  map_delete_elem: 3,
  ktime_get_ns: 5,
  get_smp_processor_id: 8,
  get_current_pid_tgid: 14,
  get_current_comm: 16,
  get_current_cgroup_id: 80,
  probe_read_user: 112,
  probe_read_user_str: 114,
  get_ns_current_pid_tgid: 120,
  ringbuf_output: 130,
  ringbuf_reserve: 131,
  ringbuf_submit: 132,
  copy_from_user: 148,
  get_attach_cookie: 174,
} as const;
export type Helper = keyof typeof HELPER;

/** struct bpf_insn. */
export const INSTRUCTION_BYTES = 8;
/** MAX_BPF_STACK (include/linux/filter.h). */
export const STACK_BYTES = 512;
