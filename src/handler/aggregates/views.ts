/** What can be read of a cell: the words in numbers that mean something. */
import { rangeOf } from '../ir.js';
import type { LinearShape } from '../shapes.js';
import { FIRST_POWER, linearBuckets, NEGATIVE, STATS, ZERO } from '../shapes.js';

/** One bucket of a histogram: how many values there were of at least `from` and less than `to`. */
export interface Bucket {
  readonly from: bigint;
  readonly to: bigint;
  readonly count: number;
}
/** `JSON.stringify` writes 64-bit numbers as strings of decimal digits. */
export interface HistogramJson {
  readonly count: number;
  readonly buckets: readonly { readonly from: string; readonly to: string; readonly count: number }[];
}
export interface StatsJson {
  readonly count: number;
  readonly sum: string;
  readonly min: string | null;
  readonly max: string | null;
  readonly mean: number | null;
}

const LEAST = rangeOf('i64')[0];
const END = 1n << 64n;

/** Numbers of additions stay below 2^53. */
const countOf = (word: bigint): number => Number(BigInt.asUintN(64, word));

/** All words there are. */
export const WORDS = Symbol('words');

/** A cell as it was when it was read. */
abstract class View {
  readonly #words: BigInt64Array | undefined;

  constructor(words?: BigInt64Array) {
    this.#words = words;
  }
  [WORDS](): BigInt64Array {
    return this.#words!;
  }
}

export class CounterView extends View {
  /** The sum; wraps round as a signed 64-bit number. */
  get value(): bigint {
    return this[WORDS]()[0]!;
  }
  toJSON(): string {
    return String(this.value);
  }
}

abstract class BucketsView extends View {
  protected abstract limits(word: number): readonly [from: bigint, to: bigint];

  /** From the first to the last that is not empty, in rising order; none where nothing was added. */
  buckets(): Bucket[] {
    const words = this[WORDS]();
    const first = words.findIndex((word) => word !== 0n);
    if (first < 0) return [];
    const last = words.findLastIndex((word) => word !== 0n);
    return Array.from(words.subarray(first, last + 1), (word, i) => {
      const [from, to] = this.limits(first + i);
      return { from, to, count: countOf(word) };
    });
  }

  /** How many values were added. */
  get count(): number {
    return this[WORDS]().reduce((sum, word) => sum + countOf(word), 0);
  }

  toJSON(): HistogramJson {
    const buckets = this.buckets();
    return {
      count: buckets.reduce((sum, { count }) => sum + count, 0),
      buckets: buckets.map(({ from, to, count }) => ({ from: String(from), to: String(to), count })),
    };
  }
}

/** Buckets: negative numbers, 0, then 1, 2 to 3, 4 to 7, … 2^63 to 2^64 - 1. */
export class HistogramView extends BucketsView {
  protected limits(word: number): readonly [bigint, bigint] {
    if (word === NEGATIVE) return [LEAST, 0n];
    if (word === ZERO) return [0n, 1n];
    const power = BigInt(word - FIRST_POWER);
    return [1n << power, 2n << power];
  }
}

/** Buckets: below `min`, each `step` from there, `max` and above. */
export class LinearHistogramView extends BucketsView {
  readonly shape: LinearShape;

  constructor(shape: LinearShape, words?: BigInt64Array) {
    super(words);
    this.shape = shape;
  }
  protected limits(word: number): readonly [bigint, bigint] {
    const { min, max, step } = this.shape;
    if (word === 0) return [LEAST, min];
    if (word > linearBuckets(this.shape)) return [max, END];
    const from = min + BigInt(word - 1) * step;
    return [from, from + step < max ? from + step : max];
  }
}

export class StatsView extends View {
  /** How many values were added. */
  get count(): number {
    return countOf(this[WORDS]()[STATS.count]!);
  }
  /** Exact, however large. */
  get sum(): bigint {
    return sumOf(this[WORDS]());
  }
  /** Undefined where nothing was added. */
  get min(): bigint | undefined {
    return extremesOf(this[WORDS]())[0];
  }
  /** Undefined where nothing was added. */
  get max(): bigint | undefined {
    return extremesOf(this[WORDS]())[1];
  }
  /** Undefined where nothing was added. */
  get mean(): number | undefined {
    return meanOf(this[WORDS]());
  }

  toJSON(): StatsJson {
    const words = this[WORDS]();
    const [min, max] = extremesOf(words);
    return {
      count: countOf(words[STATS.count]!),
      sum: String(sumOf(words)),
      min: min === undefined ? null : String(min),
      max: max === undefined ? null : String(max),
      mean: meanOf(words) ?? null,
    };
  }
}

const sumOf = (words: BigInt64Array): bigint =>
  BigInt.asUintN(64, words[STATS.low]!) + (words[STATS.high]! << 32n);

function meanOf(words: BigInt64Array): number | undefined {
  const count = countOf(words[STATS.count]!);
  return count === 0 ? undefined : Number(sumOf(words)) / count;
}

/** Nothing was added with a sign, or without, where the least is still greater than the greatest. */
function extremesOf(words: BigInt64Array): readonly [bigint, bigint] | readonly [] {
  const signed = [words[STATS.leastSigned]!, words[STATS.mostSigned]!] as const;
  const unsigned = [
    BigInt.asUintN(64, words[STATS.leastUnsigned]!),
    BigInt.asUintN(64, words[STATS.mostUnsigned]!),
  ] as const;
  if (signed[0] > signed[1]) return unsigned[0] > unsigned[1] ? [] : unsigned;
  if (unsigned[0] > unsigned[1]) return signed;
  return [
    signed[0] < unsigned[0] ? signed[0] : unsigned[0],
    signed[1] > unsigned[1] ? signed[1] : unsigned[1],
  ];
}
