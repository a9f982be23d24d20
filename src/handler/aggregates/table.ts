/** A cell for each key. */
import type { CellShape, FieldType, TableShape, TableSource } from '../shapes.js';
import { ATTACH, emptyCell, layOut, type Aggregate, type Field } from '../shapes.js';
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

/** Keys are found by one value: that of their only field, or a string of all. */
type Id = AnyFieldValue;
interface Words {
  readonly key: readonly AnyFieldValue[];
  readonly words: BigInt64Array;
}

/** The limit of a JavaScript Map. */
const MOST_KEYS = 2 ** 24;

/** Made by {@link table}. */
export class Table<K extends KeyType, C extends TableCell> implements Aggregate<TableShape> {
  readonly shape: TableShape;
  readonly #fields: readonly Field[];
  readonly #normalize: readonly Normalize[];
  readonly #cells = new Map<Id, { readonly key: readonly AnyFieldValue[]; readonly cell: Cell }>();
  readonly #sources = new Set<TableSource>();
  #overflow = 0;

  constructor(options: TableOptions<K, C>) {
    this.shape = shapeOf(options);
    this.#fields = layOut(this.shape.key).fields;
    this.#normalize = this.shape.key.map((type, i) => normalizer(`field ${i + 1} of the key`, type));
  }

  /** What the handler adds to: `.at(key).add(value)`. A key of several fields is given field by field. */
  at(...key: KeyInput<K>): Adder<C>;
  at(...key: readonly unknown[]): Adder<TableCell> {
    const id = this.#idOf(key);
    return this.#cells.get(id)?.cell ?? new NewKey(this.#add, id, key);
  }

  readonly #add: Add = (id, key, values) => {
    const known = this.#cells.get(id);
    if (known !== undefined) return known.cell.add(...(values as []));
    const cell = makeCell(this.shape.cell);
    cell.add(...(values as []));
    if (this.#cells.size >= this.shape.capacity) this.#overflow++;
    else this.#cells.set(id, { key: this.#normalized(key), cell });
  };

  #normalized(key: readonly unknown[]): AnyFieldValue[] {
    return this.#normalize.map((normalize, i) => normalize(key[i]));
  }

  #idOf(key: readonly unknown[]): Id {
    const normalize = this.#normalize;
    if (key.length !== normalize.length)
      throw new TypeError(`the table has a key of ${normalize.length} fields, not ${key.length}`);
    let id = normalize[0]!(key[0]);
    // No string has a NUL.
    for (let i = 1; i < normalize.length; i++) id = `${id}\0${normalize[i]!(key[i])}`;
    return id;
  }

  /** All keys with what was added for them, wherever it is kept; in no order that means anything. */
  entries(): TableEntry<K, C>[] {
    return [...this.#merged().values()].map((entry) => this.#view(entry));
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
    const id = this.#idOf(key);
    const words =
      this.#sources.size === 0 ? this.#cells.get(id)?.cell[WORDS]() : this.#merged().get(id)?.words;
    return words === undefined ? undefined : (viewOf(this.shape.cell, words) as CellView<C>);
  }

  [Symbol.iterator](): Iterator<TableEntry<K, C>> {
    return this.entries()[Symbol.iterator]();
  }

  /** How many keys there are. */
  get size(): number {
    return this.#sources.size === 0 ? this.#cells.size : this.#merged().size;
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
      for (const { key, words } of this.#read(source)) this.#keep(key, words);
      this.#overflow += Number(source.overflow());
      this.#sources.delete(source);
    };
  }

  /** What was kept once stays, also beyond the capacity. */
  #keep(key: readonly AnyFieldValue[], words: BigInt64Array): void {
    const id = this.#idOf(key);
    let known = this.#cells.get(id);
    if (known === undefined) this.#cells.set(id, (known = { key, cell: makeCell(this.shape.cell) }));
    known.cell[KEEP](words);
  }

  *#read(source: TableSource): Iterable<Words> {
    for (const { key, cell } of source.entries()) {
      const view = new DataView(key.buffer, key.byteOffset, key.byteLength);
      yield { key: this.#fields.map((field) => readField(field, key, view, 0)), words: cell };
    }
  }

  #merged(): Map<Id, Words> {
    const merged = new Map<Id, Words>();
    for (const [id, { key, cell }] of this.#cells) merged.set(id, { key, words: cell[WORDS]() });
    for (const source of this.#sources) {
      for (const { key, words } of this.#read(source)) {
        const id = this.#idOf(key);
        let known = merged.get(id);
        if (known === undefined) merged.set(id, (known = { key, words: emptyCell(this.shape.cell) }));
        mergeCell(this.shape.cell, known.words, words);
      }
    }
    return merged;
  }

  #view({ key, words }: Words): TableEntry<K, C> {
    return { key: key as KeyValue<K>, value: viewOf(this.shape.cell, words) as CellView<C> };
  }
}

type Add = (id: Id, key: readonly unknown[], values: readonly [] | readonly [Integer]) => void;

/** Of a key that has no cell yet: it gets one when something is added. */
class NewKey {
  readonly #add: Add;
  readonly #id: Id;
  readonly #key: readonly unknown[];

  constructor(add: Add, id: Id, key: readonly unknown[]) {
    this.#add = add;
    this.#id = id;
    this.#key = key;
  }
  add(...values: readonly [] | readonly [Integer]): void {
    this.#add(this.#id, this.#key, values);
  }
}

function viewOf(
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
