/**
 * The length of the instructions that most functions begin with, without the decoder, which takes tens of milliseconds to load: pushes,
 * endbr64, and what moves, adds, compares or takes an address, without a legacy prefix. Intel SDM vol. 2, 2.1; appendix A.2.
 */
import { modOf, rmOf } from './encoding.js';

/** What follows the opcode: nothing, ModRM, or ModRM and so many bytes of an immediate. */
const NOTHING = -1;
const opcodes = new Map<number, number>();
for (let opcode = 0x50; opcode <= 0x5f; opcode++) opcodes.set(opcode, NOTHING); // push, pop
// add, or, adc, sbb, and, sub, xor, cmp: r/m with r, and r with r/m
for (let row = 0; row < 0x40; row += 8) for (let way = 0; way < 4; way++) opcodes.set(row + way, 0);
for (const opcode of [0x63, 0x84, 0x85, 0x88, 0x89, 0x8a, 0x8b]) opcodes.set(opcode, 0); // movsxd, test, mov
for (const opcode of [0x80, 0x83]) opcodes.set(opcode, 1); // the same with an immediate
opcodes.set(0x81, 4);
const LEA = 0x8d;
opcodes.set(LEA, 0);

const ENDBR64 = 0xfa1e_0ff3;

/** Bytes of the instruction that these begin with; undefined: not one of those, or not all of it is there. */
export function plainLength(bytes: Uint8Array): number | undefined {
  const length = lengthOf(bytes);
  return length === undefined || length > bytes.length ? undefined : length;
}

function lengthOf(bytes: Uint8Array): number | undefined {
  const [first = 0, second = 0, third = 0, fourth = 0] = bytes;
  if ((first | (second << 8) | (third << 16) | (fourth << 24)) >>> 0 === ENDBR64) return 4;
  const at = (first & 0xf0) === 0x40 ? 1 : 0; // REX
  const opcode = bytes[at] ?? 0;
  const follows = opcodes.get(opcode);
  if (follows === undefined || follows === NOTHING) return follows && at + 1;
  const modrm = bytes[at + 1] ?? 0;
  if (opcode === LEA && modOf(modrm) === 3) return undefined; // a register has no address
  return at + 2 + operandBytes(modrm, bytes[at + 2] ?? 0) + follows;
}

/** SIB and displacement. */
function operandBytes(modrm: number, sib: number): number {
  const mod = modOf(modrm);
  if (mod === 3) return 0;
  const hasSib = rmOf(modrm) === 4;
  const isAbsolute = mod === 0 && (rmOf(modrm) === 5 || (hasSib && rmOf(sib) === 5));
  return (hasSib ? 1 : 0) + (mod === 1 ? 1 : mod === 2 || isAbsolute ? 4 : 0);
}
