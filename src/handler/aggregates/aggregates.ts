/** Where handlers leave what they find, and programs read it: the makers. */
import { linearBuckets, type LinearShape } from '../shapes.js';
import { Counter, Histogram, LinearHistogram, Stats } from './cells.js';
import { Events, type EventSchema, type EventsOptions } from './events.js';
import { toInteger, type Integer } from './integer.js';
import { Table, type KeyType, type TableCell, type TableOptions } from './table.js';

/**
 * A sum of what handlers add, 1 if they say nothing else.
 *
 *     const calls = counter();
 *     … preHandler: () => calls.add() …
 *     console.log(calls.value);
 */
export const counter = (): Counter => new Counter();

/** How many values there were of each power of two: 0, 1, 2 to 3, 4 to 7, … and of negative ones. */
export const histogram = (): Histogram => new Histogram();

export interface LinearHistogramOptions {
  /** Where the first bucket begins. Less is counted in a bucket of its own. */
  readonly min: Integer;
  /** Where the last bucket ends. What is not less is counted in a bucket of its own. */
  readonly max: Integer;
  /** The width of a bucket; the last is narrower where the range is no multiple of it. */
  readonly step: Integer;
}

/**
 * With the two for what is out of range: values in maps with a copy for each CPU have at most 32 KiB (PCPU_MIN_UNIT_SIZE,
 * include/linux/percpu.h).
 */
const MOST_BUCKETS = 4096 - 2;

/** How many values there were in each `step` from `min` to `max`. */
export function linearHistogram(options: LinearHistogramOptions): LinearHistogram {
  const shape: LinearShape = {
    kind: 'linear',
    min: toInteger('linearHistogram: min', options.min),
    max: toInteger('linearHistogram: max', options.max),
    step: toInteger('linearHistogram: step', options.step),
  };
  const { min, max, step } = shape;
  if (min >= max) throw new RangeError(`linearHistogram: min (${min}) must be less than max (${max})`);
  if (step < 1n) throw new RangeError(`linearHistogram: step must be at least 1, not ${step}`);
  if (linearBuckets(shape) > MOST_BUCKETS)
    throw new RangeError(
      `linearHistogram: ${linearBuckets(shape)} buckets are too many: make step at least ${(max - min + BigInt(MOST_BUCKETS) - 1n) / BigInt(MOST_BUCKETS)}, for ${MOST_BUCKETS}`,
    );
  return new LinearHistogram(shape);
}

/** Count, sum, least, greatest and mean of values. */
export const stats = (): Stats => new Stats();

/**
 * An aggregate for each key.
 *
 *     const calls = table({ key: ['u32', string(16)], value: counter, capacity: 10_000 });
 *     … preHandler: (hit) => calls.at(hit.pid, hit.comm).add() …
 *     for (const { key: [pid, comm], value } of calls) console.log(pid, comm, value.value);
 */
export const table = <const K extends KeyType, C extends TableCell>(
  options: TableOptions<K, C>,
): Table<K, C> => new Table(options);

/**
 * A stream of events.
 *
 *     const opens = events({ pid: 'u32', path: string(256) });
 *     … preHandler: (hit) => opens.emit({ pid: hit.pid, path: hit.readString(hit.arg(0)) }) …
 *     for await (const { pid, path } of opens) console.log(pid, path);
 */
export const events = <const S extends EventSchema>(schema: S, options?: EventsOptions): Events<S> =>
  new Events(schema, options);
