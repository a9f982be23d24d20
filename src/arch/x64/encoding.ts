/**
 * Prefixes and opcode of an instruction in the legacy encoding: what deciding how to displace it needs beyond its
 * length. Intel SDM vol. 2, 2.1 and 2.2.1; AMD APM vol. 3, 1.2.
 */

export interface Encoding {
  /**
   * The opcode byte, or 0x0fXX for the two-byte ones (0x0f38 and 0x0f3a stand for all of their maps); undefined
   * for VEX, EVEX and XOP, none of which changes the flow of control.
   */
  readonly opcode: number | undefined;
  /** Offset of its last byte. */
  readonly opcodeAt: number;
  /** The byte after the opcode: ModRM where the opcode has one. */
  readonly modrm: number;
  /** The REX prefix, 0 when there is none. */
  readonly rex: number;
  /** Prefix 66 without REX.W. */
  readonly operandSize16: boolean;
  /** Prefix 67. */
  readonly addressSize32: boolean;
}

export const REX_W = 8;
export const REX_X = 2;
export const REX_B = 1;

export const modOf = (modrm: number): number => modrm >> 6;
export const regOf = (modrm: number): number => (modrm >> 3) & 7;
export const rmOf = (modrm: number): number => modrm & 7;

const LEGACY_PREFIXES = new Set([0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3]);
const isRex = (byte: number): boolean => (byte & 0xf0) === 0x40;

/** Of bytes that are known to be one instruction of 64-bit mode. */
export function parseEncoding(bytes: Uint8Array): Encoding {
  let at = 0;
  let rex = 0;
  let operandSize = false;
  let addressSize32 = false;
  for (; at < bytes.length; at++) {
    const byte = bytes[at] as number;
    if (isRex(byte)) {
      rex = byte;
    } else if (LEGACY_PREFIXES.has(byte)) {
      rex = 0; // a REX that does not stand right before the opcode is ignored
      operandSize ||= byte === 0x66;
      addressSize32 ||= byte === 0x67;
    } else {
      break;
    }
  }
  if (bytes[at] === 0x0f) at++;
  return {
    opcode: opcodeOf(bytes, at),
    opcodeAt: at,
    modrm: bytes[at + 1] ?? 0,
    rex,
    operandSize16: operandSize && (rex & REX_W) === 0,
    addressSize32,
  };
}

function opcodeOf(bytes: Uint8Array, at: number): number | undefined {
  const byte = bytes[at] ?? 0;
  if (at > 0 && bytes[at - 1] === 0x0f) return 0x0f00 | byte;
  const next = bytes[at + 1] ?? 0;
  const isVector = byte === 0xc4 || byte === 0xc5 || byte === 0x62;
  // XOP shares 8f with `pop r/m`, and selects map 8 and up, where `pop` has 0 in ModRM.reg.
  const isXop = byte === 0x8f && (next & 0x1f) >= 8;
  return isVector || isXop ? undefined : byte;
}
