/**
 * The kernel engine: uprobes of the kernel with programs of ours (bpf(2)), for every process that maps the file, now or later. The
 * kernel knows files by their inodes, so there is nothing to do when processes come and go.
 */
import { Drain } from '../../events/drain.js';
import { closeLinksNow, EVENTS_AT_ONCE, MOST_CHILDREN } from '../../linux/closer.js';
import { Keeper } from '../../linux/keeper.js';
import { addTo } from '../../base/multimap.js';
import {
  NO_TALLY,
  type ArmReport,
  type Consumer,
  type Engine,
  type EngineSink,
  type SiteChange,
  type Tally,
} from '../engine.js';
import { KernelAggregates } from './aggregates.js';
import { Group, type Member } from './group.js';
import { means } from './machine.js';
import { NamedProcesses } from './named.js';
import { refusalFor } from './refusals.js';
import { SampleGroup } from './sample-group.js';
import { Sampler } from './sampler.js';

/** How long an exit of the process may wait for its links, ms. */
const EXIT_MS = 5000;
/** How often we look whether the keeper is there, and processes that are named, ms. */
const WATCH_MS = 250;

export const createKernelEngine = (sink: EngineSink): Engine => new Kernel(sink);

/** Uprobes that were armed together, by whichever means. */
type AnyGroup = Group | SampleGroup;

const closedAtOnce = (): number => (means() === 'multi' ? MOST_CHILDREN : EVENTS_AT_ONCE);

interface Place {
  readonly group: AnyGroup;
  readonly number: number;
}

interface Leaving {
  readonly consumer: Consumer;
  readonly place: Place;
}

class Kernel implements Engine {
  readonly name = 'kernel';
  readonly canArm = refusalFor;
  readonly #drain = new Drain();
  readonly #aggregates = new KernelAggregates(this.#drain);
  #sampler: Sampler | undefined;
  readonly #groups = new Set<AnyGroup>();
  /** Who is served at each site. */
  readonly #served = new Map<number, readonly Consumer[]>();
  readonly #places = new Map<number, Place>();
  readonly #final = new Map<number, Tally>();
  #keeper: Keeper | undefined;
  #watch: NodeJS.Timeout | undefined;

  readonly #named = new NamedProcesses();

  constructor(private readonly sink: EngineSink) {}

  async apply(changes: readonly SiteChange[]): Promise<readonly ArmReport[]> {
    const added: Member[] = [];
    const gone: Leaving[] = [];
    for (const { site, consumers } of changes) {
      for (const consumer of consumers) if (!this.#places.has(consumer.id)) added.push({ site, consumer });
      for (const consumer of this.#served.get(site.id) ?? [])
        if (!consumers.includes(consumer)) gone.push({ consumer, place: this.#places.get(consumer.id)! });
    }
    await this.#add(added);
    await this.#remove(gone);
    for (const { site, consumers } of changes)
      if (consumers.length === 0) this.#served.delete(site.id);
      else this.#served.set(site.id, consumers);
    return changes.flatMap(reportsOf);
  }

  async #add(added: readonly Member[]): Promise<void> {
    const made: { group: AnyGroup; members: readonly Member[] }[] = [];
    try {
      for (const members of grouped(added)) made.push({ group: await this.#arm(members), members });
    } catch (e) {
      for (const { group, members } of made) await group.remove([...members.keys()]);
      throw e;
    }
    for (const { group, members } of made) {
      this.#groups.add(group);
      members.forEach(({ consumer }, number) => {
        this.#places.set(consumer.id, { group, number });
        for (const pid of namedBy(consumer)) this.#named.want(pid);
      });
    }
  }

  #arm(members: readonly Member[]): Promise<AnyGroup> {
    if (means() !== 'samples') return Group.arm(members, this.#aggregates, this.#theKeeper());
    this.#sampler ??= new Sampler(this.#drain);
    return SampleGroup.arm(members, this.#sampler, this.#theKeeper());
  }

  async #remove(gone: readonly Leaving[]): Promise<void> {
    const byGroup = new Map<AnyGroup, Leaving[]>();
    for (const one of gone) addTo(byGroup, one.place.group, one);
    for (const [group, leaving] of byGroup) {
      const tallies = await group.remove(leaving.map((l) => l.place.number));
      leaving.forEach(({ consumer }, i) => {
        for (const pid of namedBy(consumer)) this.#named.drop(pid);
        this.#final.set(consumer.id, tallies[i]!);
        this.#places.delete(consumer.id);
      });
      if (group.size === 0) this.#groups.delete(group);
    }
  }

  tally(consumerId: number): Tally {
    const place = this.#places.get(consumerId);
    if (place !== undefined) return place.group.tally(place.number);
    return this.#final.get(consumerId) ?? NO_TALLY;
  }

  settle(consumerId: number): Tally {
    const tally = this.tally(consumerId);
    this.#final.delete(consumerId);
    return tally;
  }

  #theKeeper(): Keeper {
    if (this.#keeper === undefined) {
      this.#keeper = new Keeper(closedAtOnce());
      this.#watch = setInterval(() => this.#look(), WATCH_MS);
      this.#watch.unref();
    }
    return this.#keeper;
  }

  #look(): void {
    this.#keeper?.revive();
    for (const pid of this.#named.takeEnded()) this.sink.ended(pid);
  }

  async close(): Promise<void> {
    this.closeSync();
    await this.#drain.close();
  }

  closeSync(): void {
    const keeper = this.#keeper;
    this.#keeper = undefined;
    clearInterval(this.#watch);
    if (keeper === undefined) return;
    const links = [...this.#groups].flatMap((g) => g.takeLinks());
    for (const [consumer, place] of this.#places) this.#final.set(consumer, place.group.tally(place.number));
    this.#places.clear();
    this.#served.clear();
    closeLinksNow(links, EXIT_MS, closedAtOnce());
    for (const group of this.#groups) group.free();
    this.#groups.clear();
    keeper.close();
  }
}

/** Members that one program can serve. */
function grouped(members: readonly Member[]): Member[][] {
  const numbers = new Map<object, number>();
  const numberOf = (of: object | undefined): number => {
    if (of === undefined) return 0;
    const known = numbers.get(of) ?? numbers.size + 1;
    numbers.set(of, known);
    return known;
  };
  const groups = new Map<string, Member[]>();
  for (const member of members) {
    const { site, consumer } = member;
    const { programs = {}, processes } = consumer;
    const key = `${site.module.id} ${numberOf(programs.pre)} ${numberOf(programs.return)} ${JSON.stringify(processes)}`;
    addTo(groups, key, member);
  }
  return [...groups.values()];
}

function reportsOf({ site, consumers }: SiteChange): ArmReport[] {
  const report = (pid: number): ArmReport => ({ siteId: site.id, pid, state: 'armed' });
  if (consumers.length === 1) return pidsOf(consumers[0]!).map(report);
  return [...new Set(consumers.flatMap(pidsOf))].map(report);
}

const namedBy = ({ processes }: Consumer): readonly number[] =>
  processes === 'all' || 'tree' in processes ? [] : processes;
const WHOEVER_MAPS_IT = [0];
const pidsOf = (consumer: Consumer): readonly number[] =>
  consumer.processes === 'all' ? WHOEVER_MAPS_IT : namedBy(consumer);
