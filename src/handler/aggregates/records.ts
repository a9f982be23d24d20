/** Fields as they lie in memory (`layOut`): bytes of keys and events to values. */
import { decodeUtf8 } from '../../base/utf8.js';
import type { EventsShape, Field, FieldType } from '../shapes.js';
import { layOutEvent } from '../shapes.js';
import type { AnyFieldValue } from './fields.js';

export type AnyEvent = Record<string, AnyFieldValue | undefined>;
/** The event of a record that begins at `at`. */
export type Decode = (bytes: Uint8Array, view: DataView, at: number) => AnyEvent;

/**
 * The value of a field of a record that begins at `at`. Only so many bits are looked at as the type has: where the bytes come from
 * memory that a program can write to, whatever is there makes a value of the type.
 */
export function readField(
  { type, offset }: Field,
  bytes: Uint8Array,
  view: DataView,
  at: number,
): AnyFieldValue {
  const from = at + offset;
  if (typeof type === 'object') return texts.read(bytes, from, from + type.string);
  if (type === 'bool') return view.getUint8(from) !== 0;
  return view[GETTERS[type]](from, true);
}

const GETTERS = {
  u8: 'getUint8',
  u16: 'getUint16',
  u32: 'getUint32',
  u64: 'getBigUint64',
  i8: 'getInt8',
  i16: 'getInt16',
  i32: 'getInt32',
  i64: 'getBigInt64',
} as const;

interface Seen {
  readonly bytes: Uint8Array;
  readonly text: string;
}

/**
 * Strings repeat: names of threads, paths. One that was seen lately is compared with its bytes, which takes half as long as
 * making it anew.
 */
class Texts {
  readonly #seen = Array.from({ length: 4096 }, (): Seen | undefined => undefined);

  /** Up to the first NUL. */
  read(bytes: Uint8Array, from: number, limit: number): string {
    let hash = 0;
    let end = from;
    for (; end < limit; end++) {
      const byte = bytes[end]!;
      if (byte === 0) break;
      hash = (Math.imul(hash, 31) + byte) | 0;
    }
    if (end - from > LONGEST_KEPT) return decodeUtf8(bytes.subarray(from, end));
    const place = (hash ^ (hash >>> 12)) & 4095;
    const seen = this.#seen[place];
    if (seen !== undefined && seen.bytes.length === end - from && startsWith(bytes, from, seen.bytes))
      return seen.text;
    const own = bytes.slice(from, end);
    const text = decodeUtf8(own);
    this.#seen[place] = { bytes: own, text };
    return text;
  }
}
const LONGEST_KEPT = 128;
const texts = new Texts();

function startsWith(bytes: Uint8Array, from: number, wanted: Uint8Array): boolean {
  for (let i = 0; i < wanted.length; i++) if (bytes[from + i] !== wanted[i]) return false;
  return true;
}

/**
 * A function that makes events of records. There are millions a second: one with the fields written out, of which V8 makes objects
 * of one form at once, is six times as fast as a loop, which is there for where no code may be made of text
 * (`node --disallow-code-generation-from-strings`).
 */
export function eventDecoder(shape: EventsShape): Decode {
  const names = shape.fields.map((f) => f.name);
  const { fields } = layOutEvent(shape);
  try {
    // The names are identifiers, and the rest is ours.
    const properties = names.map((name, i) => `${name}: ${bitOf(i)} ? ${sourceOf(fields[i]!)} : undefined`);
    const body = `return (bytes, view, at) => {
      const low = view.getUint32(at, true), high = view.getUint32(at + 4, true);
      return { ${properties.join(', ')} };
    };`;
    // oxlint-disable-next-line eslint/no-new-func, typescript/no-implied-eval, typescript/no-unsafe-call
    return new Function('texts', body)(texts) as Decode;
  } catch (e) {
    if (!(e instanceof EvalError)) throw e;
    return slowDecoder(names, fields);
  }
}

/** Whether the nth field is there. */
const bitOf = (n: number): string => `(${n < 32 ? 'low' : 'high'} & ${1 << (n & 31)})`;

function sourceOf({ type, offset }: { readonly type: FieldType; readonly offset: number }): string {
  if (typeof type === 'object') return `texts.read(bytes, at + ${offset}, at + ${offset + type.string})`;
  if (type === 'bool') return `view.getUint8(at + ${offset}) !== 0`;
  return `view.${GETTERS[type]}(at + ${offset}, true)`;
}

export function slowDecoder(names: readonly string[], fields: readonly Field[]): Decode {
  return (bytes, view, at) => {
    const low = view.getUint32(at, true);
    const high = view.getUint32(at + 4, true);
    const event: AnyEvent = {};
    for (let i = 0; i < fields.length; i++) {
      const isThere = ((i < 32 ? low : high) >>> (i & 31)) & 1;
      event[names[i]!] = isThere ? readField(fields[i]!, bytes, view, at) : undefined;
    }
    return event;
  };
}
