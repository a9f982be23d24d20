/** Emptying several rings at once. */
import type { PerfRingReader } from '../linux/perf-ring.js';
import type { SampleBatch } from './protocol.js';

/**
 * A thread goes to another CPU only when its record on this one is finished. So of one thread nothing is missing before the time at which
 * we began, whatever is finished while we read.
 */
export function takeBatch(readers: readonly PerfRingReader[]): SampleBatch {
  const upTo = Number(process.hrtime.bigint()); // CLOCK_MONOTONIC
  const pieces: Uint8Array[] = [];
  for (const reader of readers) {
    const piece = reader.take();
    if (piece !== undefined) pieces.push(piece);
  }
  return { pieces, upTo };
}
