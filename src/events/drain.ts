/** Emptying the rings that the kernel, or programs in it, write events to: a thread copies them out, this side hands them over. */
import { receiveMessageOnPort } from 'node:worker_threads';
import { mapRing, unmapRing } from '../linux/bpf.js';
import { LOADING_MS } from '../linux/loading-thread.js';
import { PerfRingReader, type PerfRing } from '../linux/perf-ring.js';
import { RingReader } from '../linux/ring.js';
import { takeBatch } from './batch.js';
import { takeDrain, type DrainThread } from './drain-worker.js';
import { WORD, type Chunk, type Order, type SampleBatch } from './protocol.js';

/** How often we look whether the thread is there, ms. */
const STARTING_MS = 1;
const WHOLE = 1 << 30;

/** A ring that is being emptied. */
export interface DrainedRing {
  /** Hand over what is left, and let go of it. Nobody writes to it any more. */
  close(): void;
}

/** Rings that are emptied together. */
export interface DrainedRings {
  /** Hand over, at once, what is finished now. */
  flush(): void;
  /** The same, and let go of them: whose they are unmaps them. */
  close(): void;
}

interface Drained {
  readonly words: Int32Array;
  take(chunk: Chunk): void;
  /** Hand over what is left. The thread does not read it now. */
  rest(): void;
  end(): void;
}

export class Drain {
  readonly #rings = new Map<number, Drained>();
  #lastId = 0;
  #thread: DrainThread | undefined;

  /** Begin to empty a ring (a map of the kernel) of so many bytes. */
  add(fd: number, bytes: number, deliver: (bytes: Uint8Array) => void): DrainedRing {
    const ring = mapRing(fd, bytes);
    const reader = new RingReader(ring);
    const words = new Int32Array(new SharedArrayBuffer(8));
    const id = ++this.#lastId;
    this.#rings.set(id, {
      words,
      take: (chunk) => {
        if (!('bytes' in chunk)) return;
        Atomics.sub(words, WORD.underWay, chunk.bytes.length);
        deliver(chunk.bytes);
      },
      rest: () => {
        const left = reader.take(WHOLE);
        if (left !== undefined) deliver(left);
      },
      end: () => unmapRing(ring),
    });
    this.#send({ kind: 'add', id, ring, words });
    return { close: () => this.#remove(id) };
  }

  /** Begin to empty rings of perf events, one of each CPU. */
  addAll(rings: readonly PerfRing[], deliver: (batch: SampleBatch) => void): DrainedRings {
    const readers = rings.map((ring) => new PerfRingReader(ring));
    const words = new Int32Array(new SharedArrayBuffer(8));
    const id = ++this.#lastId;
    this.#rings.set(id, {
      words,
      take: (chunk) => {
        if (!('pieces' in chunk)) return;
        for (const piece of chunk.pieces) Atomics.sub(words, WORD.underWay, piece.length);
        deliver(chunk);
      },
      rest: () => deliver(takeBatch(readers)),
      end: () => undefined,
    });
    this.#send({ kind: 'addAll', id, rings: rings.map(({ address, bytes }) => ({ address, bytes })), words });
    return { flush: () => this.#flush(id), close: () => this.#remove(id) };
  }

  #send(order: Order): void {
    this.#thread ??= this.#start();
    this.#thread.port.postMessage(order);
  }

  #start(): DrainThread {
    const thread = takeDrain();
    thread.port.on('message', (chunk: Chunk) => this.#take(chunk));
    thread.port.unref(); // after the listener, which keeps the process alive
    return thread;
  }

  /** Resolves when the thread that empties rings is there: it takes tens of milliseconds to start, in which one can be full. */
  async ready(): Promise<void> {
    const { loaded } = this.#thread ?? {};
    const end = performance.now() + LOADING_MS;
    while (loaded !== undefined && Atomics.load(loaded, 0) === 0 && performance.now() < end)
      await new Promise((resolve) => setTimeout(resolve, STARTING_MS));
  }

  #take(chunk: Chunk): void {
    this.#rings.get(chunk.id)?.take(chunk);
  }

  /** What the thread has taken out comes first. */
  #takeAll(): void {
    for (let m = receiveMessageOnPort(this.#thread!.port); m; m = receiveMessageOnPort(this.#thread!.port))
      this.#take(m.message as Chunk);
  }

  /** The thread holds it for the length of a copy. */
  #lock(words: Int32Array): void {
    while (Atomics.compareExchange(words, WORD.lock, 0, 1) !== 0) Atomics.wait(words, WORD.lock, 1, 1);
  }

  #flush(id: number): void {
    const drained = this.#rings.get(id);
    if (drained === undefined) return;
    this.#lock(drained.words);
    this.#takeAll();
    drained.rest();
    Atomics.store(drained.words, WORD.lock, 0);
  }

  #remove(id: number): void {
    const drained = this.#rings.get(id);
    if (drained === undefined) return;
    // From here on it is ours for good.
    this.#lock(drained.words);
    this.#send({ kind: 'remove', id });
    this.#takeAll();
    this.#rings.delete(id);
    drained.rest();
    drained.end();
  }

  /** End the thread. */
  async close(): Promise<void> {
    for (const id of [...this.#rings.keys()]) this.#remove(id);
    const thread = this.#thread;
    this.#thread = undefined;
    thread?.port.close();
    await thread?.worker.terminate();
  }
}
