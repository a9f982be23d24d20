/**
 * Uprobes of one file that were registered together, with the same handlers, without programs in the kernel: a perf event for each of them,
 * moment and CPU. Where all that is wanted is how often they are hit, the events count; else they record each hit, and the handlers run
 * here, later.
 */
import { readFileSync, readdirSync } from 'node:fs';
import { makeRefusal, RefusedError } from '../../base/errors.js';
import { closeLinks, EVENTS_AT_ONCE } from '../../linux/closer.js';
import { tooFewDescriptors } from '../../linux/fds.js';
import type { Keeper } from '../../linux/keeper.js';
import { NR } from '../../linux/numbers.js';
import * as perf from '../../linux/perf-event.js';
import { cpuOf, pidOf, restOf, tidOf, timeOf, type PerfRecord } from '../../linux/perf-records.js';
import { mappingsOf, parseMaps } from '../../process/maps.js';
import type { ModuleFacts, Tally } from '../engine.js';
import { attachError, pathOf } from './attachment.js';
import type { Member } from './group.js';
import { shiftOf } from './instructions.js';
import { bpfTarget } from './machine.js';
import { SampleHandlers, maskOf, type Counts, type Recorded } from './sample-handlers.js';
import type { Sampler, SampleSink } from './sampler.js';

/** One of a uprobe and a CPU. */
interface Event {
  readonly fd: number;
  readonly id: number;
  readonly member: number;
  readonly isReturn: boolean;
  /** Samples that have arrived. */
  delivered: number;
}

/** What fits into the text of a filter (kernel/events/core.c: perf_ioctl, a page). The rest is left out here. */
const MOST_LEFT_OUT = 128;
/** How long a last sample may take to be finished, ms. */
const FINISHED_MS = 100;

export class SampleGroup implements SampleSink {
  readonly #members: readonly Member[];
  readonly #module: ModuleFacts;
  readonly #sampler: Sampler;
  readonly #handlers: SampleHandlers;
  readonly #counts: readonly Counts[];
  /** Whether hits are recorded, not only counted. */
  readonly #isSampled: boolean;
  /** The threads whose hits nobody wants: ours, where the file is one of ours. */
  readonly #own: readonly number[];
  /** By their numbers in samples. */
  readonly #events: (Event | undefined)[] = [];
  readonly #byMember = new Map<number, Event[]>();
  readonly #final = new Map<number, Tally>();
  readonly #left: Set<number>;

  private constructor(members: readonly Member[], sampler: Sampler) {
    const { consumer, site } = members[0]!;
    this.#members = members;
    this.#left = new Set(members.keys());
    this.#module = site.module;
    this.#sampler = sampler;
    this.#handlers = new SampleHandlers(consumer.programs ?? {}, sampler);
    this.#counts = members.map(() => ({ hits: 0, missed: 0, errors: 0 }));
    this.#own = isOurs(site.module) ? readdirSync('/proc/self/task').map(Number).slice(0, MOST_LEFT_OUT) : [];
    // Counts know no processes: where we hit it ourselves we must see who does.
    this.#isSampled = consumer.pre || consumer.return || this.#own.length > 0;
  }

  /** Rejects when any of it cannot be armed, and then nothing of it is. */
  static async arm(members: readonly Member[], sampler: Sampler, keeper: Keeper): Promise<SampleGroup> {
    const group = new SampleGroup(members, sampler);
    if (group.#isSampled) await sampler.join(group);
    try {
      group.#requireDescriptors();
      // A return is seen of calls that begin from then on: their entries are seen already.
      await group.#open(keeper, group.#handlers.entry, false);
      await group.#open(keeper, group.#handlers.return, true);
      return group;
    } catch (e) {
      const fds = group.takeLinks();
      await closeLinks(fds, EVENTS_AT_ONCE);
      group.free();
      throw e;
    }
  }

  #requireDescriptors(): void {
    const moments = [this.#handlers.entry, this.#handlers.return].filter((m) => m !== undefined).length;
    const wanted = this.#members.length * moments * this.#sampler.cpus.length;
    const few = tooFewDescriptors(wanted);
    if (few === undefined) return;
    throw new RefusedError(
      this.#module.path,
      makeRefusal(
        'too-many-events',
        `without BPF each place takes a descriptor for each CPU: ${wanted} of them, and this process may have ${few.limit} open (${few.open} are)`,
        () => `Probe fewer places, or raise the limit before: ulimit -n ${few.enough}`,
      ),
    );
  }

  async #open(keeper: Keeper, recorded: Recorded | undefined, isReturn: boolean): Promise<void> {
    if (recorded === undefined) return;
    const opened: Event[] = [];
    for (const member of this.#members.keys())
      for (const cpu of this.#sampler.cpus)
        opened.push(await this.#openOne(keeper, member, cpu, recorded, isReturn));
    for (const { fd } of opened) perf.enableEvent(fd);
  }

  async #openOne(
    keeper: Keeper,
    member: number,
    cpu: number,
    recorded: Recorded,
    isReturn: boolean,
  ): Promise<Event> {
    const { site } = this.#members[member]!;
    const { args, free } = perf.prepareUprobeEvent({
      path: pathOf(this.#module),
      offset: site.offset + shiftOf(site),
      isReturn,
      pid: 0,
      cpu,
      counts: true,
      ...(this.#isSampled && {
        sampling: { ...recorded, registers: maskOf(recorded) },
      }),
    });
    try {
      const fd = await keeper.call(NR.perfEventOpen, ...args);
      if (fd < 0) throw attachError(this.#module, this.#members.length, perf.EVENT_CALL, -fd, 0);
      const event = { fd, id: perf.eventId(fd), member, isReturn, delivered: 0 };
      const of = this.#byMember.get(member);
      if (of === undefined) this.#byMember.set(member, [event]);
      else of.push(event);
      if (this.#isSampled) {
        perf.setOutput(fd, this.#sampler.output(cpu));
        this.#sampler.listen(event.id, this, this.#events.push(event) - 1);
      }
      // In another pid namespace we do not know how the machine counts us: then it is seen when they are recorded.
      if (this.#own.length > 0 && bpfTarget.pidNamespace === undefined) perf.leaveOut(fd, this.#own);
      return event;
    } finally {
      free();
    }
  }

  // Samples

  sample(record: PerfRecord, number: number): void {
    const event = this.#events[number];
    if (event === undefined) return;
    event.delivered++;
    const pid = pidOf(record);
    if (pid === process.pid) return;
    const { member, isReturn } = event;
    const recorded = (isReturn ? this.#handlers.return : this.#handlers.entry)!;
    const counts = this.#counts[member]!;
    const rest = restOf(record, { ...recorded, registers: recorded.registers.length });
    if (rest === undefined) {
      counts.missed++;
      return;
    }
    const sample = { pid, tid: tidOf(record), cpu: cpuOf(record), time: timeOf(record), ...rest };
    const { site, consumer } = this.#members[member]!;
    if (isReturn) this.#handlers.returned(sample, consumer.id, counts);
    else this.#handlers.entered(sample, consumer.id, shiftOf(site), counts);
  }

  lost(): void {
    this.#handlers.forgetCalls();
  }

  // As groups are

  get size(): number {
    return this.#left.size;
  }

  tally(number: number): Tally {
    return this.#final.get(number) ?? this.#count(number, ({ fd }) => perf.readCount(fd).lost);
  }

  #count(number: number, lostOf: (event: Event) => number): Tally {
    const { hits, missed, errors } = this.#counts[number]!;
    const events = this.#byMember.get(number) ?? [];
    if (!this.#isSampled) {
      const counted = events.reduce((sum, { fd }) => sum + perf.readCount(fd).count, 0);
      return { hits: BigInt(counted), missed: 0n, errors: 0n };
    }
    const lost = events
      .filter((e) => e.isReturn || this.#handlers.countsEntries)
      .reduce((sum, e) => sum + lostOf(e), 0);
    return { hits: BigInt(hits), missed: BigInt(missed + lost), errors: BigInt(errors) };
  }

  /** No more hits of these: what has been recorded is handled, and their tallies are final. Their descriptors. */
  #stop(numbers: readonly number[]): number[] {
    const events = numbers.flatMap((n) => this.#byMember.get(n) ?? []);
    for (const isReturn of [false, true])
      for (const event of events) if (event.isReturn === isReturn) perf.disableEvent(event.fd);
    if (this.#isSampled) this.#drain(events);
    const isLost = ({ fd, delivered }: Event): number => perf.readCount(fd).count - delivered;
    for (const number of numbers) {
      this.#final.set(number, this.#count(number, isLost));
      this.#left.delete(number);
      this.#byMember.delete(number);
    }
    for (const { id } of events) this.#sampler.ignore(id);
    return events.map(({ fd }) => fd);
  }

  /** Until nothing is missing but what the kernel has lost. */
  #drain(events: readonly Event[]): void {
    const isComplete = (): boolean =>
      events.every(({ fd, delivered }) => {
        const { count, lost } = perf.readCount(fd);
        return delivered + lost >= count;
      });
    const end = performance.now() + FINISHED_MS;
    do this.#sampler.flush();
    while (perf.countsLost() && !isComplete() && performance.now() < end);
  }

  /** Take members out. When none is left, all of it is closed. Their tallies are final. */
  async remove(numbers: readonly number[]): Promise<Tally[]> {
    const fds = this.#stop(numbers);
    await closeLinks(fds, EVENTS_AT_ONCE);
    if (this.#left.size === 0) this.free();
    return numbers.map((n) => this.tally(n));
  }

  /** Its descriptors, to be closed by the caller. Its tallies are final. */
  takeLinks(): number[] {
    return this.#stop([...this.#left]);
  }

  free(): void {
    if (this.#isSampled) this.#sampler.leave(this);
  }
}

/** Whether we run code of the file ourselves. */
const isOurs = (module: ModuleFacts): boolean =>
  mappingsOf(module, parseMaps(readFileSync('/proc/self/maps', 'utf8')), process.pid).length > 0;
