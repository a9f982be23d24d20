/** What assemblers and linkers put between functions, so that the next one is aligned. */
import { parseEncoding, regOf, REX_B, type Encoding } from './encoding.js';

const NOP = 0x90;
const LONG_NOP = 0x0f1f;
const INT3 = 0xcc;
/** Behind these no instruction runs next: ret, jmp, hlt (_start ends so), int3, ud2. */
const LAST = new Set<number | undefined>([0xc2, 0xc3, 0xca, 0xcb, 0xe9, 0xeb, 0xf4, INT3, 0x0f0b]);

/**
 * How many of the instructions at the end of `code` only fill room. A nop that the instruction before it runs into is
 * not one of them: hand-written code falls through nops into what stands behind.
 */
export function countPadding(code: Uint8Array, starts: Uint32Array, end: number): number {
  const instruction = (i: number): Uint8Array => code.subarray(starts[i], starts[i + 1] ?? end);
  let last = starts.length - 1;
  while (last > 0 && fills(instruction(last))) last--;
  return last >= 0 && leaves(parseEncoding(instruction(last))) ? starts.length - 1 - last : 0;
}

function fills(bytes: Uint8Array): boolean {
  if (bytes[0] === 0 && bytes[1] === 0) return true; // zeros, which read as add [rax],al
  const { opcode, rex } = parseEncoding(bytes);
  if (opcode === NOP) return (rex & REX_B) === 0 && !bytes.includes(0xf3); // not xchg r8,rax, not pause
  return opcode === LONG_NOP || opcode === INT3;
}

const leaves = ({ opcode, modrm }: Encoding): boolean =>
  LAST.has(opcode) || (opcode === 0xff && (regOf(modrm) === 4 || regOf(modrm) === 5));
