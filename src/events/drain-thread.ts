/** The thread that empties rings. Its event loop turns, and it sleeps the longer the less there is to do. */
import { setPriority } from 'node:os';
import { workerData } from 'node:worker_threads';
import { PerfRingReader } from '../linux/perf-ring.js';
import { RingReader } from '../linux/ring.js';
import { takeBatch } from './batch.js';
import { WORD, type DrainInit, type Order } from './protocol.js';

const { port, loaded } = workerData as DrainInit;

/** At most so much at a time, and so much on its way: what does not fit any more the kernel counts as lost. */
const CHUNK_BYTES = 1 << 20;
const UNDER_WAY_BYTES = 64 << 20;
/** Pauses, ms. */
const BUSY = 1;
const IDLE = 10;

/** Empties what it is for as far as it may: whether there was anything. */
type DrainOne = () => boolean;
const rings = new Map<number, DrainOne>();
let pause = IDLE;
let timer: NodeJS.Timeout | undefined;

function pass(): void {
  let found = false;
  for (const drainOne of rings.values()) found = drainOne() || found;
  pause = found ? BUSY : Math.min(IDLE, pause * 2);
  timer = rings.size > 0 ? setTimeout(pass, pause) : undefined;
}

function drain(id: number, reader: RingReader, words: Int32Array): boolean {
  let found = false;
  while (Atomics.load(words, WORD.underWay) < UNDER_WAY_BYTES) {
    if (Atomics.compareExchange(words, WORD.lock, 0, 1) !== 0) break;
    const bytes = reader.take(CHUNK_BYTES);
    if (bytes !== undefined) {
      Atomics.add(words, WORD.underWay, bytes.length);
      port.postMessage({ id, bytes }, [bytes.buffer as ArrayBuffer]);
      found = true;
    }
    Atomics.store(words, WORD.lock, 0);
    if (bytes === undefined || bytes.length < CHUNK_BYTES / 2) break;
  }
  return found;
}

/** Several rings, all of what they have. Whoever gets it must also be told that nothing has come since. */
function drainAll(id: number, readers: readonly PerfRingReader[], words: Int32Array): DrainOne {
  let found = false;
  return () => {
    if (Atomics.load(words, WORD.underWay) >= UNDER_WAY_BYTES) return true;
    if (Atomics.compareExchange(words, WORD.lock, 0, 1) !== 0) return true;
    const before = found;
    const batch = takeBatch(readers);
    found = batch.pieces.length > 0;
    if (found || before) {
      for (const piece of batch.pieces) Atomics.add(words, WORD.underWay, piece.length);
      port.postMessage(
        { id, ...batch },
        batch.pieces.map((piece) => piece.buffer as ArrayBuffer),
      );
    }
    Atomics.store(words, WORD.lock, 0);
    return found || before;
  };
}

port.on('message', (order: Order) => {
  if (order.kind === 'remove') {
    rings.delete(order.id);
    return;
  }
  const { id, words } = order;
  if (order.kind === 'add') {
    const reader = new RingReader(order.ring);
    rings.set(id, () => drain(id, reader, words));
  } else {
    rings.set(
      id,
      drainAll(
        id,
        order.rings.map((ring) => new PerfRingReader(ring)),
        words,
      ),
    );
  }
  if (timer !== undefined) clearTimeout(timer);
  pause = BUSY;
  pass();
});

// What makes events takes all of its processor: whoever empties the rings must get one in time. Needs CAP_SYS_NICE; 0 is this
// thread alone (setpriority(2), "C library/kernel differences").
try {
  setPriority(0, -10);
} catch {
  // as it is, then
}

Atomics.store(loaded, 0, 1);
Atomics.notify(loaded, 0);
