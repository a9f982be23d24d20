/**
 * Aggregates that are one cell. Handlers add to them at every hit, mostly small numbers: those are kept as plain numbers, exact below
 * 2^53, and become words of 64 bits when they are read or grow large.
 */
import type {
  Aggregate,
  CellShape,
  CellSource,
  CounterShape,
  HistogramShape,
  LinearShape,
  StatsShape,
} from '../shapes.js';
import {
  ATTACH,
  emptyCell,
  FIRST_POWER,
  HISTOGRAM_WORDS,
  linearBuckets,
  NEGATIVE,
  STATS,
  ZERO,
} from '../shapes.js';
import { SMALL, toInteger, toSmall, type Integer } from './integer.js';
import { Parts } from './parts.js';
import { CounterView, HistogramView, LinearHistogramView, StatsView, WORDS } from './views.js';

/** Take in what another part had. For tables. */
export const KEEP = Symbol('keep');

/** What a table needs of its cells. */
export interface Cell<S extends CellShape = CellShape> extends Aggregate<S> {
  add(value?: Integer): void;
  [WORDS](): BigInt64Array;
  [KEEP](words: BigInt64Array): void;
}

const COUNTER: CounterShape = { kind: 'counter' };
const HISTOGRAM: HistogramShape = { kind: 'histogram' };
const STATISTICS: StatsShape = { kind: 'stats' };

/** A sum. Made by {@link counter}. */
export class Counter extends CounterView implements Cell<CounterShape> {
  readonly shape = COUNTER;
  readonly #parts = new Parts(COUNTER);
  #sum = 0;

  /** Add 1. */
  add(): void;
  /** Add a whole number, which may be negative. */
  add(n: Integer): void;
  add(n?: Integer): void {
    const small = arguments.length === 0 ? 1 : toSmall(n);
    if (Number.isNaN(small)) {
      this.#parts.keep(BigInt64Array.of(toInteger('counter.add', n)));
      return;
    }
    this.#sum += small;
    if (this.#sum > SMALL || this.#sum < -SMALL) this.#carry();
  }

  #carry(): void {
    this.#parts.keep(BigInt64Array.of(BigInt(this.#sum)));
    this.#sum = 0;
  }

  override [WORDS](): BigInt64Array {
    return this.#parts.addTo(BigInt64Array.of(BigInt(this.#sum)));
  }
  [KEEP](words: BigInt64Array): void {
    this.#parts.keep(words);
  }
  /** Back to 0, wherever it is kept. */
  clear(): void {
    this.#sum = 0;
    this.#parts.clear();
  }
  /** For engines. */
  [ATTACH](source: CellSource): () => void {
    return this.#parts.attach(source);
  }
}

/** How many values there were of each power of two. Made by {@link histogram}. */
export class Histogram extends HistogramView implements Cell<HistogramShape> {
  readonly shape = HISTOGRAM;
  readonly #parts = new Parts(HISTOGRAM);
  readonly #counts = new Float64Array(HISTOGRAM_WORDS);

  /** Count a value. */
  add(value: Integer): void {
    const small = toSmall(value);
    const word = Number.isNaN(small) ? powerOfLarge(toInteger('histogram.add', value)) : powerOf(small);
    this.#counts[word]! += 1;
  }

  override [WORDS](): BigInt64Array {
    return this.#parts.addTo(BigInt64Array.from(this.#counts, BigInt));
  }
  [KEEP](words: BigInt64Array): void {
    this.#parts.keep(words);
  }
  /** Forget all values, wherever they are kept. */
  clear(): void {
    this.#counts.fill(0);
    this.#parts.clear();
  }
  /** For engines. */
  [ATTACH](source: CellSource): () => void {
    return this.#parts.attach(source);
  }
}

/** The word that a value is counted in. */
function powerOf(value: number): number {
  if (value <= 0) return value === 0 ? ZERO : NEGATIVE;
  return value < 2 ** 32
    ? FIRST_POWER + 31 - Math.clz32(value)
    : FIRST_POWER + 63 - Math.clz32(value / 2 ** 32);
}
const powerOfLarge = (value: bigint): number =>
  value <= 0n ? (value === 0n ? ZERO : NEGATIVE) : FIRST_POWER + value.toString(2).length - 1;

/** How many values there were in each range of one width. Made by {@link linearHistogram}. */
export class LinearHistogram extends LinearHistogramView implements Cell<LinearShape> {
  readonly #parts: Parts;
  readonly #counts: Float64Array;
  /** Whether the limits are exact as numbers. */
  readonly #isSmall: boolean;
  readonly #min: number;
  readonly #max: number;
  readonly #step: number;

  constructor(shape: LinearShape) {
    super(shape);
    this.#parts = new Parts(shape);
    this.#counts = new Float64Array(linearBuckets(shape) + 2);
    this.#isSmall = !Number.isNaN(toSmall(shape.min)) && !Number.isNaN(toSmall(shape.max));
    this.#min = Number(shape.min);
    this.#max = Number(shape.max);
    this.#step = Number(shape.step);
  }

  /** Count a value. */
  add(value: Integer): void {
    const small = toSmall(value);
    const word =
      this.#isSmall && !Number.isNaN(small)
        ? this.#bucket(small)
        : this.#bucketOfLarge(toInteger('linearHistogram.add', value));
    this.#counts[word]! += 1;
  }

  #bucket(value: number): number {
    if (value < this.#min) return 0;
    if (value >= this.#max) return this.#counts.length - 1;
    const beyond = value - this.#min;
    return 1 + (beyond - (beyond % this.#step)) / this.#step;
  }
  #bucketOfLarge(value: bigint): number {
    const { min, max, step } = this.shape;
    if (value < min) return 0;
    return value >= max ? this.#counts.length - 1 : 1 + Number((value - min) / step);
  }

  override [WORDS](): BigInt64Array {
    return this.#parts.addTo(BigInt64Array.from(this.#counts, BigInt));
  }
  [KEEP](words: BigInt64Array): void {
    this.#parts.keep(words);
  }
  /** Forget all values, wherever they are kept. */
  clear(): void {
    this.#counts.fill(0);
    this.#parts.clear();
  }
  /** For engines. */
  [ATTACH](source: CellSource): () => void {
    return this.#parts.attach(source);
  }
}

/** Count, sum, least, greatest and mean of values. Made by {@link stats}. */
export class Stats extends StatsView implements Cell<StatsShape> {
  readonly shape = STATISTICS;
  readonly #parts = new Parts(STATISTICS);
  /** Of small values; others are added to the parts at once. */
  #count = 0;
  #sum = 0;
  #min = Infinity;
  #max = -Infinity;

  /** Take a value in. */
  add(value: Integer): void {
    const small = toSmall(value);
    if (Number.isNaN(small)) {
      this.#parts.keep(statsOf(1n, toInteger('stats.add', value)));
      return;
    }
    this.#count++;
    this.#sum += small;
    if (small < this.#min) this.#min = small;
    if (small > this.#max) this.#max = small;
    if (this.#sum > SMALL || this.#sum < -SMALL) this.#carry();
  }

  #carry(): void {
    this.#parts.keep(this.#own());
    this.#forget();
  }
  #own(): BigInt64Array {
    if (this.#count === 0) return emptyCell(STATISTICS);
    return statsOf(BigInt(this.#count), BigInt(this.#sum), BigInt(this.#min), BigInt(this.#max));
  }
  #forget(): void {
    this.#count = 0;
    this.#sum = 0;
    this.#min = Infinity;
    this.#max = -Infinity;
  }

  override [WORDS](): BigInt64Array {
    return this.#parts.addTo(this.#own());
  }
  [KEEP](words: BigInt64Array): void {
    this.#parts.keep(words);
  }
  /** Forget all values, wherever they are kept. */
  clear(): void {
    this.#forget();
    this.#parts.clear();
  }
  /** For engines. */
  [ATTACH](source: CellSource): () => void {
    return this.#parts.attach(source);
  }
}

/** Words of `stats`. Where both extremes have a sign's room they are signed ones, else unsigned. */
function statsOf(count: bigint, sum: bigint, least = sum, most = sum): BigInt64Array {
  const words = emptyCell(STATISTICS);
  words[STATS.count] = count;
  words[STATS.low] = BigInt.asUintN(32, sum);
  words[STATS.high] = sum >> 32n;
  const isSigned = most < 1n << 63n;
  words[isSigned ? STATS.leastSigned : STATS.leastUnsigned] = least;
  words[isSigned ? STATS.mostSigned : STATS.mostUnsigned] = most;
  return words;
}

export function makeCell(shape: CellShape): Cell {
  switch (shape.kind) {
    case 'counter':
      return new Counter();
    case 'histogram':
      return new Histogram();
    case 'linear':
      return new LinearHistogram(shape);
    case 'stats':
      return new Stats();
  }
}
