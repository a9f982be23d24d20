/**
 * The encoded numbers of .eh_frame and .eh_frame_hdr. LSB Core, chapter 10.5 "DWARF Extensions": the low four bits of
 * an encoding are the number's form, the next three what it is relative to, the highest that it is the address of it.
 */

export const DW_EH_PE_ABSPTR = 0x00;
export const DW_EH_PE_OMIT = 0xff;
const PCREL = 0x10;
const DATAREL = 0x30;
const ALIGNED = 0x50;
const INDIRECT = 0x80;

/** Reads on through bytes that lie at an address. A read beyond the end gives NaN, and so does all that follows from it. */
export class Cursor {
  readonly bytes: Buffer;
  /** Address of the first byte. */
  readonly address: number;
  at: number;

  constructor(bytes: Buffer, address: number, at = 0) {
    this.bytes = bytes;
    this.address = address;
    this.at = at;
  }

  u8(): number {
    return this.#take(1) ?? NaN;
  }
  u32(): number {
    const at = this.#room(4);
    return at === undefined ? NaN : this.bytes.readUInt32LE(at);
  }

  /** ULEB128; what does not fit in 2^53 is rounded. */
  uleb(): number {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = this.u8();
      value += (byte & 0x7f) * scale;
      if (Number.isNaN(byte) || scale > 2 ** 63) return NaN;
      if (byte < 0x80) return value;
    }
  }

  sleb(): number {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = this.u8();
      value += (byte & 0x7f) * scale;
      if (Number.isNaN(byte) || scale > 2 ** 63) return NaN;
      if (byte < 0x80) return byte >= 0x40 ? value - scale * 128 : value;
    }
  }

  /** A NUL-terminated string of at most `limit` bytes, or undefined. */
  string(limit: number): string | undefined {
    const start = this.at;
    const end = this.bytes.subarray(start, start + limit).indexOf(0);
    if (end < 0) return undefined;
    this.at = start + end + 1;
    return this.bytes.toString('latin1', start, start + end);
  }

  /** `dataBase`: what data-relative means here. NaN for encodings that need a running process to be understood. */
  pointer(encoding: number, dataBase = NaN): number {
    if (encoding === ALIGNED) {
      this.at += (8 - ((this.address + this.at) % 8)) % 8;
      return this.#number(DW_EH_PE_ABSPTR, true);
    }
    const here = this.address + this.at;
    const value = this.#number(encoding & 0x0f, true);
    if ((encoding & INDIRECT) !== 0) return NaN;
    const relativeTo = encoding & 0x70;
    if (relativeTo === PCREL) return here + value;
    if (relativeTo === DATAREL) return dataBase + value;
    return relativeTo === 0 ? value : NaN;
  }

  /** A length in the form of an encoding: never relative, never negative. */
  length(encoding: number): number {
    return this.#number(encoding & 0x0f, false);
  }

  #number(form: number, signed: boolean): number {
    if (form === 0x01) return this.uleb();
    if (form === 0x09) return this.sleb();
    const size = FORM_SIZES[form];
    const at = size === undefined ? undefined : this.#room(size);
    if (size === undefined || at === undefined) return NaN;
    // Eight bytes are taken as signed: an address sum wraps, and no user address is negative.
    if (size === 8) return this.bytes.readInt32LE(at + 4) * 2 ** 32 + this.bytes.readUInt32LE(at);
    return signed && form >= 0x08 ? this.bytes.readIntLE(at, size) : this.bytes.readUIntLE(at, size);
  }

  #take(size: number): number | undefined {
    const at = this.#room(size);
    return at === undefined ? undefined : this.bytes[at];
  }

  /** The present position, when `size` bytes are there; moves on by them. */
  #room(size: number): number | undefined {
    const at = this.at;
    this.at += size;
    return at >= 0 && at + size <= this.bytes.length ? at : undefined;
  }
}

const FORM_SIZES: Readonly<Record<number, 2 | 4 | 8>> = { 0: 8, 2: 2, 3: 4, 4: 8, 10: 2, 11: 4, 12: 8 };
