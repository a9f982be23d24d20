/**
 * Of the functions that an ifunc may choose a program calls one. In a program that is started here nothing shows which
 * until it has been relocated; so it is asked at the first hit of any of them, and the others are let go. They would
 * count, too, where the chosen one hands its work to another (libc's strcspn does so with long sets).
 */
import { openModule, registerUprobes } from '../index.js';
import type { Hit, ModuleView, Processes, Uprobe, UprobeGroup, UprobeSpec } from '../index.js';
import { UprobeError } from '../base/errors.js';
import type { ArmedPlace } from './arm.js';
import type { WantedPlace } from './places.js';

/** A process that does not tell by then never will; its functions stay together. */
const MOST_LOOKS = 100;

/** Watches what may still turn out to be one function, until the process says which. */
export class Alternatives {
  readonly #processes: Processes;
  readonly #views = new Map<string, ModuleView>();
  #watchers: UprobeGroup | undefined;

  /** One process, or a tree: all of it run on this machine, and choose alike. */
  constructor(processes: Processes) {
    this.#processes = processes;
  }

  /** The same places; of those with several uprobes all but one are let go when it is known. */
  async watch(places: readonly ArmedPlace[]): Promise<ArmedPlace[]> {
    const open = places.filter((p) => p.uprobes.length > 1).map((p) => new Undecided(p));
    const specs = open.flatMap((place) => place.uprobes.map((uprobe) => this.#watcher(place, uprobe)));
    if (specs.length > 0) this.#watchers = await registerUprobes(specs);
    let next = 0;
    for (const place of open) place.watchers = place.uprobes.flatMap(() => this.#watchers?.of(next++) ?? []);
    const byPlace = new Map<ArmedPlace, ArmedPlace>(open.map((place) => [place.place, place]));
    return places.map((p) => byPlace.get(p) ?? p);
  }

  async end(): Promise<void> {
    await this.#watchers?.unregister();
    for (const view of this.#views.values()) view.close();
    this.#views.clear();
  }

  #watcher(place: Undecided, { offset }: Uprobe): UprobeSpec {
    const preHandler = (hit: Hit): undefined => place.decide(this.#offsetsOf(place.wanted, hit.pid));
    // What is said on errors has been said of the probes themselves.
    return {
      pathname: place.wanted.pathname,
      offset,
      processes: this.#processes,
      preHandler,
      onError: () => undefined,
    };
  }

  /** Where the functions are that a process uses now, as far as it shows. */
  #offsetsOf({ pathname, place }: WantedPlace, processes: number): ReadonlySet<number> {
    try {
      const view = this.#views.get(pathname) ?? openModule(pathname, { processes });
      this.#views.set(pathname, view);
      return new Set(view.plans(place, { processes }).map((plan) => plan.offset));
    } catch (e) {
      if (e instanceof UprobeError) return new Set();
      throw e;
    }
  }
}

class Undecided implements ArmedPlace {
  readonly place: ArmedPlace;
  readonly wanted: WantedPlace;
  uprobes: readonly Uprobe[];
  watchers: readonly Uprobe[] = [];
  #looks = 0;

  constructor(place: ArmedPlace) {
    this.place = place;
    this.wanted = place.wanted;
    this.uprobes = place.uprobes;
  }

  /** From here on none of the others is handled; they are taken out a moment later. */
  decide(offsets: ReadonlySet<number>): undefined {
    const chosen = this.uprobes.filter((u) => offsets.has(u.offset));
    const isDecided = chosen.length > 0 && chosen.length < this.uprobes.length;
    const others = isDecided ? this.uprobes.filter((u) => !chosen.includes(u)) : [];
    if (isDecided) this.uprobes = chosen;
    if (!isDecided && ++this.#looks < MOST_LOOKS) return;
    for (const uprobe of [...this.watchers, ...others]) void uprobe.unregister();
  }
}
