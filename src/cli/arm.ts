/** Registering what was found, for `trace` and `count`. */
import { registerUprobes } from '../index.js';
import type { EngineName, HandlerError, Uprobe, UprobeGroup, UprobeSpec } from '../index.js';
import { RefusedError } from '../base/errors.js';
import { Alternatives } from './alternatives.js';
import type { Ending } from './ending.js';
import { describeRefused } from './places.js';
import type { Places, RefusedPlace, WantedPlace } from './places.js';
import { note } from './output.js';
import { Reached } from './reached.js';
import type { Targets } from './targets.js';
import { UsageError } from './usage-error.js';
import { said } from './words.js';

export interface ArmOptions {
  readonly pids: readonly number[];
  readonly engine: 'auto' | EngineName;
  readonly trustPlace: boolean;
  readonly deadline?: number | undefined;
  readonly ending: Ending;
  /** The handlers of a place; none: its hits are counted. */
  handlers(wanted: WantedPlace): Pick<UprobeSpec, 'preHandler' | 'postHandler' | 'returnHandler'>;
}

/** What the user asked for, armed. */
export interface ArmedPlace {
  /** At least one; several where a name stands for several functions (an ifunc). */
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

export interface Armed {
  readonly places: readonly ArmedPlace[];
  /** At the end: which places could not be hit, in some process or in all, and why. */
  describeUnreached(targets: Targets): string[];
  unregister(): Promise<void>;
}

/** Arm everything, or nothing; of a glob, what can be armed. */
export async function armPlaces(found: Places, options: ArmOptions): Promise<Armed> {
  const losses = new Losses(options.ending);
  const reached = new Reached();
  const refused: RefusedPlace[] = [...found.refused];
  const groups: Group[] = [];
  const [pid, ...others] = options.pids;
  const alternatives = pid !== undefined && others.length === 0 ? new Alternatives(pid) : undefined;
  const unregister = async (): Promise<void> => {
    await Promise.all([alternatives?.end(), ...groups.map((g) => g.group.unregister())]);
  };
  let places: readonly ArmedPlace[];
  try {
    const make = (wanted: WantedPlace): UprobeSpec => specOf(wanted, options, losses, reached);
    await registerWhatCanBe(found.wanted, make, groups, refused);
    const armed = groups.flatMap(({ group, wanted }) =>
      wanted.map((w, i) => ({ uprobes: group.of(i), wanted: w })),
    );
    places = (await alternatives?.watch(armed)) ?? armed;
  } catch (e) {
    await unregister();
    throw e;
  }
  const reasons = describeRefused(refused);
  if (groups.length === 0) throw new UsageError(`nothing can be probed: ${reasons.join('; ')}`);
  for (const reason of reasons) note(reason);
  losses.watch(places);
  return { places, describeUnreached: (targets) => reached.describe(places, targets), unregister };
}

interface Group {
  readonly group: UprobeGroup;
  /** In the order of the group's specs. */
  readonly wanted: readonly WantedPlace[];
}

/**
 * As one transaction where that works. Only the arming itself tells that a process has other bytes at a place than
 * its file (another tool's breakpoint): then halves are tried, down to the place that is refused.
 */
async function registerWhatCanBe(
  wanted: readonly WantedPlace[],
  make: (wanted: WantedPlace) => UprobeSpec,
  groups: Group[],
  refused: RefusedPlace[],
): Promise<void> {
  if (wanted.length === 0) return;
  try {
    groups.push({ group: await registerUprobes(wanted.map(make)), wanted });
  } catch (e) {
    const [first] = wanted;
    if (!(e instanceof RefusedError) || wanted.every((w) => w.isNamed)) throw e;
    if (wanted.length === 1) {
      refused.push({ probe: first!.probe, code: e.code, reason: e.refusal.reason });
      return;
    }
    const middle = wanted.length >> 1;
    await registerWhatCanBe(wanted.slice(0, middle), make, groups, refused);
    await registerWhatCanBe(wanted.slice(middle), make, groups, refused);
  }
}

function specOf(wanted: WantedPlace, options: ArmOptions, losses: Losses, reached: Reached): UprobeSpec {
  const { preHandler, postHandler, returnHandler } = options.handlers(wanted);
  return {
    ...wanted.place,
    pathname: wanted.pathname,
    processes: wanted.pids ?? options.pids,
    engine: options.engine,
    trustPlace: options.trustPlace,
    signal: options.ending.signal,
    onError: losses.onError,
    onState: reached.watch(wanted),
    ...(preHandler && { preHandler }),
    ...(postHandler && { postHandler }),
    ...(returnHandler && { returnHandler }),
    ...(options.deadline !== undefined && { deadline: options.deadline }),
  };
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
