/** One uprobe as the table keeps it. What users hold is a read-only view of it (uprobe.ts). */
import type { UprobeError } from '../base/errors.js';
import type { ArmReport, Consumer, EngineName, ProcessSet, Tally } from '../engines/engine.js';
import type { ResolvedPlace } from './place.js';
import { mappersOf } from '../process/mappers.js';
import type { Site } from './site.js';
import type { CheckedSpec } from './spec.js';
import type { ArmState } from './types.js';
import { Uprobe } from './uprobe.js';

let lastId = 0;

/** The pid in reports of engines that work by files. */
const WHOEVER_MAPS_IT = 0;

export class Registration {
  readonly id = ++lastId;
  readonly site: Site;
  readonly spec: CheckedSpec;
  readonly processes: ProcessSet;
  readonly symbol: string | undefined;
  readonly symbolOffset: number;
  readonly consumer: Consumer;
  #view: Uprobe | undefined;
  /** Hits whose handlers ran here. Far below 2^53 in any life of a process. */
  handled = 0;
  missed = 0;
  errors = 0;
  abandoned = 0;
  #calls: Map<number, unknown> | undefined;
  /** Handlers may run. False from the moment somebody asked to unregister. */
  live = true;
  /** Nobody's any more: out of its site, and no handler runs again. */
  ended = false;
  /** Why it ended, where nobody asked. */
  endedBecause: UprobeError | undefined;
  /** The unregistration under way. */
  leaving: Promise<void> | undefined;
  /** The user was told of an error on the process's warnings, there being no onError. */
  warned = false;
  /** Called once, when it has ended. */
  onEnd: (() => void) | undefined;
  /** The processes, of those that are named, that have ended: another one may have their pids by now. */
  #gonePids: Set<number> | undefined;
  /** Every process of the tree has ended. */
  #isTreeGone = false;
  /** What the engine had counted when the uprobe ended. */
  #final: Tally | undefined;

  constructor(site: Site, spec: CheckedSpec, processes: ProcessSet, place: ResolvedPlace) {
    this.site = site;
    this.spec = spec;
    this.processes = processes;
    this.symbol = place.symbol;
    this.symbolOffset = place.symbolOffset;
    this.consumer = {
      id: this.id,
      processes,
      pre: spec.preHandler !== undefined,
      post: spec.postHandler !== undefined,
      fault: spec.faultHandler !== undefined,
      return: spec.returnHandler !== undefined,
      programs: spec.programs,
      deadline: spec.deadline,
    };
  }

  /** What users see. */
  get view(): Uprobe {
    return (this.#view ??= new Uprobe(this));
  }

  /** What pre handlers have left for the return of the same call, by the call's number. */
  get calls(): Map<number, unknown> {
    return (this.#calls ??= new Map());
  }

  get engine(): EngineName {
    return this.site.engine.name;
  }

  /** Hits that were handled, or counted. */
  get nhits(): bigint {
    return BigInt(this.handled) + this.#tally.hits;
  }
  get nmissed(): bigint {
    return BigInt(this.missed) + this.#tally.missed;
  }
  get nerrors(): bigint {
    return BigInt(this.errors) + this.#tally.errors;
  }

  get #tally(): Tally {
    return this.#final ?? this.site.engine.tally(this.id);
  }

  wants(pid: number, trees: readonly number[] = []): boolean {
    const { processes } = this;
    if (processes === 'all') return true;
    if ('tree' in processes) return !this.#isTreeGone && trees.includes(processes.tree);
    return processes.includes(pid) && this.#gonePids?.has(pid) !== true;
  }

  /** The user has named this very process. */
  names(pid: number): boolean {
    const { processes } = this;
    return processes !== 'all' && ('tree' in processes ? processes.tree === pid : processes.includes(pid));
  }

  /** A process has ended. */
  processEnded(pid: number): void {
    const { processes } = this;
    if (processes !== 'all' && !('tree' in processes) && processes.includes(pid))
      (this.#gonePids ??= new Set()).add(pid);
  }

  /** Nobody is left in a tree. */
  treeEnded(root: number): void {
    const { processes } = this;
    if (processes !== 'all' && 'tree' in processes && processes.tree === root) this.#isTreeGone = true;
  }

  /** How it stands in each process. */
  states(): ArmState[] {
    const { processes } = this;
    if (processes !== 'all' && !('tree' in processes)) return processes.map((pid) => this.#stateOf(pid));
    const byFile = this.site.reportOf(WHOEVER_MAPS_IT);
    const pids = this.#own().map((r) => r.pid);
    if (byFile === undefined) return pids.map((pid) => this.#stateOf(pid));
    const now = this.ended ? [] : mappersOf(this.site.facts.module).processes.filter((p) => p.executable);
    return now.map(({ pid }) => ({ ...this.#stateOf(WHOEVER_MAPS_IT), pid }));
  }

  #stateOf(pid: number): ArmState {
    const { engine, ended, endedBecause } = this;
    const report = this.site.reportOf(pid);
    const isGone = ended || this.#gonePids?.has(pid) === true;
    const state = isGone ? 'gone' : (report?.state ?? 'pending');
    const known = isGone && report?.state !== 'gone' ? undefined : report?.refusal;
    const refusal = ended ? endedBecause && refusalOf(endedBecause) : known;
    return { pid, state, engine, ...(refusal && { refusal }) };
  }

  /** The engine's reports on processes of the tree; on all, where all are wanted. */
  #own(): ArmReport[] {
    const { processes } = this;
    const root = processes !== 'all' && 'tree' in processes ? processes.tree : undefined;
    return [...this.site.reports()].filter((r) => root === undefined || r.trees?.includes(root));
  }

  /** The sum of `states()`, without making them. */
  get state(): 'pending' | 'armed' | 'gone' {
    if (this.ended || this.#isTreeGone) return 'gone';
    const { processes, site } = this;
    if (processes === 'all' || 'tree' in processes)
      return this.#own().some((r) => r.state === 'armed') ? 'armed' : 'pending';
    if (this.#gonePids?.size === processes.length) return 'gone';
    return processes.some((pid) => this.wants(pid) && site.reportOf(pid)?.state === 'armed')
      ? 'armed'
      : 'pending';
  }

  /** Out of its site for good. */
  end(because?: UprobeError): void {
    this.#final = this.site.engine.settle(this.id);
    this.live = false;
    this.ended = true;
    this.#calls = undefined;
    this.endedBecause = because;
    this.onEnd?.();
    this.onEnd = undefined;
  }
}

const refusalOf = (e: UprobeError): { code: string; reason: string } => ({ code: e.code, reason: e.message });
