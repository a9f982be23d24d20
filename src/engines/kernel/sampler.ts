/**
 * The samples of all uprobes, in the order of their times: a ring for each CPU, emptied by a thread (events/drain.ts), and handed on here to
 * whoever they are of.
 */
import type { Drain, DrainedRings } from '../../events/drain.js';
import type { SampleBatch } from '../../events/protocol.js';
import { onlineCpus } from '../../linux/cpus.js';
import { closePerfRing, openPerfRings, type OpenRing } from '../../linux/perf-ring.js';
import { idOf, readRecords, RECORD, type PerfRecord } from '../../linux/perf-records.js';
import { Comms } from './comms.js';

/** Of all rings together, and of each. */
const ALL_BYTES = 64 << 20;
const [LEAST_BYTES, MOST_BYTES] = [256 << 10, 4 << 20];

/** Where samples of events go. */
export interface SampleSink {
  sample(record: PerfRecord, event: number): void;
  /** Some that nobody will get were among those before this time. */
  lost(): void;
}

interface Opened {
  readonly rings: readonly OpenRing[];
  readonly drained: DrainedRings;
}

export class Sampler {
  /** By their ids (PERF_EVENT_IOC_ID). */
  readonly #events = new Map<number, { readonly sink: SampleSink; readonly event: number }>();
  readonly #sinks = new Set<SampleSink>();
  #comms = new Comms();
  #opened: Opened | undefined;
  /** Records that later ones may come before. */
  #held: PerfRecord[] = [];
  /** Those that are being handed on, and how far that is. */
  #ready: PerfRecord[] = [];
  #next = 0;

  /** `bytes`: of a ring. */
  constructor(
    private readonly drain: Drain,
    private readonly bytes: number = ringBytes(),
  ) {}

  readonly cpus: readonly number[] = onlineCpus();

  /** For one more of those who get samples; `leave` ends that. */
  async join(sink: SampleSink): Promise<void> {
    this.#sinks.add(sink);
    try {
      this.#opened ??= this.#open();
      await this.drain.ready();
    } catch (e) {
      this.leave(sink);
      throw e;
    }
  }

  #open(): Opened {
    const rings = openPerfRings(this.cpus, this.bytes);
    return { rings, drained: this.drain.addAll(rings, (batch) => this.#take(batch)) };
  }

  /** The event whose ring those of a CPU write to. */
  output(cpu: number): number {
    return this.#opened!.rings[this.cpus.indexOf(cpu)]!.fd;
  }

  listen(id: number, sink: SampleSink, event: number): void {
    this.#events.set(id, { sink, event });
  }
  ignore(id: number): void {
    this.#events.delete(id);
  }

  /** The name that a thread had at the hit that is being handed on. */
  comm(pid: number, tid: number): string {
    return this.#comms.of(pid, tid);
  }

  /** Hand on, at once, what has been recorded. */
  flush(): void {
    this.#opened?.drained.flush();
  }

  leave(sink: SampleSink): void {
    this.#sinks.delete(sink);
    if (this.#sinks.size > 0 || this.#opened === undefined) return;
    const { rings, drained } = this.#opened;
    drained.close();
    this.#opened = undefined;
    rings.forEach(closePerfRing);
    this.#held = [];
    this.#comms = new Comms();
  }

  #take({ pieces, upTo }: SampleBatch): void {
    for (const piece of pieces) readRecords(piece, this.#held);
    this.#held.sort((a, b) => a.time - b.time);
    const end = this.#held.findLastIndex((r) => r.time < upTo) + 1;
    for (const record of this.#held.splice(0, end)) this.#ready.push(record);
    // Whoever is told of an event may have us flush in the middle of it.
    while (this.#next < this.#ready.length) this.#handOn(this.#ready[this.#next++]!);
    this.#ready = [];
    this.#next = 0;
  }

  #handOn(record: PerfRecord): void {
    if (record.type === RECORD.sample) {
      const of = this.#events.get(idOf(record));
      of?.sink.sample(record, of.event);
    } else if (record.type === RECORD.lost) {
      for (const sink of this.#sinks) sink.lost();
      this.#comms = new Comms(); // names may be among it
    } else {
      this.#comms.note(record);
    }
  }
}

function ringBytes(): number {
  const each = 2 ** Math.floor(Math.log2(ALL_BYTES / onlineCpus().length));
  return Math.max(LEAST_BYTES, Math.min(MOST_BYTES, each));
}
