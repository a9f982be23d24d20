/**
 * From PROBEs to places. A place named for itself is taken as it is (the library says what is wrong with it); a glob
 * becomes the places that can be armed, and a count of those that cannot, with the reason.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { openModule } from '../index.js';
import type {
  EngineName,
  FunctionInfo,
  ModuleView,
  Place,
  PlacePlan,
  PlanOptions,
  Processes,
  Refusal,
  UprobeSpec,
} from '../index.js';
import { PlaceError, RefusedError } from '../base/errors.js';
import { globMatcher } from '../base/glob.js';
import { placeName } from '../outputs/trace-line.js';
import { noMatch } from './no-match.js';
import { probeText, symbolText } from './probe-spec.js';
import type { ProbeSpec } from './probe-spec.js';
import { SAY_WHICH } from './targets.js';
import type { Targets, Whom } from './targets.js';
import { UsageError } from './usage-error.js';
import { refusalSaid, saidBriefly } from './words.js';

/** One place to probe. */
export interface WantedPlace {
  /** What to type for just this place. */
  readonly probe: string;
  readonly pathname: string;
  readonly place: Place;
  /** As the user's glob matched it; undefined: as the library names the place. */
  readonly symbol: string | undefined;
  /** Undefined: all that were named. */
  readonly pids: readonly number[] | undefined;
  readonly isReturn: boolean;
  /** Refused alone, it is an error; as one of many, it is counted. */
  readonly isNamed: boolean;
}

/** A place of a glob that cannot be probed. */
export interface RefusedPlace {
  readonly probe: string;
  readonly code: string;
  readonly reason: string;
  readonly remedy?: string;
}

export interface Places {
  readonly wanted: readonly WantedPlace[];
  readonly refused: readonly RefusedPlace[];
}

export type Handlers = Pick<UprobeSpec, 'preHandler' | 'postHandler' | 'returnHandler'>;

export interface Question {
  readonly engine: 'auto' | EngineName;
  readonly trustPlace: boolean;
  /** What would be called there, and where functions return; none: hits are counted. */
  readonly handlers: (isReturn: boolean) => Handlers;
}

function planOptions(
  { trustPlace, handlers }: Question,
  isReturn: boolean,
  processes: Processes | undefined,
): PlanOptions {
  const { preHandler = false, postHandler, returnHandler = false } = handlers(isReturn);
  return {
    trustPlace,
    preHandler,
    postHandler: postHandler !== undefined,
    returnHandler,
    ...(processes !== undefined && { processes }),
  };
}

type Refuse = (name: string, refusal: Refusal) => void;

/** One function or instruction that a glob matched. */
interface Match {
  readonly name: string;
  readonly place: Place;
  /** Undefined: as the library names the place. */
  readonly symbol: string | undefined;
}

export function findPlaces(specs: readonly ProbeSpec[], { pids: all }: Whom, question: Question): Places {
  const wanted: WantedPlace[] = [];
  const refused: RefusedPlace[] = [];
  for (const spec of specs) {
    const { place } = spec;
    if (place.kind === 'glob' || place.kind === 'every') {
      for (const { view, pids } of filesOf(spec.pathname, all)) {
        const asked = planOptions(question, spec.isReturn, pids ?? (all.length === 0 ? 'all' : all));
        addMatches(spec, { view, pids }, question, asked, wanted, refused);
      }
    } else {
      const named = { place: namedPlace(place), probe: spec.text, symbol: undefined, isNamed: true };
      for (const pids of groupsOf(spec.pathname, all)) wanted.push({ ...spec, ...named, pids });
    }
  }
  return { wanted, refused };
}

/** The form the library takes. */
export function namedPlace(place: Exclude<ProbeSpec['place'], { kind: 'glob' | 'every' }>): Place {
  if (place.kind === 'offset') return { offset: place.offset };
  if (place.kind === 'addr') return { addr: place.addr };
  const { symbol, symbolOffset } = place;
  return symbolOffset === undefined ? { symbol } : { symbol, symbolOffset };
}

/** One file, and the processes in which the name means it. */
interface NamedFile {
  readonly view: ModuleView;
  readonly pids: readonly number[] | undefined;
}

/** A path is one file; a bare name may be another file in each process (containers, RUNPATH). */
export function filesOf(pathname: string, pids: readonly number[]): NamedFile[] {
  if (pathname.includes('/') || pids.length === 0) return [{ view: openModule(pathname), pids: undefined }];
  const files = new Map<string, { view: ModuleView; pids: number[] }>();
  for (const pid of pids) {
    const view = openModule(pathname, { processes: pid });
    const key = `${view.dev}:${view.ino}`;
    const known = files.get(key);
    if (known === undefined) files.set(key, { view, pids: [pid] });
    else {
      known.pids.push(pid);
      view.close();
    }
  }
  return [...files.values()];
}

/** The processes in which a name means one file: each group is a probe of its own. */
function groupsOf(pathname: string, pids: readonly number[]): (readonly number[] | undefined)[] {
  if (pids.length < 2) return [undefined];
  return filesOf(pathname, pids).map((file) => {
    file.view.close();
    return file.pids;
  });
}

/**
 * Find out what is wrong with places named for themselves before any process is stopped or started, and while the
 * tracer's thread starts. What a glob means is found when the processes are there: that takes longer, and once.
 */
export function checkNamed(specs: readonly ProbeSpec[], targets: Targets, question: Question): void {
  for (const spec of specs) {
    const { place, pathname, isReturn } = spec;
    if (place.kind === 'glob' || place.kind === 'every') continue;
    for (const { view, pids } of viewsFor(pathname, targets)) {
      try {
        const named = targets.kind === 'command' ? undefined : targets.kind === 'all' ? 'all' : targets.pids;
        for (const plan of view.plans(namedPlace(place), planOptions(question, isReturn, pids ?? named))) {
          const refusal = refusedBy(plan, question.engine);
          if (refusal !== undefined) throw refusedError(spec.text, refusal, targets);
        }
      } finally {
        view.close();
      }
    }
  }
}

/** Whoever has named no process may not know that all are meant then. */
function refusedError(probe: string, refusal: Refusal, { kind }: Targets): Error {
  if (kind !== 'all') return new RefusedError(probe, refusal);
  const { code, reason, remedy } = refusalSaid(refusal);
  return new UsageError(
    `${probe}, in all processes: ${reason}${remedy === undefined ? '' : `. ${remedy}`} (${code}). ${SAY_WHICH}`,
  );
}

/** The files a name means to the targets, as far as that can be known before a command has been started. */
function viewsFor(pathname: string, targets: Targets): NamedFile[] {
  if (targets.kind !== 'command') return filesOf(pathname, targets.pids);
  if (pathname.includes('/')) return [{ view: openModule(pathname), pids: undefined }];
  // Whose linker will look for the library is the interpreter's business: the started process will tell.
  if (isScript(targets.file)) return [];
  return [{ view: openModule(pathname, { command: targets.file }), pids: undefined }];
}

function isScript(file: string): boolean {
  const start = Buffer.alloc(2);
  let fd: number | undefined;
  try {
    fd = openSync(file, 'r');
    return readSync(fd, start) === 2 && start.toString('latin1') === '#!';
  } catch {
    return true; // not readable, only executable: no more can be known of it
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

function addMatches(
  spec: ProbeSpec,
  { view, pids }: NamedFile,
  { engine }: Question,
  asked: PlanOptions,
  wanted: WantedPlace[],
  refused: RefusedPlace[],
): void {
  const textOf = (name: string): string =>
    probeText(spec.pathname, name, spec.isReturn && spec.isImplied !== true);
  try {
    const refuse = (name: string, refusal: Refusal): void =>
      void refused.push({ probe: textOf(name), ...refusal });
    for (const { name, place, symbol } of matchesOf(spec, view, asked, refuse)) {
      const probe = textOf(name);
      const refusal = refusalOf(view, place, asked, engine);
      if (refusal !== undefined) refused.push({ probe, ...refusal });
      else wanted.push({ ...spec, probe, place, symbol, pids, isNamed: false });
    }
  } finally {
    view.close();
  }
}

/** Why a place cannot be probed, if so. */
function refusalOf(
  view: ModuleView,
  place: Place,
  asked: PlanOptions,
  engine: 'auto' | EngineName,
): Refusal | undefined {
  try {
    const refusal = view
      .plans(place, asked)
      .map((plan) => refusedBy(plan, engine))
      .find((r) => r !== undefined);
    return refusal && refusalSaid(refusal);
  } catch (e) {
    if (e instanceof PlaceError) return { code: e.code, reason: saidBriefly(e) };
    throw e;
  }
}

/** The refusal of the engine that would be taken. */
export function refusedBy(plan: PlacePlan, engine: 'auto' | EngineName): Refusal | undefined {
  if (engine === 'auto')
    return plan.chosen === undefined ? plan.engines.find((e) => e.refusal)?.refusal : undefined;
  const asked = plan.engines.find((e) => e.engine === engine);
  if (asked !== undefined) return asked.refusal;
  return { code: 'engine-not-available', reason: `there is no ${engine} engine` };
}

/**
 * What a PROBE of several places means in a file; `refuse` hears of functions that have no instructions to name.
 * Throws when nothing matches.
 */
export function matchesOf(
  spec: ProbeSpec,
  view: ModuleView,
  options: PlanOptions,
  refuse: Refuse,
): Iterable<Match> {
  const { place } = spec;
  if (place.kind === 'glob') return functionMatches(place.glob, place.literal, place.symbolOffset, view);
  if (place.kind !== 'every') throw new TypeError(`${spec.text} is one place`);
  if (place.isGlob) return instructionsOf(functionsOf(view, place.symbol), view, options, refuse);
  return instructionsOf([functionAt(view, place.symbol, options)], view, options, undefined);
}

function functionMatches(
  glob: string,
  literal: string,
  symbolOffset: number | undefined,
  view: ModuleView,
): Match[] {
  const found = functionsOf(view, glob);
  // Go's names have stars and brackets of their own: main.(*T).Get
  const exact = found.filter((f) => f.name === literal || f.aliases.includes(literal));
  const functions = exact.length > 0 ? exact : found;
  const times = new Map<string, number>();
  const matches = globMatcher(glob);
  // The best of the names that match; the library has put them in the order of usefulness.
  const nameFor = (f: FunctionInfo): string => [f.name, ...f.aliases].find(matches) ?? f.name;
  const named = functions.map((f) => ({ f, name: exact.length > 0 ? literal : nameFor(f) }));
  for (const { name } of named) times.set(name, (times.get(name) ?? 0) + 1);
  return named.map(({ f, name }) => {
    const unique = times.get(name) === 1;
    const past = symbolOffset ?? 0;
    return {
      symbol: name,
      name: unique
        ? symbolText(name) + (past > 0 ? `+0x${past.toString(16)}` : '')
        : `@0x${(f.address + BigInt(past)).toString(16)}`,
      // A name that several functions have means none of them; an address does, but of an ifunc it is the chooser's.
      place:
        unique || f.kind === 'ifunc'
          ? { symbol: name, symbolOffset: past }
          : { addr: f.address + BigInt(past) },
    };
  });
}

function functionsOf(view: ModuleView, glob: string): FunctionInfo[] {
  const found = [...view.matching(glob)];
  if (found.length === 0) throw noMatch(view, glob);
  return found;
}

/** What a symbol names, by its address; throws the library's own error when there is nothing. */
function functionAt(view: ModuleView, symbol: string, options: PlanOptions): FunctionInfo {
  const [first] = view.plans({ symbol }, options);
  const { address, offset, ifunc } = first!;
  return {
    name: symbol,
    aliases: [],
    address,
    offset,
    size: 0,
    kind: ifunc === undefined ? 'func' : 'ifunc',
  };
}

/** Every instruction once, also where functions overlap. Without `refuse`, a function without any is an error. */
function* instructionsOf(
  functions: readonly FunctionInfo[],
  view: ModuleView,
  options: PlanOptions,
  refuse: Refuse | undefined,
): Iterable<Match> {
  const seen = new Set<number>();
  for (const f of functions) {
    try {
      for (const body of bodiesOf(f, view, options))
        for (const { offset, address, symbolOffset } of view.instructions(body)) {
          if (seen.has(offset)) continue;
          seen.add(offset);
          yield instructionMatch(f, offset, address, symbolOffset);
        }
    } catch (e) {
      if (!(e instanceof PlaceError) || refuse === undefined) throw e;
      refuse(symbolText(f.name), { code: e.code, reason: saidBriefly(e) });
    }
  }
}

/** The functions that a name stands for: itself, or what an ifunc may choose. */
function bodiesOf(f: FunctionInfo, view: ModuleView, options: PlanOptions): FunctionInfo[] {
  if (f.kind === 'func') return [f];
  return view.plans({ symbol: f.name }, options).map(({ address, offset }) => ({ ...f, address, offset }));
}

/** In what an ifunc chooses, so many bytes from its name are no one place. */
function instructionMatch(f: FunctionInfo, offset: number, address: bigint, symbolOffset: number): Match {
  if (f.kind === 'ifunc') return { name: `@0x${address.toString(16)}`, symbol: undefined, place: { offset } };
  return { name: placeName(symbolText(f.name), symbolOffset, offset), symbol: f.name, place: { offset } };
}

/** What a glob could not have, grouped by reason, with an example of each. */
export function describeRefused(refused: readonly RefusedPlace[]): string[] {
  const groups = new Map<string, RefusedPlace[]>();
  for (const place of refused) {
    const group = groups.get(place.code);
    if (group === undefined) groups.set(place.code, [place]);
    else group.push(place);
  }
  return [...groups].map(([code, [example, ...more]]) => {
    const count = more.length === 0 ? '1 place' : `${more.length + 1} places`;
    return `${count} not probed (${code}), ${more.length === 0 ? '' : 'for example '}${example!.probe}: ${example!.reason}`;
  });
}
