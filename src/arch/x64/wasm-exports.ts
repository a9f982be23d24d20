/**
 * A WebAssembly module without the exports nobody asked for. V8 makes a function object for every export when a
 * module is instantiated: for iced-x86's 762 that takes 10 ms. This must take far less, in code that runs once and
 * is never compiled: hence no classes, and little called per byte.
 * Format: WebAssembly Core Specification, 5.2.2 (LEB128), 5.5.2 (sections), 5.5.10 (exports).
 */

const EXPORT_SECTION = 7;
const HEADER_SIZE = 8;

interface Cursor {
  readonly bytes: Buffer;
  at: number;
}

/** An unsigned LEB128 number of 32 bits. */
function readNumber(cursor: Cursor): number {
  let value = 0;
  for (let shift = 0; shift < 35; shift += 7) {
    const byte = cursor.bytes[cursor.at++];
    if (byte === undefined) break;
    value += (byte & 0x7f) * 2 ** shift;
    if (byte < 0x80) return value;
  }
  throw new RangeError('the WebAssembly module is damaged');
}

/** The module with only these exports; with all where it has no export section. */
export function withExports(module: Buffer, wanted: ReadonlySet<string>): Buffer {
  const cursor = { bytes: module, at: HEADER_SIZE };
  while (cursor.at < module.length) {
    const start = cursor.at++;
    const end = readNumber(cursor) + cursor.at;
    if (module[start] === EXPORT_SECTION) {
      const section = exportSection(cursor, end, wanted);
      return Buffer.concat([module.subarray(0, start), section, module.subarray(end)]);
    }
    cursor.at = end;
  }
  return module;
}

/** A section with those of the exports that are wanted: a count, then name, kind and index of each. */
function exportSection(cursor: Cursor, end: number, wanted: ReadonlySet<string>): Buffer {
  const kept: Buffer[] = [];
  const base = cursor.at;
  const text = cursor.bytes.toString('latin1', base, end);
  for (let left = readNumber(cursor); left > 0; left--) {
    const start = cursor.at;
    const length = readNumber(cursor);
    const nameAt = cursor.at - base;
    cursor.at += length + 1;
    readNumber(cursor);
    if (wanted.has(text.slice(nameAt, nameAt + length))) kept.push(cursor.bytes.subarray(start, cursor.at));
  }
  const body = Buffer.concat([leb128(kept.length), ...kept]);
  return Buffer.concat([Uint8Array.of(EXPORT_SECTION), leb128(body.length), body]);
}

function leb128(value: number): Uint8Array {
  const bytes = [];
  for (; value >= 0x80; value >>>= 7) bytes.push((value & 0x7f) | 0x80);
  return Uint8Array.of(...bytes, value);
}
