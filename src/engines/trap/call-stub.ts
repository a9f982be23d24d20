/**
 * A system call in the target that needs nobody to end well. The thread that makes it for us has other registers
 * meanwhile; should we be killed then, it goes on behind the `syscall` instruction, where machine code of ours loads its
 * own registers again. Flags come back by the system call itself, and the stack pointer was never another one.
 *
 * The code lies in the zeros that fill the last page of the vDSO: every process has that page, it is private to the process
 * once written, and nothing has to be mapped first. Where there is no room, any `syscall` instruction serves, unguarded.
 */
import type { ProcessMemory } from '../../linux/process-memory.js';
import { REG } from '../../linux/user-regs.js';
import type { Mapping } from '../../process/maps.js';

const SYSCALL = [0x0f, 0x05] as const;
export const SYSCALL_BYTES = SYSCALL.length;
/** The numbers of the registers in instructions, in the order of user_regs_struct: all but the stack pointer. */
const NUMBERS = [15, 14, 13, 12, 5, 3, 11, 10, 9, 8, 0, 1, 2, 6, 7] as const;
const BLOCK_AT = 128;
const STUB_BYTES = BLOCK_AT + (NUMBERS.length + 1) * 8;
/** Kept free of ours between the vDSO's own end and the code. */
const MARGIN = 16;

export interface CallStub {
  /** The `syscall` instruction. */
  readonly at: number;
  /** The registers come back by themselves. */
  readonly heals: boolean;
}

function code(): Uint8Array {
  const bytes = new Uint8Array(BLOCK_AT);
  const view = new DataView(bytes.buffer);
  bytes.set(SYSCALL);
  let at = SYSCALL.length;
  const operand = (word: number): void => {
    view.setInt32(at, BLOCK_AT + word * 8 - (at + 4), true);
    at += 4;
  };
  NUMBERS.forEach((number, word) => {
    bytes.set([number >= 8 ? 0x4c : 0x48, 0x8b, 0x05 | ((number & 7) << 3)], at); // mov reg, [rip + …]
    at += 3;
    operand(word);
  });
  bytes.set([0xff, 0x25], at); // jmp [rip + …]
  at += 2;
  operand(NUMBERS.length);
  return bytes;
}

/** Put the code into the vDSO. undefined where it has no room, or may not be written. */
export function plantStub(memory: ProcessMemory, maps: readonly Mapping[]): CallStub | undefined {
  const vdso = maps.find((m) => m.path === '[vdso]');
  if (vdso === undefined) return undefined;
  const at = vdso.end - STUB_BYTES;
  const room = memory.read(at - MARGIN, MARGIN + STUB_BYTES);
  if (room === undefined) return undefined;
  const ours = code();
  // one that was killed may have left it there
  const isThere = ours.every((byte, i) => room[MARGIN + i] === byte);
  if (!isThere && (room.some((byte) => byte !== 0) || !memory.write(at, ours))) return undefined;
  return { at, heals: true };
}

/** Zeros again. No thread may be inside. */
export function uprootStub(memory: ProcessMemory, stub: CallStub | undefined): void {
  if (stub?.heals === true) memory.write(stub.at, new Uint8Array(STUB_BYTES));
}

/** The registers that the thread gets back by itself. */
export function keepRegisters(memory: ProcessMemory, stub: CallStub, regs: BigUint64Array): void {
  if (!stub.heals) return;
  const words = new BigUint64Array(NUMBERS.length + 1);
  words.set(regs.subarray(0, NUMBERS.length));
  words[NUMBERS.length] = regs[REG.ip]!;
  memory.write(stub.at + BLOCK_AT, new Uint8Array(words.buffer));
}
