/**
 * The kernel engine: uprobes of the kernel with programs of ours (bpf(2)), for every process that maps the file, now or later. The
 * kernel knows files by their inodes, so there is nothing to do when processes come and go.
 */
import { Drain } from '../../events/drain.js';
import { closeLinksNow } from '../../linux/closer.js';
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
import { NamedProcesses } from './named.js';
import { refusalFor } from './refusals.js';

/** How long an exit of the process may wait for its links, ms. */
const EXIT_MS = 5000;
/** How often we look whether the keeper is there, and processes that are named, ms. */
const WATCH_MS = 250;

export const createKernelEngine = (sink: EngineSink): Engine => new Kernel(sink);

interface Place {
  readonly group: Group;
  readonly number: number;
}

interface Leaving {
  readonly site: number;
  readonly consumer: number;
  readonly place: Place;
}

class Kernel implements Engine {
  readonly name = 'kernel';
  readonly canArm = refusalFor;
  readonly #drain = new Drain();
  readonly #aggregates = new KernelAggregates(this.#drain);
  readonly #groups = new Set<Group>();
  /** By site, then by consumer. */
  readonly #places = new Map<number, Map<number, Place>>();
  readonly #byConsumer = new Map<number, Place>();
  readonly #final = new Map<number, Tally>();
  #keeper: Keeper | undefined;
  #watch: NodeJS.Timeout | undefined;

  readonly #named = new NamedProcesses();

  constructor(private readonly sink: EngineSink) {}

  async apply(changes: readonly SiteChange[]): Promise<readonly ArmReport[]> {
    const added: Member[] = [];
    const gone: Leaving[] = [];
    for (const { site, consumers } of changes) {
      const known = this.#places.get(site.id);
      const wanted = new Set(consumers.map((c) => c.id));
      for (const consumer of consumers) if (!known?.has(consumer.id)) added.push({ site, consumer });
      for (const [consumer, place] of known ?? [])
        if (!wanted.has(consumer)) gone.push({ site: site.id, consumer, place });
    }
    await this.#add(added);
    await this.#remove(gone);
    return changes.flatMap(reportsOf);
  }

  async #add(added: readonly Member[]): Promise<void> {
    const made: { group: Group; members: readonly Member[] }[] = [];
    try {
      for (const members of grouped(added))
        made.push({ group: await Group.arm(members, this.#aggregates, this.#theKeeper()), members });
    } catch (e) {
      for (const { group, members } of made) await group.remove(this.#theKeeper(), [...members.keys()]);
      throw e;
    }
    for (const { group, members } of made) {
      this.#groups.add(group);
      members.forEach(({ site, consumer }, number) => {
        const place = { group, number };
        this.#byConsumer.set(consumer.id, place);
        for (const pid of namedBy(consumer)) this.#named.want(pid);
        const known = this.#places.get(site.id);
        if (known === undefined) this.#places.set(site.id, new Map([[consumer.id, place]]));
        else known.set(consumer.id, place);
      });
    }
  }

  async #remove(gone: readonly Leaving[]): Promise<void> {
    const byGroup = new Map<Group, Leaving[]>();
    for (const one of gone) addTo(byGroup, one.place.group, one);
    for (const [group, leaving] of byGroup) {
      const tallies = await group.remove(
        this.#theKeeper(),
        leaving.map((l) => l.place.number),
      );
      leaving.forEach(({ site, consumer, place }, i) => {
        for (const pid of namedBy(place.group.consumerOf(place.number))) this.#named.drop(pid);
        this.#final.set(consumer, tallies[i]!);
        this.#byConsumer.delete(consumer);
        const left = this.#places.get(site)!;
        left.delete(consumer);
        if (left.size === 0) this.#places.delete(site);
      });
      if (group.size === 0) this.#groups.delete(group);
    }
  }

  tally(consumerId: number): Tally {
    const place = this.#byConsumer.get(consumerId);
    if (place !== undefined) return place.group.tally(place.number);
    return this.#final.get(consumerId) ?? NO_TALLY;
  }

  #theKeeper(): Keeper {
    if (this.#keeper === undefined) {
      this.#keeper = new Keeper();
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
    for (const [consumer, place] of this.#byConsumer)
      this.#final.set(consumer, place.group.tally(place.number));
    this.#byConsumer.clear();
    this.#places.clear();
    closeLinksNow(
      [...this.#groups].flatMap((g) => g.takeLinks()),
      EXIT_MS,
    );
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
  const pids = new Set(consumers.flatMap(pidsOf));
  return [...pids].map((pid) => ({ siteId: site.id, pid, state: 'armed' }));
}

const namedBy = ({ processes }: Consumer): readonly number[] =>
  processes === 'all' || 'tree' in processes ? [] : processes;
const pidsOf = (consumer: Consumer): readonly number[] =>
  consumer.processes === 'all' ? [0] : namedBy(consumer);
