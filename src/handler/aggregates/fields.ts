/** Fields of keys and events: what may be given for one, and what it is from then on. */
import { cutUtf8 } from '../../base/utf8.js';
import { INT_TYPES, MOST_BYTES, bitsOf, rangeOf, type IntType } from '../ir.js';
import { isWideField, type FieldType, type StringType } from '../shapes.js';
import { shown, type Integer } from './integer.js';

type WideType = 'u64' | 'i64';

/** What is read of a field: 64-bit numbers as bigints, narrower ones as numbers. */
export type FieldValue<F extends FieldType> = F extends WideType
  ? bigint
  : F extends IntType
    ? number
    : F extends 'bool'
      ? boolean
      : string;

/** What may be written to a field. */
export type FieldInput<F extends FieldType> = F extends IntType
  ? Integer
  : F extends 'bool'
    ? boolean
    : string;

export type AnyFieldValue = bigint | number | boolean | string;

/** A value as the field keeps it. Throws where it is none. */
export type Normalize = (value: unknown) => AnyFieldValue;

/**
 * A string of at most so many bytes of UTF-8, as the type of a field. What is longer is cut off, and so is what comes after a NUL.
 */
export function string(maxBytes: number): StringType {
  checkString('string', maxBytes);
  return { string: maxBytes };
}

function checkString(what: string, bytes: unknown): void {
  if (!Number.isInteger(bytes) || (bytes as number) < 1 || (bytes as number) > MOST_BYTES)
    throw new RangeError(`${what}: a string has 1 to ${MOST_BYTES} bytes, not ${String(bytes)}`);
}

/** The type again, of plain data of our own. */
export function checkedType(what: string, type: unknown): FieldType {
  if (type === 'bool' || (INT_TYPES as readonly unknown[]).includes(type)) return type as FieldType;
  if (typeof type === 'object' && type !== null && 'string' in type) {
    checkString(what, type.string);
    return { string: type.string as number };
  }
  throw new TypeError(
    `${what}: ${typeof type === 'string' ? `'${type}'` : shown(type)} is no type of a field: write ${INT_TYPES.map((t) => `'${t}'`).join(', ')}, 'bool' or string(bytes)`,
  );
}

export function normalizer(what: string, type: FieldType): Normalize {
  if (typeof type === 'object') {
    const { string: most } = type;
    return (value) => (typeof value === 'string' ? cutUtf8(value, most) : wrong(what, 'a string', value));
  }
  if (type === 'bool')
    return (value) => (typeof value === 'boolean' ? value : wrong(what, 'true or false', value));
  return isWideField(type) ? wide(what, type) : narrow(what, type);
}

function wrong(what: string, needed: string, value: unknown): never {
  throw new TypeError(`${what}: ${needed} is needed, not ${shown(value)}`);
}

function wide(what: string, type: IntType): Normalize {
  const [least, most] = rangeOf(type);
  return (value) => {
    const integer =
      typeof value === 'bigint'
        ? value
        : Number.isInteger(value)
          ? BigInt(value as number)
          : noInteger(what, type, value);
    return integer >= least && integer <= most ? integer : outOfRange(what, type, integer);
  };
}

function narrow(what: string, type: IntType): Normalize {
  const [least, most] = rangeOf(type).map(Number) as [number, number];
  return (value) => {
    const number =
      typeof value === 'bigint'
        ? Number(value)
        : Number.isInteger(value)
          ? (value as number)
          : noInteger(what, type, value);
    // Adding 0 makes 0 of -0.
    return number >= least && number <= most ? number + 0 : outOfRange(what, type, value as Integer);
  };
}

function noInteger(what: string, type: IntType, value: unknown): never {
  if (typeof value === 'number') throw new RangeError(`${what}: ${value} is not a whole number`);
  return wrong(what, `a number or a bigint (${type})`, value);
}

function outOfRange(what: string, type: IntType, value: Integer): never {
  const [least, most] = rangeOf(type);
  throw new RangeError(
    `${what}: ${value} does not fit in ${type} (${least} to ${most}): ${type}(…) would keep its lower ${bitsOf(type)} bits`,
  );
}

/** JSON has no bigints: they are strings of decimal digits. */
export const jsonOf = (value: AnyFieldValue): number | boolean | string =>
  typeof value === 'bigint' ? String(value) : value;
