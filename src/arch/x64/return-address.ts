/** Telling return addresses from other words. */
import { parseEncoding, regOf } from './encoding.js';
import type { Iced } from './iced.js';

/** `call r/m` with a SIB byte and a 32-bit displacement; prefixes before it do not matter. */
export const LONGEST_CALL = 7;
const SHORTEST_CALL = 2;
/** Functions begin at such addresses, and so do those that are returned to without having called (makecontext, signal frames). */
const ALIGNMENT = 16;

/** Whether an address, with the bytes that stand before it, may be one that a function returns to. */
export function mayBeReturnAddress(decoder: Iced, address: number, before: Uint8Array): boolean {
  if (address % ALIGNMENT === 0) return true;
  for (let length = SHORTEST_CALL; length <= Math.min(LONGEST_CALL, before.length); length++)
    if (isCall(decoder, before.subarray(before.length - length))) return true;
  return false;
}

function isCall(decoder: Iced, bytes: Uint8Array): boolean {
  const { opcode, modrm } = parseEncoding(bytes);
  if (opcode !== 0xe8 && !(opcode === 0xff && regOf(modrm) === 2)) return false;
  decoder.load(bytes);
  return decoder.next() === bytes.length;
}
