/**
 * A hit costs a quarter when tracer and target share a CPU: the stop and the resume are then switches, not wake-ups
 * of another CPU. So the tracer goes where the thread that hits most is, and goes free again when there are several.
 */
import { availableParallelism } from 'node:os';
import { allows, getAffinity, lastCpu, onlyCpu, setAffinity } from '../../linux/affinity.js';
import type { Thread } from './thread.js';

/** Hits in a row by one thread before its CPU is looked up; a look costs about as much as a hit. */
const STREAK = 256;

export class FollowCpu {
  readonly #all = getAffinity();
  readonly #alone = availableParallelism() === 1;
  #tid = 0;
  #streak = 0;
  #strangers = 0;
  #pinned = -1;

  hit(thread: Thread): void {
    if (this.#alone) return;
    if (thread.tid === this.#tid) {
      if (++this.#streak % STREAK === 0) this.#follow(thread);
      return;
    }
    this.#tid = thread.tid;
    this.#streak = 0;
    if (this.#pinned >= 0 && ++this.#strangers > STREAK) this.#release();
  }

  #follow(thread: Thread): void {
    this.#strangers = 0;
    const cpu = lastCpu(thread.process.pid, thread.tid);
    if (cpu === this.#pinned || cpu < 0 || !allows(this.#all, cpu)) return;
    setAffinity(onlyCpu(cpu));
    this.#pinned = cpu;
  }

  #release(): void {
    setAffinity(this.#all);
    this.#pinned = -1;
    this.#strangers = 0;
  }
}
