/** A cell for each key. */
import type { CellShape, FieldType, TableShape, TableSource } from '../shapes.js';
import { ATTACH, layOut, type Aggregate, type Field } from '../shapes.js';
import {
  KEEP,
  makeCell,
  type Cell,
  type Counter,
  type Histogram,
  type LinearHistogram,
  type Stats,
} from './cells.js';
import { checkedType, jsonOf, normalizer } from './fields.js';
import type { AnyFieldValue, FieldInput, FieldValue, Normalize } from './fields.js';
import type { Integer } from './integer.js';
import { mergeCell } from './parts.js';
import { KeyMap, type Key } from './key-map.js';
import { readField } from './records.js';
import { CounterView, HistogramView, LinearHistogramView, StatsView, WORDS } from './views.js';

/** The type of a key: one field, or several. */
export type KeyType = FieldType | readonly [FieldType, ...FieldType[]];
/** A key, to write. */
export type KeyInput<K extends KeyType> = K extends readonly FieldType[]
  ? { readonly [I in keyof K]: K[I] extends FieldType ? FieldInput<K[I]> : never }
  : K extends FieldType
    ? readonly [FieldInput<K>]
    : never;
/** A key, read. */
export type KeyValue<K extends KeyType> = K extends readonly FieldType[]
  ? { readonly [I in keyof K]: K[I] extends FieldType ? FieldValue<K[I]> : never }
  : K extends FieldType
    ? readonly [FieldValue<K>]
    : never;

/** What a table can have for each key. */
export type TableCell = Counter | Histogram | LinearHistogram | Stats;
/** What a handler can do with the cell of a key. */
export type Adder<C extends TableCell> = Pick<C, 'add'>;
/** What can be read of the cell of a key. */
export type CellView<C extends TableCell> = C extends Counter
  ? CounterView
  : C extends Histogram
    ? HistogramView
    : C extends LinearHistogram
      ? LinearHistogramView
      : StatsView;

export interface TableOptions<K extends KeyType, C extends TableCell> {
  /** The type of the key, or a list of types. */
  readonly key: K;
  /** What there is for each key: `counter`, `histogram`, `stats`, `() => linearHistogram(…)`. */
  readonly value: () => C;
  /** Keys. What is added for one more is not kept, but counted: `overflow`. */
  readonly capacity: number;
}

/** One key and what was added for it, as it was when it was read. */
export interface TableEntry<K extends KeyType, C extends TableCell> {
  readonly key: KeyValue<K>;
  readonly value: CellView<C>;
}

export interface TableJson {
  readonly entries: readonly {
    readonly key: readonly (number | boolean | string)[];
    readonly value: unknown;
  }[];
  readonly overflow: number;
}

interface Entry {
  readonly key: Key;
  readonly cell: Cell;
}
interface Words {
  readonly key: Key;
  readonly words: BigInt64Array;
}

/** The limit of a JavaScript Map. */
const MOST_KEYS = 2 ** 24;

/** Made by {@link table}. */
export class Table<K extends KeyType, C extends TableCell> implements Aggregate<TableShape> {
  readonly shape: TableShape;
  readonly #fields: readonly Field[];
  readonly #normalize: readonly Normalize[];
  readonly #cells = new KeyMap<Entry>();
  /** The same, in the order in which they came. */
  #entries: Entry[] = [];
  readonly #sources = new Set<TableSource>();
  #overflow = 0;

  constructor(options: TableOptions<K, C>) {
    this.shape = shapeOf(options);
    this.#fields = layOut(this.shape.key).fields;
    this.#normalize = this.shape.key.map((type, i) => normalizer(`field ${i + 1} of the key`, type));
  }

  /** What the handler adds to: `.at(key).add(value)`. A key of several fields is given field by field. */
  at(...key: KeyInput<K>): Adder<C>;
  at(...given: readonly unknown[]): Adder<TableCell> {
    // More fields than there are would be found, too.
    const known = given.length === this.#normalize.length && this.#cells.find(given, this.#normalize);
    return known ? known.cell : new NewKey(this.#add, this.#normalized(given));
  }

  readonly #add: Add = (key, values) => {
    const known = this.#cells.get(key);
    if (known !== undefined) return known.cell.add(...(values as []));
    const cell = makeCell(this.shape.cell);
    cell.add(...(values as []));
    if (this.#cells.size >= this.shape.capacity) this.#overflow++;
    else this.#put({ key, cell });
  };

  #put(entry: Entry): Entry {
    this.#cells.add(entry.key, entry);
    this.#entries.push(entry);
    return entry;
  }

  #normalized(given: readonly unknown[]): Key {
    const normalize = this.#normalize;
    if (given.length !== normalize.length)
      throw new TypeError(`the table has a key of ${normalize.length} fields, not ${given.length}`);
    const key: AnyFieldValue[] = [];
    for (let i = 0; i < normalize.length; i++) key.push(normalize[i]!(given[i]));
    return key;
  }

  /** All keys with what was added for them, wherever it is kept; in no order that means anything. */
  entries(): TableEntry<K, C>[] {
    return this.#merged().map((entry) => this.#view(entry));
  }

  /** The first n entries, from the greatest down: by a counter's value, a histogram's count, the sum of stats. */
  top(n: number): TableEntry<K, C>[] {
    const ranked = this.entries().map((entry) => ({ entry, rank: rankOf(entry.value) }));
    ranked.sort((a, b) => (a.rank < b.rank ? 1 : a.rank > b.rank ? -1 : 0));
    return ranked.slice(0, n).map(({ entry }) => entry);
  }

  /** What was added for a key; undefined where nothing was. Where an engine has a part of it all keys are read: for many, `entries`. */
  get(...key: KeyInput<K>): CellView<C> | undefined;
  get(...key: readonly unknown[]): CellView<C> | undefined {
    const wanted = this.#normalized(key);
    const words =
      this.#sources.size === 0
        ? this.#cells.get(wanted)?.cell[WORDS]()
        : this.#merged().find((entry) => entry.key.every((field, i) => field === wanted[i]))?.words;
    return words === undefined ? undefined : (viewOf(this.shape.cell, words) as CellView<C>);
  }

  [Symbol.iterator](): Iterator<TableEntry<K, C>> {
    return this.entries()[Symbol.iterator]();
  }

  /** How many keys there are. */
  get size(): number {
    return this.#sources.size === 0 ? this.#cells.size : this.#merged().length;
  }

  /** How often something was added for a key for which there was no room. */
  get overflow(): number {
    let sum = this.#overflow;
    for (const source of this.#sources) sum += Number(source.overflow());
    return sum;
  }

  /** Forget all keys, wherever they are kept. */
  clear(): void {
    this.#cells.clear();
    this.#entries = [];
    this.#overflow = 0;
    for (const source of this.#sources) source.clear();
  }

  toJSON(): TableJson {
    const entries = this.entries().map(({ key, value }) => ({
      key: (key as readonly AnyFieldValue[]).map(jsonOf),
      value: value.toJSON(),
    }));
    return { entries, overflow: this.overflow };
  }

  /** For engines. */
  [ATTACH](source: TableSource): () => void {
    this.#sources.add(source);
    return () => {
      if (!this.#sources.has(source)) return;
      // What was kept once stays, also beyond the capacity.
      for (const { key, words } of this.#read(source)) {
        const known = this.#cells.get(key) ?? this.#put({ key, cell: makeCell(this.shape.cell) });
        known.cell[KEEP](words);
      }
      this.#overflow += Number(source.overflow());
      this.#sources.delete(source);
    };
  }

  *#read(source: TableSource): Iterable<Words> {
    for (const { key, cell } of source.entries()) {
      const view = new DataView(key.buffer, key.byteOffset, key.byteLength);
      const fields = this.#fields.map((field) => readField(field, key, view, 0));
      yield { key: this.#normalized(fields), words: cell };
    }
  }

  #merged(): Words[] {
    const merged = this.#entries.map(({ key, cell }) => ({ key, words: cell[WORDS]() }));
    if (this.#sources.size === 0) return merged;
    const found = new KeyMap<Words>();
    for (const entry of merged) found.add(entry.key, entry);
    for (const source of this.#sources) {
      for (const entry of this.#read(source)) {
        const known = found.get(entry.key);
        if (known !== undefined) {
          mergeCell(this.shape.cell, known.words, entry.words);
          continue;
        }
        // The source's words are its own.
        const own = { key: entry.key, words: entry.words.slice() };
        found.add(own.key, own);
        merged.push(own);
      }
    }
    return merged;
  }

  #view({ key, words }: Words): TableEntry<K, C> {
    return { key: key as KeyValue<K>, value: viewOf(this.shape.cell, words) as CellView<C> };
  }
}

type Add = (key: Key, values: readonly [] | readonly [Integer]) => void;

/** Of a key that has no cell yet: it gets one when something is added. */
class NewKey {
  readonly #add: Add;
  readonly #key: Key;

  constructor(add: Add, key: Key) {
    this.#add = add;
    this.#key = key;
  }
  add(...values: readonly [] | readonly [Integer]): void {
    this.#add(this.#key, values);
  }
}

export function viewOf(
  shape: CellShape,
  words: BigInt64Array,
): CounterView | HistogramView | LinearHistogramView | StatsView {
  switch (shape.kind) {
    case 'counter':
      return new CounterView(words);
    case 'histogram':
      return new HistogramView(words);
    case 'linear':
      return new LinearHistogramView(shape, words);
    case 'stats':
      return new StatsView(words);
  }
}

function rankOf(view: CounterView | HistogramView | LinearHistogramView | StatsView): bigint | number {
  if (view instanceof CounterView) return view.value;
  return view instanceof StatsView ? view.sum : view.count;
}

function shapeOf({ key, value, capacity }: TableOptions<KeyType, TableCell>): TableShape {
  const types: readonly unknown[] = Array.isArray(key) ? key : [key];
  if (types.length === 0) throw new TypeError('table: a key needs at least one field');
  if (!Number.isInteger(capacity) || capacity < 1 || capacity > MOST_KEYS)
    throw new RangeError(
      `table: capacity: a table has room for 1 to ${MOST_KEYS} keys, not ${String(capacity)}`,
    );
  const cell: unknown = typeof value === 'function' ? value() : undefined;
  if (typeof cell !== 'object' || cell === null || !(KEEP in cell))
    throw new TypeError(
      'table: value: give what makes a cell: counter, histogram, stats, or () => linearHistogram({ … })',
    );
  return {
    kind: 'table',
    key: types.map((type, i) => checkedType(`table: field ${i + 1} of the key`, type)),
    cell: (cell as Cell).shape,
    capacity,
  };
}
