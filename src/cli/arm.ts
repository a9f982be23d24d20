/** Registering what was found, for `trace` and `count`. */
import { registerUprobes } from '../index.js';
import type { EngineName, HandlerError, Processes, Uprobe, UprobeGroup, UprobeSpec } from '../index.js';
import { RefusedError } from '../base/errors.js';
import { Alternatives } from './alternatives.js';
import type { Ending } from './ending.js';
import { describeRefused } from './places.js';
import type { Handlers, Places, RefusedPlace, WantedPlace } from './places.js';
import { note } from './output.js';
import { Reached } from './reached.js';
import { SAY_WHICH } from './targets.js';
import type { Targets, Whom } from './targets.js';
import { UsageError } from './usage-error.js';
import { refusalSaid, said } from './words.js';

export interface ArmOptions {
  readonly whom: Whom;
  readonly engine: 'auto' | EngineName;
  readonly trustPlace: boolean;
  readonly deadline?: number | undefined;
  readonly ending: Ending;
  /** The handlers of a place; none: its hits are counted. */
  handlers(wanted: WantedPlace): Handlers;
}

/** What the user asked for, armed. */
export interface ArmedPlace {
  /** At least one; several where a name stands for several functions (an ifunc), and for trees of processes. */
  readonly uprobes: readonly Uprobe[];
  readonly wanted: WantedPlace;
}

/** Calls that were left without returning: by longjmp, an exception, the end of their thread. */
export const abandonedIn = (places: readonly ArmedPlace[]): bigint =>
  places.flatMap((p) => p.uprobes).reduce((sum, u) => sum + u.nabandoned, 0n);

/** A sentence for those, undefined where all have returned. */
export function describeAbandoned(places: readonly ArmedPlace[]): string | undefined {
  const abandoned = abandonedIn(places);
  if (abandoned === 0n) return undefined;
  return `${abandoned} call${abandoned === 1n ? '' : 's'} did not return`;
}

/** Hits that no handler could run at. */
export const missedIn = (places: readonly ArmedPlace[]): bigint =>
  places.flatMap((p) => p.uprobes).reduce((sum, u) => sum + u.nmissed, 0n);

export function missedText(places: readonly ArmedPlace[]): string | undefined {
  const missed = missedIn(places);
  return missed === 0n ? undefined : `${missed} hit${missed === 1n ? '' : 's'} could not be handled in time`;
}

export interface Armed {
  readonly places: readonly ArmedPlace[];
  /** At the end: which places could not be hit, in some process or in all, and why. */
  describeUnreached(targets: Targets): string[];
  /** Nothing can be hit any more. */
  isOver(): boolean;
  unregister(): Promise<void>;
}

/** Arm everything, or nothing; of a glob, what can be armed. */
export async function armPlaces(found: Places, options: ArmOptions): Promise<Armed> {
  const losses = new Losses(options.ending);
  const reached = new Reached();
  const refused: RefusedPlace[] = [...found.refused];
  const groups: Group[] = [];
  const [only, ...others] = processesOf(options.whom, undefined);
  // They are looked at from here, at the hits of one process.
  const mayTell = options.engine !== 'kernel' && isOne(only) && others.length === 0;
  const alternatives = mayTell ? new Alternatives(only) : undefined;
  const unregister = async (): Promise<void> => {
    await Promise.all([alternatives?.end(), ...groups.map((g) => g.group.unregister())]);
  };
  let places: readonly ArmedPlace[];
  try {
    const make = (wanted: WantedPlace): UprobeSpec[] => specsOf(wanted, options, losses, reached);
    await registerWhatCanBe(found.wanted, make, groups, refused);
    const armed = groups.flatMap(placesOf);
    places = (await alternatives?.watch(armed)) ?? armed;
  } catch (e) {
    await unregister();
    throw e;
  }
  if (groups.length === 0) throw nothingLeft(refused, options.whom);
  for (const reason of describeRefused(refused)) note(reason);
  losses.watch(places);
  return {
    places,
    describeUnreached: (targets) => reached.describe(places, targets),
    isOver: () => places.every((p) => p.uprobes.every((u) => u.state === 'gone')),
    unregister,
  };
}

/** What can be done, where that is one thing, is said once. */
function nothingLeft(refused: readonly RefusedPlace[], { pids }: Whom): UsageError {
  const remedies = new Set(refused.map((r) => r.remedy).filter((r) => r !== undefined));
  const [remedy] = remedies.size === 1 ? remedies : [];
  const advice = remedy === undefined ? '' : `. ${remedy}`;
  const orElse = pids.length === 0 ? `. ${SAY_WHICH}` : '';
  return new UsageError(`nothing can be probed: ${describeRefused(refused).join('; ')}${advice}${orElse}`);
}

/** What the library takes: all, or those that are meant alone together, and each tree. Of `only`, where it is given. */
function processesOf({ pids, trees }: Whom, only: readonly number[] | undefined): Processes[] {
  if (pids.length === 0) return ['all'];
  const meant = only ?? pids;
  const alone = meant.filter((pid) => !trees.has(pid));
  const roots = meant.filter((pid) => trees.has(pid));
  return [...(alone.length > 0 ? [alone] : []), ...roots.map((tree) => ({ tree }))];
}

const isOne = (processes: Processes | undefined): processes is Processes =>
  processes !== undefined && processes !== 'all' && (!Array.isArray(processes) || processes.length === 1);

interface Group {
  readonly group: UprobeGroup;
  /** In the order of the group's specs, which are as many for each as `specs` says. */
  readonly wanted: readonly WantedPlace[];
  readonly specs: readonly number[];
}

function placesOf({ group, wanted, specs }: Group): ArmedPlace[] {
  let next = 0;
  return wanted.map((w, i) => {
    const uprobes: Uprobe[] = [];
    for (let n = specs[i]!; n > 0; n--) uprobes.push(...group.of(next++));
    return { uprobes, wanted: w };
  });
}

/**
 * As one transaction where that works. Only the arming itself tells that a process has other bytes at a place than
 * its file (another tool's breakpoint): then halves are tried, down to the place that is refused.
 */
async function registerWhatCanBe(
  wanted: readonly WantedPlace[],
  make: (wanted: WantedPlace) => UprobeSpec[],
  groups: Group[],
  refused: RefusedPlace[],
): Promise<void> {
  if (wanted.length === 0) return;
  try {
    const specs = wanted.map(make);
    groups.push({ group: await registerUprobes(specs.flat()), wanted, specs: specs.map((s) => s.length) });
  } catch (e) {
    const [first] = wanted;
    if (!(e instanceof RefusedError) || wanted.every((w) => w.isNamed)) throw e;
    if (wanted.length === 1) {
      refused.push({ probe: first!.probe, ...refusalSaid(e.refusal) });
      return;
    }
    const middle = wanted.length >> 1;
    await registerWhatCanBe(wanted.slice(0, middle), make, groups, refused);
    await registerWhatCanBe(wanted.slice(middle), make, groups, refused);
  }
}

function specsOf(wanted: WantedPlace, options: ArmOptions, losses: Losses, reached: Reached): UprobeSpec[] {
  const { preHandler, postHandler, returnHandler } = options.handlers(wanted);
  return processesOf(options.whom, wanted.pids).map((processes) => ({
    ...wanted.place,
    pathname: wanted.pathname,
    processes,
    engine: options.engine,
    trustPlace: options.trustPlace,
    signal: options.ending.signal,
    onError: losses.onError,
    onState: reached.watch(wanted),
    ...(preHandler && { preHandler }),
    ...(postHandler && { postHandler }),
    ...(returnHandler && { returnHandler }),
    ...(options.deadline !== undefined && { deadline: options.deadline }),
  }));
}

/** Probes that end although nobody asked: a file was changed, an engine failed. When all are gone, so is the run. */
class Losses {
  readonly #ending: Ending;
  readonly #told = new Set<string>();
  #places: readonly ArmedPlace[] = [];
  #looking = false;

  constructor(ending: Ending) {
    this.#ending = ending;
  }

  watch(places: readonly ArmedPlace[]): void {
    this.#places = places;
  }

  readonly onError = ({ kind, error }: HandlerError): void => {
    const message = said(error);
    if (!this.#told.has(message) && this.#told.size < 100) note(message);
    this.#told.add(message);
    if (kind !== 'uprobe' || this.#looking) return;
    // Thousands may be lost at once: look when all of them have been told.
    this.#looking = true;
    setImmediate(() => {
      this.#looking = false;
      const isLost =
        this.#places.length > 0 && this.#places.every((p) => p.uprobes.every((u) => u.state === 'gone'));
      if (isLost) this.#ending.end({ why: 'failed', error: new Error('no probe is left') });
    });
  };
}
