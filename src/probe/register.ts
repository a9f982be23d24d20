/**
 * Registering any number of uprobes as one transaction. Everything that can be wrong is found before a process is
 * touched; when arming fails or is aborted, nothing stays behind.
 */
import { FileError, RefusedError, makeRefusal, type Refusal } from '../base/errors.js';
import { hex } from '../base/address.js';
import type { ArmReport, Engine, EngineName, ProcessSet } from '../engines/engine.js';
import { checkProcess } from '../process/check.js';
import { resolveLibrary } from '../process/linker.js';
import { chooseEngine, preferredEngine, refuseProcesses, type Need } from './engine-choice.js';
import { FactsOfSite } from './facts.js';
import { changesByEngine, type ProbedModule } from './module.js';
import { addTo, groupBy } from '../base/multimap.js';
import { runWithAll } from './mutex.js';
import { Ifuncs } from './ifunc.js';
import { resolvePlace, resolvePlaces, type ResolvedPlace } from './place.js';
import { Registration } from './registration.js';
import { Site } from './site.js';
import type { CheckedSpec } from './spec.js';
import type { Table } from './table.js';
import { unregisterAll } from './uprobe-group.js';

/** One spec in one file: a name can mean another file in each process. */
interface Wish {
  readonly spec: CheckedSpec;
  readonly module: ProbedModule;
  readonly processes: ProcessSet;
}

export interface RegisterOptions {
  /** One spec is to become one uprobe. */
  readonly one?: boolean;
}

/** Several files, or functions, for one spec are a group; who wants exactly one says so. */
export async function register(
  table: Table,
  specs: readonly CheckedSpec[],
  options: RegisterOptions = {},
): Promise<Registration[]> {
  throwIfAborted(specs);
  checkWhom(table, specs);
  const held = new HeldModules(table);
  try {
    const wishes = specs.flatMap((spec) => held.resolve(spec));
    if (options.one === true) requireOneFile(wishes);
    const modules = held.inOrder();
    const registrations = await runWithAll(
      modules.map((m) => m.mutex),
      () => arm(table, wishes, modules, options),
    );
    followSignals(registrations);
    return registrations;
  } finally {
    held.releaseAll();
  }
}

function throwIfAborted(specs: readonly CheckedSpec[]): void {
  for (const { signal } of specs) signal?.throwIfAborted();
}

/** Each engine, process by process, before any file is looked at. */
function checkWhom(table: Table, specs: readonly CheckedSpec[]): void {
  const checked = new Set<number>();
  for (const { processes, engine, place, pathname } of specs) {
    const refusal = refuseProcesses(engine, table.offers, processes);
    if (refusal !== undefined) throw new RefusedError(pathname, refusal);
    // Engines take tens of milliseconds to start: let them, while files are opened and symbols looked up.
    preferredEngine(engine, table.offers, processes)?.engine?.();
    const pids = processes === 'all' ? [] : 'tree' in processes ? [processes.tree] : processes;
    for (const pid of 'pid' in place ? [...pids, place.pid] : pids) {
      if (checked.has(pid)) continue;
      checkProcess(pid);
      checked.add(pid);
    }
  }
}

/** The files of one transaction, each opened once and held until it ends. */
class HeldModules {
  readonly #table: Table;
  readonly #byQuestion = new Map<string, ProbedModule>();
  readonly #held = new Set<ProbedModule>();

  constructor(table: Table) {
    this.#table = table;
  }

  /** The files a spec means, each with the processes it means it in. */
  resolve(spec: CheckedSpec): Wish[] {
    const { processes } = spec;
    if (processes === 'all' || spec.pathname.includes('/'))
      return [{ spec, processes, module: this.#module(spec.pathname, undefined) }];
    if ('tree' in processes)
      return [{ spec, processes, module: this.#module(spec.pathname, processes.tree) }];
    const byModule = new Map<ProbedModule, number[]>();
    for (const pid of processes) {
      const module = this.#module(spec.pathname, pid);
      addTo(byModule, module, pid);
    }
    return [...byModule].map(([module, pids]) => ({ spec, module, processes: pids }));
  }

  #module(pathname: string, pid: number | undefined): ProbedModule {
    const question = `${pid ?? ''}\0${pathname}`;
    let module = this.#byQuestion.get(question);
    if (module === undefined) {
      module = this.#table.hold(resolveLibrary(pathname, pid === undefined ? {} : { pid }));
      this.#byQuestion.set(question, module);
      if (this.#held.has(module)) module.release();
      else this.#held.add(module);
    }
    return module;
  }

  /** The order of locks: ascending ids. */
  inOrder(): ProbedModule[] {
    return [...this.#held].sort((a, b) => a.id - b.id);
  }

  releaseAll(): void {
    for (const module of this.#held) module.release();
  }
}

function requireOneFile(wishes: readonly Wish[]): void {
  if (wishes.length === 1) return;
  const files = wishes.map((w) => `${w.module.path} in ${pidList(w.processes)}`);
  throw new FileError(
    'several-files',
    `${wishes[0]!.spec.pathname} means several files: ${files.join('; ')}. registerUprobes makes one uprobe for each`,
  );
}

const pidList = (processes: ProcessSet): string =>
  processes === 'all'
    ? 'all processes'
    : 'tree' in processes
      ? `the tree of pid ${processes.tree}`
      : `pid ${processes.join(', ')}`;

/** With all modules locked: from wishes to armed uprobes, or to nothing at all. */
async function arm(
  table: Table,
  wishes: readonly Wish[],
  modules: readonly ProbedModule[],
  options: RegisterOptions,
): Promise<Registration[]> {
  throwIfAborted(wishes.map((w) => w.spec));
  for (const module of modules) module.requireUnchanged();
  const draft = new Draft(table, options);
  for (const wish of wishes) draft.add(wish);
  draft.chooseEngines();
  for (const module of modules) module.code.forget();
  const registrations = draft.commit();
  try {
    const reports = await applyAll(draft.sites());
    for (const report of reports) table.take(report);
    throwIfAborted(wishes.map((w) => w.spec));
    for (const module of modules) module.requireUnchanged();
    requireNotAllRefused(registrations);
  } catch (e) {
    await undo(registrations);
    throw e;
  }
  return registrations;
}

/** One after the other where there are several engines: what an earlier one armed, `undo` takes out. */
async function applyAll(sites: Iterable<Site>): Promise<ArmReport[]> {
  const reports: ArmReport[] = [];
  for (const [engine, changes] of changesByEngine(sites)) reports.push(...(await engine.apply(changes)));
  return reports;
}

async function undo(registrations: readonly Registration[]): Promise<void> {
  const byModule = groupBy(registrations, (r) => r.site.module);
  for (const [module, own] of byModule) {
    // Some of them may have been asked to leave by their own handlers: that request finds them ended.
    for (const registration of own) registration.live = false;
    await module.removeLocked(own);
  }
}

/** An uprobe refused in every process it was meant for is an error; in some of them, `processes()` tells. */
function requireNotAllRefused(registrations: readonly Registration[]): void {
  for (const registration of registrations) {
    const { processes, site } = registration;
    if (processes === 'all' || 'tree' in processes) continue;
    const reports = processes.map((pid) => site.reportOf(pid));
    const refusal = reports[0]?.refusal;
    if (refusal !== undefined && reports.every((r) => r?.state === 'refused'))
      throw new RefusedError(`${registration.view.toString()} in ${pidList(processes)}`, refusal);
  }
}

/** Sites and uprobes as they will be; nobody sees them before `commit`. */
class Draft {
  readonly #table: Table;
  readonly #bySite = new Map<Site, Registration[]>();
  readonly #fresh = new Map<ProbedModule, Map<number, Site>>();
  readonly #all: Registration[] = [];
  readonly #ifuncs = new Map<ProbedModule, Ifuncs>();
  readonly #resolve: typeof resolvePlaces;

  constructor(table: Table, options: RegisterOptions) {
    this.#table = table;
    this.#resolve = options.one === true ? (...of) => [resolvePlace(...of)] : resolvePlaces;
  }

  /** Throws PlaceError or RefusedError. */
  add({ spec, module, processes }: Wish): void {
    const { trustPlace } = spec;
    const atEntry = spec.returnHandler !== undefined;
    const question = { trustPlace, atEntry, processes, ifuncs: this.#ifuncsOf(module) };
    for (const place of this.#resolve(module.code, spec.place, question)) this.#addPlace(spec, module, place);
  }

  #ifuncsOf(module: ProbedModule): Ifuncs {
    const known = this.#ifuncs.get(module);
    const ifuncs = known ?? new Ifuncs(module.code);
    if (known === undefined) this.#ifuncs.set(module, ifuncs);
    return ifuncs;
  }

  #addPlace(spec: CheckedSpec, module: ProbedModule, place: ResolvedPlace): void {
    const site =
      module.sites.get(place.offset) ??
      this.#fresh.get(module)?.get(place.offset) ??
      this.#newSite(module, place);
    const registration = new Registration(site, spec, place.processes, place);
    addTo(this.#bySite, site, registration);
    this.#all.push(registration);
  }

  #newSite(module: ProbedModule, place: ResolvedPlace): Site {
    const { facts, code } = module;
    const site = new Site(module, new FactsOfSite(this.#table.nextSiteId(), facts, place, code));
    const known = this.#fresh.get(module);
    if (known === undefined) this.#fresh.set(module, new Map([[place.offset, site]]));
    else known.set(place.offset, site);
    return site;
  }

  /** One engine for everybody at a place; one that is armed keeps its own. Throws RefusedError. */
  chooseEngines(): void {
    for (const [site, own] of this.#bySite) {
      const all = [...site.registrations, ...own];
      const need = {
        site: site.facts,
        consumers: all.map((r) => r.consumer),
        processes: all.map((r) => r.spec.processes),
      };
      const wanted = own.find((r) => r.spec.engine !== 'auto')?.spec.engine ?? 'auto';
      const disagrees = own.find((r) => r.spec.engine !== 'auto' && r.spec.engine !== wanted);
      if (disagrees !== undefined) throw refused(disagrees, otherEngine(wanted, undefined));
      if (site.registrations.length > 0) this.#requireServed(site, own, wanted, need);
      else site.engine = this.#engineFor(own[0]!, wanted, need);
    }
  }

  #engineFor(registration: Registration, wanted: 'auto' | EngineName, need: Need): Engine {
    const choice = chooseEngine(wanted, this.#table.offers, need);
    if ('engine' in choice) return choice.engine;
    throw refused(registration, choice.refusal);
  }

  #requireServed(site: Site, own: readonly Registration[], wanted: 'auto' | EngineName, need: Need): void {
    const { name } = site.engine;
    if (wanted !== 'auto' && wanted !== name) throw refused(own[0]!, otherEngine(name, undefined));
    const choice = chooseEngine(name, this.#table.offers, need);
    if ('refusal' in choice) throw refused(own[0]!, otherEngine(name, choice.refusal));
  }

  sites(): Iterable<Site> {
    return this.#bySite.keys();
  }

  /** Into the table. Hits can reach the uprobes from here on. */
  commit(): Registration[] {
    for (const [site, own] of this.#bySite) {
      site.registrations = site.registrations.length === 0 ? own : [...site.registrations, ...own];
      if (site.module.sites.get(site.offset) !== site) this.#table.addSite(site);
      site.module.hold(own.length);
    }
    return this.#all;
  }
}

function refused({ site, symbol, symbolOffset }: Registration, refusal: Refusal): RefusedError {
  const what = symbol === undefined ? hex(site.offset) : `${symbol}+${hex(symbolOffset)}`;
  const text = site.module.code.arch.format(site.facts.instruction);
  return new RefusedError(`${site.module.path}:${what} (${text})`, refusal);
}

/**
 * A place is armed by one engine at a time: two would take each other's breakpoints for the program's. Hits would be lost while it
 * changes hands.
 */
const otherEngine = (name: EngineName | 'auto', why: Refusal | undefined): Refusal =>
  makeRefusal(
    'other-engine',
    `the place is armed by the ${name} engine` +
      (why === undefined ? '' : `, which cannot serve this uprobe, too: ${why.reason}`),
    () => 'Register all uprobes of the place together, or unregister the others first',
  );

/** Later aborts unregister. One listener for each signal, however many uprobes share it, until the last has ended. */
function followSignals(registrations: readonly Registration[]): void {
  const bySignal = new Map<AbortSignal, Registration[]>();
  for (const registration of registrations) {
    const { signal } = registration.spec;
    if (signal === undefined || registration.ended) continue;
    addTo(bySignal, signal, registration);
  }
  for (const [signal, own] of bySignal) {
    const abort = (): void => void unregisterAll(own);
    if (signal.aborted) abort();
    else signal.addEventListener('abort', abort, { once: true });
    let left = own.length;
    for (const registration of own)
      registration.onEnd = () => {
        if (--left === 0) signal.removeEventListener('abort', abort);
      };
  }
}
