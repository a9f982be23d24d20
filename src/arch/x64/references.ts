/**
 * What single instructions say of other places: addresses they make, words they load, where they jump. Enough to see
 * which functions a short function may return; it is no analysis of what happens to the values.
 */
import type { CodeReference } from '../arch.js';
import { modOf, parseEncoding, regOf, REX_W, REX_X, rmOf, type Encoding } from './encoding.js';

/** Of bytes that are known to be one instruction, at that address; undefined when it refers to no other place. */
export function referenceOf(bytes: Uint8Array, address: number): CodeReference | undefined {
  const encoding = parseEncoding(bytes);
  const { opcode = 0, rex } = encoding;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const next = address + bytes.length;
  if (opcode === 0x8d) return at('address', memoryOperand(view, encoding, next));
  // 8b: mov; 0f 40–4f: cmov. Of 64 bits, or what they load is no pointer.
  const isLoad = opcode === 0x8b || (opcode >= 0x0f40 && opcode <= 0x0f4f);
  if (isLoad) return (rex & REX_W) === 0 ? undefined : at('pointer', memoryOperand(view, encoding, next));
  if (opcode === 0xff && isIndirect(encoding)) return { kind: 'unknown' };
  return jump(view, encoding, next) ?? immediate(view, encoding);
}

const at = (
  kind: 'address' | 'pointer' | 'immediate' | 'jump',
  address: number | undefined,
): CodeReference | undefined =>
  address === undefined || address < 0 || address > Number.MAX_SAFE_INTEGER ? undefined : { kind, address };

/** Intel SDM vol. 2, table 2-7: mod 00, r/m 101 is relative to the next instruction. */
const isRipOperand = ({ modrm, addressSize32 }: Encoding): boolean =>
  modOf(modrm) === 0 && rmOf(modrm) === 5 && !addressSize32;

/** ff /2: call, unless through a word at a fixed place (another module's function); ff /4: jmp, of which none comes back. */
const isIndirect = (encoding: Encoding): boolean =>
  regOf(encoding.modrm) === 4 || (regOf(encoding.modrm) === 2 && !isRipOperand(encoding));

/** The address of an operand that no register has a part in. */
function memoryOperand(view: DataView, encoding: Encoding, next: number): number | undefined {
  const { modrm, opcodeAt, rex, addressSize32 } = encoding;
  if (isRipOperand(encoding)) return next + view.getInt32(opcodeAt + 2, true);
  if (modOf(modrm) !== 0 || rmOf(modrm) !== 4 || addressSize32) return undefined;
  // Through a SIB byte without index (100) and base (101), there is also the absolute form.
  const sib = view.getUint8(opcodeAt + 2);
  const isAbsolute = (sib & 0x3f) === 0x25 && (rex & REX_X) === 0;
  return isAbsolute ? view.getInt32(opcodeAt + 3, true) : undefined;
}

function jump(view: DataView, { opcode = 0 }: Encoding, next: number): CodeReference | undefined {
  if (opcode === 0xeb || (opcode >= 0x70 && opcode <= 0x7f))
    return at('jump', next + view.getInt8(view.byteLength - 1));
  if (opcode === 0xe9 || (opcode >= 0x0f80 && opcode <= 0x0f8f))
    return at('jump', next + view.getInt32(view.byteLength - 4, true));
  return undefined;
}

/** `mov` of a constant, which stands at the instruction's end. */
function immediate(view: DataView, encoding: Encoding): CodeReference | undefined {
  const { opcode = 0, modrm, rex, operandSize16 } = encoding;
  const end = view.byteLength;
  if (operandSize16) return undefined;
  if (opcode >= 0xb8 && opcode <= 0xbf) {
    const isWide = (rex & REX_W) !== 0;
    return at('immediate', isWide ? Number(view.getBigUint64(end - 8, true)) : view.getUint32(end - 4, true));
  }
  return opcode === 0xc7 && regOf(modrm) === 0 ? at('immediate', view.getInt32(end - 4, true)) : undefined;
}
