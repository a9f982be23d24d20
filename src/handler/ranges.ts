/** What is known of a whole number: the least and the greatest value it can have. Mathematical integers, of any size. */
import { exact } from './expression-numbers.js';
import type { ArithmeticOperator, ComparisonOperator, IntType } from './ir.js';
import { rangeOf } from './ir.js';

export interface Range {
  readonly lo: bigint;
  readonly hi: bigint;
}

export const range = (lo: bigint, hi: bigint): Range => ({ lo, hi });
export const point = (value: bigint): Range => ({ lo: value, hi: value });
export const ofType = (type: IntType): Range => range(...rangeOf(type));
export const isPoint = ({ lo, hi }: Range): boolean => lo === hi;
export const within = (a: Range, b: Range): boolean => a.lo >= b.lo && a.hi <= b.hi;
export const joined = (a: Range, b: Range): Range => range(least(a.lo, b.lo), greatest(a.hi, b.hi));
/** What is in both; undefined: nothing. */
export function common(a: Range, b: Range): Range | undefined {
  const both = range(greatest(a.lo, b.lo), least(a.hi, b.hi));
  return both.lo <= both.hi ? both : undefined;
}

export const U64 = ofType('u64');
export const I64 = ofType('i64');
export const INT32 = ofType('i32');
/** The whole numbers that a JavaScript number holds exactly, and the next ones too. */
export const SAFE = range(BigInt(Number.MIN_SAFE_INTEGER), BigInt(Number.MAX_SAFE_INTEGER));

/** The 64-bit type that holds all of a range. */
export function typeFor(all: Range): 'u64' | 'i64' | undefined {
  if (within(all, U64)) return 'u64';
  return within(all, I64) ? 'i64' : undefined;
}

/** The results of an operation. A divisor's range may have 0 at an end only where the caller knows that it is not 0. */
export function results(operator: ArithmeticOperator, a: Range, b: Range): Range {
  if (isPoint(a) && isPoint(b)) return point(exact(operator, a.lo, b.lo));
  switch (operator) {
    case '+':
      return range(a.lo + b.lo, a.hi + b.hi);
    case '-':
      return range(a.lo - b.hi, a.hi - b.lo);
    case '*':
    case '<<':
    case '>>':
      return corners(operator, a, [b.lo, b.hi]);
    case '/':
      // The quotient is greatest beside 0.
      return corners(
        '/',
        a,
        [b.lo, b.hi, -1n, 1n].filter((d) => d !== 0n && d >= b.lo && d <= b.hi),
      );
    case '%': {
      // It has the dividend's sign, and is smaller than the divisor.
      const most = greatest(magnitude(b.lo), magnitude(b.hi)) - 1n;
      return range(a.lo < 0n ? -least(most, -a.lo) : 0n, a.hi > 0n ? least(most, a.hi) : 0n);
    }
    case '&':
      if (a.lo >= 0n && b.lo >= 0n) return range(0n, least(a.hi, b.hi));
      if (a.lo >= 0n) return range(0n, a.hi);
      return b.lo >= 0n ? range(0n, b.hi) : anyBits(a, b);
    case '|':
      return a.lo >= 0n && b.lo >= 0n ? range(greatest(a.lo, b.lo), anyBits(a, b).hi) : anyBits(a, b);
    case '^':
      return a.lo >= 0n && b.lo >= 0n ? range(0n, anyBits(a, b).hi) : anyBits(a, b);
  }
}

/** Operations that are monotonic in each operand are extreme at its ends. */
function corners(operator: ArithmeticOperator, a: Range, ends: readonly bigint[]): Range {
  const values = [a.lo, a.hi].flatMap((x) => ends.map((y) => exact(operator, x, y)));
  return range(values.reduce(least), values.reduce(greatest));
}

/** What the bits of both can make, as two's complement of the least width that has them. */
function anyBits(a: Range, b: Range): Range {
  const bits = BigInt(
    Math.max(...[a.lo, a.hi, b.lo, b.hi].map((v) => (v === 0n ? 0 : (v < 0n ? ~v : v).toString(2).length))),
  );
  return range(-(1n << bits), (1n << bits) - 1n);
}

/** The answer of a comparison that every pair of values gives. */
export function alwaysHolds(operator: ComparisonOperator, a: Range, b: Range): boolean | undefined {
  switch (operator) {
    case '<':
      return a.hi < b.lo ? true : a.lo >= b.hi ? false : undefined;
    case '<=':
      return a.hi <= b.lo ? true : a.lo > b.hi ? false : undefined;
    case '>':
      return alwaysHolds('<', b, a);
    case '>=':
      return alwaysHolds('<=', b, a);
    case '==':
      if (common(a, b) === undefined) return false;
      return isPoint(a) && isPoint(b) ? true : undefined;
    case '!=': {
      const equal = alwaysHolds('==', a, b);
      return equal === undefined ? undefined : !equal;
    }
  }
}

export const least = (a: bigint, b: bigint): bigint => (a < b ? a : b);
export const greatest = (a: bigint, b: bigint): bigint => (a > b ? a : b);
const magnitude = (v: bigint): bigint => (v < 0n ? -v : v);
