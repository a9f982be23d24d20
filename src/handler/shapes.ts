/**
 * What an aggregate is and how it lies in memory, wherever it is kept: in JavaScript, in a map of the kernel, in memory shared with
 * a process. Everybody who writes or reads one works from its shape.
 *
 * A cell is an array of 64-bit words that only atomic additions (and, for `stats`, atomic minima and maxima) change; cells of the
 * same shape are merged by the same operations, so each CPU, thread or engine may have its own.
 */
import type { IntType } from './ir.js';
import { bitsOf, isSigned } from './ir.js';

/** A sum; wraps round as a signed 64-bit number. */
export interface CounterShape {
  readonly kind: 'counter';
}
/** Powers of two. */
export interface HistogramShape {
  readonly kind: 'histogram';
}
/** `[min, max)` in buckets of `step`, of which the last may be cut off by `max`. */
export interface LinearShape {
  readonly kind: 'linear';
  readonly min: bigint;
  readonly max: bigint;
  readonly step: bigint;
}
/** Count, sum, least and greatest. */
export interface StatsShape {
  readonly kind: 'stats';
}
export type CellShape = CounterShape | HistogramShape | LinearShape | StatsShape;

/** A field of a key or an event. */
export type FieldType = IntType | 'bool' | StringType;
/** At most so many bytes, without a NUL; what is longer is cut off. */
export interface StringType {
  readonly string: number;
}

export interface TableShape {
  readonly kind: 'table';
  /** At least one. */
  readonly key: readonly FieldType[];
  readonly cell: CellShape;
  /** Keys; additions to one more are counted as overflow. */
  readonly capacity: number;
}

export interface EventsShape {
  readonly kind: 'events';
  /** At most 64. */
  readonly fields: readonly { readonly name: string; readonly type: FieldType }[];
  /** What an engine keeps for those that have not been read, in bytes: a power of two, at least 4096. */
  readonly buffer: number;
}

export type Shape = CellShape | TableShape | EventsShape;

// Cells, in words

/** `histogram`: negative numbers, 0, then a bucket for each power of two: word 2 + n has 2^n to 2^(n+1) - 1. */
export const HISTOGRAM_WORDS = 2 + 64;
export const NEGATIVE = 0;
export const ZERO = 1;
export const FIRST_POWER = 2;

/** `linear`: below min, the buckets, max and above. */
export const linearBuckets = ({ min, max, step }: LinearShape): number =>
  Number((max - min + step - 1n) / step);

/**
 * `stats`: the sum is exact in two words, `low` of the values' lower 32 bits (unsigned) and `high` of the rest (arithmetic shift): low +
 * high * 2^32. Signed and unsigned values have extremes of their own, for their bits are ordered differently.
 */
export const STATS = {
  count: 0,
  low: 1,
  high: 2,
  leastSigned: 3,
  mostSigned: 4,
  leastUnsigned: 5,
  mostUnsigned: 6,
} as const;
const STATS_WORDS = 7;

export function cellWords(shape: CellShape): number {
  switch (shape.kind) {
    case 'counter':
      return 1;
    case 'histogram':
      return HISTOGRAM_WORDS;
    case 'linear':
      return linearBuckets(shape) + 2;
    case 'stats':
      return STATS_WORDS;
  }
}

/** A cell that nothing has been added to. */
export function emptyCell(shape: CellShape): BigInt64Array {
  const words = new BigInt64Array(cellWords(shape));
  if (shape.kind === 'stats') {
    words[STATS.leastSigned] = (1n << 63n) - 1n;
    words[STATS.mostSigned] = -(1n << 63n);
    words[STATS.leastUnsigned] = -1n; // 2^64 - 1
  }
  return words;
}

// Keys and events, in bytes

/**
 * Numbers have eight bytes, zero- or sign-extended; strings their own length rounded up to a multiple of eight, filled with NULs. A
 * string of full length has no NUL behind it.
 */
export const fieldBytes = (type: FieldType): number =>
  typeof type === 'object' ? (type.string + 7) & ~7 : 8;

export interface Field {
  readonly type: FieldType;
  /** From the start of the key or event. */
  readonly offset: number;
  /** What it takes up. */
  readonly bytes: number;
}

/** Where the fields are, and how much they take up together. */
export function layOut(types: readonly FieldType[], from = 0): { fields: Field[]; bytes: number } {
  let offset = from;
  const fields = types.map((type) => {
    const field = { type, offset, bytes: fieldBytes(type) };
    offset += field.bytes;
    return field;
  });
  return { fields, bytes: offset };
}

/** An event begins with a word that has the nth bit set where the nth field has a value. */
export const layOutEvent = (shape: EventsShape): { fields: Field[]; bytes: number } =>
  layOut(
    shape.fields.map((f) => f.type),
    8,
  );

/** The least and the greatest value a field holds. */
export const isSignedField = (type: FieldType): boolean =>
  typeof type === 'string' && type !== 'bool' && isSigned(type);
export const isWideField = (type: FieldType): boolean =>
  typeof type === 'string' && type !== 'bool' && bitsOf(type) === 64;

// The objects

/** Where an engine keeps a part of an aggregate. Read at any time, whatever is being added. */
export type Source<S extends Shape> = S extends TableShape
  ? TableSource
  : S extends EventsShape
    ? EventsSource
    : CellSource;

export interface CellSource {
  /** What has been added there, merged. */
  cell(): BigInt64Array;
  /** All of it away. */
  clear(): void;
}
export interface TableSource {
  /** Keys as they lie in memory. */
  entries(): Iterable<{ readonly key: Uint8Array; readonly cell: BigInt64Array }>;
  overflow(): bigint;
  clear(): void;
}
export interface EventsSource {
  /** Events that found no room. */
  lost(): bigint;
}

/** What handlers write to and programs read. Made by `counter`, `histogram`, …: `aggregates.ts`. */
export interface Aggregate<S extends Shape = Shape> {
  readonly shape: S;
  /**
   * An engine has a part of it from now on. The returned function ends that: what was there then is kept.
   * For engines.
   */
  [ATTACH](source: Source<S>): () => void;
}

/** The same of events: records as `layOutEvent` has them, one after the other, each with a header of eight bytes. */
export const ATTACH = Symbol('uprobe.attach');
/** Hands records over: those of `EventsShape`. The bytes are the receiver's. */
export const DELIVER = Symbol('uprobe.deliver');

export interface EventsAggregate extends Aggregate<EventsShape> {
  /**
   * Records in the form of the kernel's ring buffers (include/uapi/linux/bpf.h, kernel/bpf/ringbuf.c): a header of 32 bits with the
   * length (bit 30: to be left out), 32 bits of the kernel's own, then the record, filled up to a multiple of eight.
   */
  [DELIVER](chunk: Uint8Array): void;
}
