/** The numbers that handlers hand over. In 64 bits, signed or unsigned: all that a compiled handler can have. */
import { rangeOf } from '../ir.js';

export type Integer = number | bigint;

const LEAST = rangeOf('i64')[0];
const MOST = rangeOf('u64')[1];

/** Whole numbers up to here can be added to one another, and stay exact. */
export const SMALL = 2 ** 52;

const [LEAST_SMALL, MOST_SMALL] = [-BigInt(SMALL), BigInt(SMALL)];

/** The value as a number, where it is a small one; not-a-number where it is not, or none at all: `toInteger` has those. */
export function toSmall(value: unknown): number {
  if (typeof value === 'bigint')
    return value <= MOST_SMALL && value >= LEAST_SMALL ? Number(value) : Number.NaN;
  return Number.isInteger(value) && (value as number) <= SMALL && (value as number) >= -SMALL
    ? (value as number)
    : Number.NaN;
}

/** Any value as a number of 64 bits. `what`: where it was given, for the message. */
export function toInteger(what: string, value: unknown): bigint {
  if (typeof value !== 'bigint' && typeof value !== 'number')
    throw new TypeError(`${what}: a number or a bigint is needed, not ${shown(value)}`);
  if (typeof value === 'number' && !Number.isInteger(value))
    throw new RangeError(`${what}: ${value} is not a whole number`);
  const integer = BigInt(value);
  if (integer < LEAST || integer > MOST)
    throw new RangeError(`${what}: ${integer} does not fit in 64 bits, signed or unsigned`);
  return integer;
}

/** A value in a message. */
export const shown = (value: unknown): string =>
  value === undefined
    ? 'undefined (is it something that could not be read?)'
    : typeof value === 'string'
      ? 'a string'
      : value === null
        ? 'null'
        : `a ${typeof value}`;
