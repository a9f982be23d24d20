/** A stream of small records with the same fields. */
import type { EventsAggregate, EventsShape, EventsSource, FieldType } from '../shapes.js';
import { ATTACH, DELIVER, layOutEvent } from '../shapes.js';
import { checkedType, normalizer } from './fields.js';
import type { FieldInput, FieldValue, Normalize } from './fields.js';
import { eventDecoder, type AnyEvent, type Decode } from './records.js';

/** The fields of an event: names and types. At most 64. */
export type EventSchema = Readonly<Record<string, FieldType>>;
/** An event, to write: all fields; one for which there is no value is undefined. */
export type EventInput<S extends EventSchema> = {
  readonly [N in keyof S]: FieldInput<S[N]> | undefined;
};
/** An event, read. */
export type EventOf<S extends EventSchema> = { readonly [N in keyof S]: FieldValue<S[N]> | undefined };

export interface EventsOptions {
  /** What an engine keeps of those that have not been read, in bytes: a power of two, at least 4096. By default 4 MiB. */
  readonly buffer?: number;
  /** How many events may wait here for who reads them; more are dropped and counted (`lost`). By default 65,536. */
  readonly queue?: number;
}

export interface EventsJson {
  readonly delivered: number;
  readonly waiting: number;
  readonly lost: number;
}

const BUFFER = 4 << 20;
const LEAST_BUFFER = 4096;
const MOST_BUFFER = 1 << 30;
const QUEUE = 1 << 16;
const MOST_FIELDS = 64;

/** kernel/bpf/ringbuf.c; include/uapi/linux/bpf.h: BPF_RINGBUF_DISCARD_BIT, BPF_RINGBUF_HDR_SZ. */
const BUSY = 1 << 31;
const DISCARD = 1 << 30;
const HEADER = 8;

type Listener = (event: AnyEvent) => void;

const END = { done: true, value: undefined } as const;
interface Reader<E> {
  readonly iterator: AsyncIterator<E, undefined>;
  readonly answer: (result: IteratorResult<E, undefined>) => void;
}

/** Made by {@link events}. */
export class Events<S extends EventSchema> implements EventsAggregate {
  readonly shape: EventsShape;
  readonly #names: readonly string[];
  readonly #decode: Decode;
  readonly #bytes: number;
  readonly #normalize: readonly Normalize[];
  readonly #most: number;
  readonly #queue = new Queue<AnyEvent>();
  /** Iterators that wait for the next event, the first to come first. */
  #readers: Reader<EventOf<S>>[] = [];
  #listeners: readonly Listener[] = [];
  /** Of engines: with what they had lost when it was last cleared. */
  readonly #sources = new Map<EventsSource, bigint>();
  #delivered = 0;
  #lost = 0;
  #closed = false;

  constructor(schema: S, options: EventsOptions = {}) {
    this.shape = shapeOf(schema, options);
    this.#most = checkedQueue(options.queue ?? QUEUE);
    this.#decode = eventDecoder(this.shape);
    this.#bytes = layOutEvent(this.shape).bytes;
    this.#names = this.shape.fields.map((f) => f.name);
    this.#normalize = this.shape.fields.map((f) => normalizer(`events.emit: ${f.name}`, f.type));
  }

  /** Hand an event to whoever reads them. */
  emit(event: EventInput<S>): void {
    const given: Readonly<Record<string, unknown>> = event;
    const made: AnyEvent = {};
    for (let i = 0; i < this.#names.length; i++) {
      const name = this.#names[i]!;
      const value = given[name];
      made[name] = value === undefined ? undefined : this.#normalize[i]!(value);
    }
    if (this.#hasRoom()) this.#give(made);
  }

  /**
   * Be called with each event, at once; those that have waited come first. What it throws is an uncaught exception, and the others
   * get the event nevertheless. The returned function ends that.
   */
  listen(listener: (event: EventOf<S>) => void): () => void {
    // A function of our own: the same listener may be there twice.
    const own: Listener = (event) => {
      try {
        listener(event as EventOf<S>);
      } catch (e) {
        queueMicrotask(() => {
          throw e;
        });
      }
    };
    this.#listeners = [...this.#listeners, own];
    for (let event = this.#queue.take(); event !== undefined; event = this.#queue.take()) this.#give(event);
    return () => {
      this.#listeners = this.#listeners.filter((l) => l !== own);
    };
  }

  /** Each event goes to one of those who iterate. They end when it is closed and everything is read. */
  [Symbol.asyncIterator](): AsyncIterableIterator<EventOf<S>, undefined> {
    let over = false;
    const iterator: AsyncIterableIterator<EventOf<S>, undefined> = {
      next: () => {
        const event = over ? undefined : this.#queue.take();
        if (event !== undefined) {
          this.#delivered++;
          return Promise.resolve({ done: false, value: event as EventOf<S> });
        }
        if (over || this.#closed) return Promise.resolve(END);
        return new Promise((answer) => this.#readers.push({ iterator, answer }));
      },
      return: () => {
        over = true;
        this.#dismiss((reader) => reader.iterator === iterator);
        return Promise.resolve(END);
      },
      [Symbol.asyncIterator]: () => iterator,
    };
    return iterator;
  }

  /** Tell those who wait for an event that none will come. */
  #dismiss(whom: (reader: Reader<EventOf<S>>) => boolean): void {
    const gone = this.#readers.filter(whom);
    this.#readers = this.#readers.filter((reader) => !whom(reader));
    for (const { answer } of gone) answer(END);
  }

  /** Events handed to someone who reads them. */
  get delivered(): number {
    return this.#delivered;
  }
  /** Events that wait for someone to read them. */
  get waiting(): number {
    return this.#queue.size;
  }
  /** Events that nobody will get: there was no room for them, here or in an engine, or it was closed. */
  get lost(): number {
    let sum = this.#lost;
    for (const [source, before] of this.#sources) sum += Number(source.lost() - before);
    return sum;
  }

  /** Forget the events that wait, and all counts. */
  clear(): void {
    this.#queue.clear();
    this.#delivered = 0;
    this.#lost = 0;
    for (const source of this.#sources.keys()) this.#sources.set(source, source.lost());
  }

  /** No more events: what iterates ends after those that wait. */
  close(): void {
    this.#closed = true;
    this.#listeners = [];
    this.#dismiss(() => true);
  }

  toJSON(): EventsJson {
    return { delivered: this.delivered, waiting: this.waiting, lost: this.lost };
  }

  /** For engines. */
  [ATTACH](source: EventsSource): () => void {
    this.#sources.set(source, 0n);
    return () => {
      const before = this.#sources.get(source);
      if (before === undefined) return;
      this.#lost += Number(source.lost() - before);
      this.#sources.delete(source);
    };
  }

  /** For engines. */
  [DELIVER](chunk: Uint8Array): void {
    const view = new DataView(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    const decode = this.#decode;
    for (let at = 0; at + HEADER <= chunk.length;) {
      const header = view.getUint32(at, true);
      const length = header & ~(BUSY | DISCARD);
      const record = at + HEADER;
      at = record + ((length + 7) & ~7);
      if ((header & DISCARD) !== 0) continue;
      // A ring may lie in memory that a program can write to: what is no event is lost.
      if (length < this.#bytes || at > chunk.length) this.#lost++;
      else if (this.#hasRoom()) this.#give(decode(chunk, view, record));
    }
  }

  /** Whether someone takes the next event, or it can wait; else it is lost. */
  #hasRoom(): boolean {
    if (this.#closed) return this.#lose();
    if (this.#listeners.length > 0 || this.#readers.length > 0) return true;
    return this.#queue.size < this.#most || this.#lose();
  }
  #lose(): false {
    this.#lost++;
    return false;
  }

  #give(event: AnyEvent): void {
    const reader = this.#readers.shift();
    if (reader === undefined && this.#listeners.length === 0) {
      this.#queue.put(event);
      return;
    }
    this.#delivered++;
    reader?.answer({ done: false, value: event as EventOf<S> });
    for (const listener of this.#listeners) listener(event);
  }
}

/** First in, first out. */
class Queue<T> {
  #items: (T | undefined)[] = [];
  #first = 0;

  get size(): number {
    return this.#items.length - this.#first;
  }
  put(item: T): void {
    this.#items.push(item);
  }
  take(): T | undefined {
    if (this.#first === this.#items.length) return undefined;
    const item = this.#items[this.#first];
    this.#items[this.#first++] = undefined;
    if (this.#first === this.#items.length) this.clear();
    else if (this.#first > 1024 && this.#first * 2 > this.#items.length) this.#shrink();
    return item;
  }
  #shrink(): void {
    this.#items = this.#items.slice(this.#first);
    this.#first = 0;
  }
  clear(): void {
    this.#items = [];
    this.#first = 0;
  }
}

function shapeOf(schema: EventSchema, { buffer = BUFFER }: EventsOptions): EventsShape {
  const fields = Object.entries(schema).map(([name, type]) => ({
    name: checkedName(name),
    type: checkedType(`events: ${name}`, type),
  }));
  if (fields.length < 1 || fields.length > MOST_FIELDS)
    throw new RangeError(`events: an event has 1 to ${MOST_FIELDS} fields, not ${fields.length}`);
  if (
    !Number.isInteger(buffer) ||
    buffer < LEAST_BUFFER ||
    buffer > MOST_BUFFER ||
    (buffer & (buffer - 1)) !== 0
  )
    throw new RangeError(
      `events: buffer: ${String(buffer)} is no power of two from ${LEAST_BUFFER} to ${MOST_BUFFER}`,
    );
  return { kind: 'events', fields, buffer };
}

/** What stands for a property in a program; `__proto__` is none of an object's own. */
function checkedName(name: string): string {
  if (/^[\p{ID_Start}$_][\p{ID_Continue}$]*$/u.test(name) && name !== '__proto__') return name;
  throw new TypeError(`events: ${JSON.stringify(name)} is no name for a field`);
}

function checkedQueue(most: number): number {
  if (!Number.isInteger(most) || most < 1)
    throw new RangeError(`events: queue: at least one event must find room, not ${String(most)}`);
  return most;
}
