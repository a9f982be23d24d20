/** Fields as they lie in memory (`layOut`): bytes of keys and events to values. */
import { decodeUtf8 } from '../../base/utf8.js';
import type { Field } from '../shapes.js';
import type { AnyFieldValue } from './fields.js';

/**
 * The value of a field of a record that begins at `at`. Only so many bits are looked at as the type has: where the bytes come from
 * memory that a program can write to, whatever is there makes a value of the type.
 */
export function readField(field: Field, bytes: Uint8Array, view: DataView, at: number): AnyFieldValue {
  const { type, offset } = field;
  const from = at + offset;
  switch (type) {
    case 'u8':
      return view.getUint8(from);
    case 'u16':
      return view.getUint16(from, true);
    case 'u32':
      return view.getUint32(from, true);
    case 'u64':
      return view.getBigUint64(from, true);
    case 'i8':
      return view.getInt8(from);
    case 'i16':
      return view.getInt16(from, true);
    case 'i32':
      return view.getInt32(from, true);
    case 'i64':
      return view.getBigInt64(from, true);
    case 'bool':
      return view.getUint8(from) !== 0;
    default:
      return readText(bytes, from, from + type.string);
  }
}

function readText(bytes: Uint8Array, from: number, limit: number): string {
  let end = from;
  while (end < limit && bytes[end] !== 0) end++;
  return decodeUtf8(bytes.subarray(from, end));
}
