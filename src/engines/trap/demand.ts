/**
 * What is asked for: sites with their consumers, processes and trees of processes; and bringing every process concerned to
 * it. One transaction at a time.
 */
import { ProcessError, UprobeError, messageOf, type Refusal } from '../../base/errors.js';
import { statusField } from '../../linux/proc-status.js';
import { childrenOf } from '../../process/descendants.js';
import { MOST_TREES, type ArmReport, type SiteFacts } from '../engine.js';
import type { AddressSpace } from './address-space.js';
import type { Arming } from './arming.js';
import { isEnd } from './dying.js';
import type { Applied, TracerChange, TracerConsumer } from './protocol.js';
import type { Process } from './thread.js';
import type { Tracees } from './tracees.js';
import { Trees } from './trees.js';
import { pidsOf, treeOf, wantFor } from './wants.js';

/** How long a process that is on its way out of our hands may take, ms. */
const LEAVING_MS = 3000;

type SiteIds = Set<number>;

interface Registered {
  readonly site: SiteFacts;
  readonly consumers: readonly TracerConsumer[];
}

export class Demand {
  readonly #sites = new Map<number, Registered>();
  readonly #trees = new Trees();
  /** How many consumers want a tree, by its root. */
  readonly #treeUsers = new Map<number, number>();

  constructor(
    private readonly tracees: Tracees,
    private readonly arming: Arming,
    /** Processes that are kept although nothing may be wanted of them. */
    private readonly paused: ReadonlySet<Process>,
  ) {}

  /** What was is restored when a part of it fails. */
  apply(changes: readonly TracerChange[]): Applied {
    const before = changes.map(({ site }) => this.#sites.get(site.id) ?? { site, consumers: [] });
    try {
      return this.#bringAbout(changes);
    } catch (e) {
      this.#bringAbout(before);
      throw e;
    }
  }

  /** A new process of a tree: what is wanted of it, and in which trees it is. */
  inherit(child: Process, parent: Process): void {
    this.#trees.inherit(child, parent);
    for (const [id, want] of parent.wants) {
      const own = want.byPid ? this.#wantOf(id, child) : want;
      if (own === undefined) continue;
      child.wants.set(id, own);
      const state = parent.states.get(id);
      if (state !== undefined) child.states.set(id, { ...state, pid: child.pid, trees: child.trees });
    }
    child.role = child.wants.size > 0 ? 'wanted' : 'carried';
  }

  /** A process is no longer ours. Returns the roots of the trees that have come to their end with it. */
  leave(process: Process): number[] {
    return this.#trees.leave(process);
  }

  /** What a process that was lost leaves behind: whether anybody wants this memory, and all that is armed in it. */
  tidy(space: AddressSpace): ArmReport[] {
    space.wasLeft = space.frozen > 0;
    const processes = [...space.processes()];
    if (space.wasLeft || processes.every((p) => p.role === 'leaving')) return [];
    if (!this.#isKept(space)) {
      this.arming.detach(space);
      return [];
    }
    const armed = [...space.arms.values()].map((arm) => arm.want?.site.id);
    const isSurplus = (id: number): boolean => !processes.some((p) => p.wants.has(id));
    return armed.some((id) => id !== undefined && isSurplus(id)) ? this.arming.sync(processes[0]!) : [];
  }

  #wantOf(siteId: number, process: Process): ReturnType<typeof wantFor> {
    const registered = this.#sites.get(siteId);
    return registered && wantFor(registered.site, registered.consumers, process);
  }

  #isKept(space: AddressSpace): boolean {
    return space.isWanted || [...space.processes()].some((p) => this.paused.has(p));
  }

  #bringAbout(changes: readonly TracerChange[]): Applied {
    const named = new Named();
    for (const { site, consumers } of changes) {
      const old = this.#sites.get(site.id)?.consumers ?? [];
      named.add(site.id, old, consumers);
      this.#countTrees(old, -1);
      this.#countTrees(consumers, 1);
      if (consumers.length === 0) this.#sites.delete(site.id);
      else this.#sites.set(site.id, { site, consumers });
    }
    const touched = new Touched();
    const reports: ArmReport[] = [];
    for (const [pid, ids] of named.pids) {
      const process = this.#named(pid, named.newPids.has(pid));
      if (process !== undefined) touched.add(process, ids, true);
      else reports.push(...this.#goneReports(pid, ids));
    }
    const refused: ArmReport[] = [];
    for (const [root, ids] of named.roots) refused.push(...this.#touchTree(root, ids, named, touched));
    for (const [process, ids] of touched.processes)
      reports.push(...this.#bringProcessAbout(process, ids, touched.isMust(process), named, refused));
    return { reports, refused };
  }

  #countTrees(consumers: readonly TracerConsumer[], change: number): void {
    for (const { processes } of consumers) {
      const root = treeOf(processes);
      if (root === undefined) continue;
      const count = (this.#treeUsers.get(root) ?? 0) + change;
      if (count > 0) this.#treeUsers.set(root, count);
      else this.#treeUsers.delete(root);
    }
  }

  #goneReports(pid: number, ids: SiteIds): ArmReport[] {
    return [...ids].filter((id) => this.#sites.has(id)).map((siteId) => ({ siteId, pid, state: 'gone' }));
  }

  /** A process that is named; undefined where it has ended since it was named first. */
  #named(pid: number, isNew: boolean): Process | undefined {
    const known = this.#probed(pid);
    if (known === undefined && !isNew) return undefined;
    const process = known ?? this.#attach(pid);
    if (isNew) process.isNamed = true;
    return process.isNamed ? process : undefined;
  }

  #probed(pid: number): Process | undefined {
    const process = this.tracees.processes.get(pid);
    return process?.role === 'leaving' ? undefined : process;
  }

  /** A process that is still on its way out of our hands is waited for, then attached anew. */
  #attach(pid: number): Process {
    const leaving = this.tracees.processes.get(pid);
    const limit = performance.now() + LEAVING_MS;
    while (leaving !== undefined && leaving.threads.size > 0 && performance.now() < limit)
      this.tracees.take(50);
    return this.tracees.attach(pid);
  }

  // ---- trees

  /** Everybody in a tree, which may be a new one, or one that nobody wants any more. Returns who of it was refused. */
  #touchTree(root: number, ids: SiteIds, named: Named, touched: Touched): ArmReport[] {
    if (!this.#treeUsers.has(root)) {
      for (const process of this.#trees.drop(root)) touched.add(process, ids, false);
      return [];
    }
    const isNew = named.newRoots.has(root);
    if (isNew && this.#trees.has(root) && this.#probed(root)?.trees.includes(root) !== true)
      throw new ProcessError(
        'no-such-process',
        root,
        `process ${root}, of whose tree other processes are probed, has ended`,
      );
    const refused = isNew && !this.#trees.has(root) ? this.#plant(root, ids) : [];
    for (const process of this.#trees.members(root)) touched.add(process, ids, process.pid === root);
    return refused;
  }

  /**
   * The root first: from then on no new descendant escapes. Those that exist are looked for until nobody new turns up, for
   * while one is attached others are made.
   */
  #plant(root: number, ids: SiteIds): ArmReport[] {
    if (!this.#trees.add(root, this.#probed(root) ?? this.#attach(root))) throw tooManyTrees(root);
    const refused = new Map<number, Refusal>();
    for (let found = 1; found > 0;) {
      found = 0;
      const looked = new Set<number>();
      // also below those that are refused: what they have made already is in the tree all the same
      for (const { pid } of this.#trees.members(root))
        found += this.#plantChildren(pid, root, refused, looked);
      for (const pid of refused.keys()) found += this.#plantChildren(pid, root, refused, looked);
    }
    return [...refused].flatMap(([pid, refusal]) => refusedReports(pid, [root], ids, refusal));
  }

  /** Returns how many were new. */
  #plantChildren(parent: number, root: number, refused: Map<number, Refusal>, looked: Set<number>): number {
    let found = 0;
    for (const pid of childrenOf(parent)) {
      if (looked.has(pid) || refused.has(pid)) continue;
      looked.add(pid);
      const process = this.#descendant(pid, refused);
      if (process === undefined || process.trees.includes(root)) continue;
      if (this.#trees.add(root, process)) found++;
      else refused.set(pid, refusalOf(tooManyTrees(pid)));
    }
    return found;
  }

  /** A process that exists already; undefined where there is none, or it may not be attached. */
  #descendant(pid: number, refused: Map<number, Refusal>): Process | undefined {
    try {
      return this.#probed(pid) ?? this.#attach(pid);
    } catch (e) {
      if (hasEnded(pid, e)) return undefined;
      refused.set(pid, refusalOf(e));
      return undefined;
    }
  }

  // ---- one process

  /** `must`: it was asked for itself, and what goes wrong with it is an error; its end only where it is newly asked for. */
  #bringProcessAbout(
    process: Process,
    ids: SiteIds,
    must: boolean,
    named: Named,
    refused: ArmReport[],
  ): ArmReport[] {
    for (const id of ids) {
      const want = this.#wantOf(id, process);
      if (want === undefined) process.wants.delete(id);
      else process.wants.set(id, want);
    }
    if (process.role === 'leaving' || process.threads.size === 0) {
      if (must) return this.#goneReports(process.pid, ids);
      return [];
    }
    const { space } = process;
    try {
      if (!this.#isKept(space)) {
        this.arming.detach(space);
        return [];
      }
      process.role = process.wants.size > 0 || this.paused.has(process) ? 'wanted' : 'carried';
      return this.arming.sync(process, ids);
    } catch (e) {
      if (must && isEnd(e) && !named.isNew(process)) return this.#goneReports(process.pid, ids);
      if (must) throw e;
      this.#without(process, ids);
      if (!hasEnded(process.pid, e))
        refused.push(...refusedReports(process.pid, process.trees, ids, refusalOf(e)));
      return [];
    }
  }

  /** A descendant that cannot be brought to these sites now: it stays as it is, or is let go where that is nothing. */
  #without(process: Process, ids: SiteIds): void {
    for (const id of ids) process.wants.delete(id);
    if (process.threads.size > 0 && !this.#isKept(process.space)) this.arming.detach(process.space);
  }
}

/** Which processes and trees the consumers of some sites name, before and after a change. */
class Named {
  readonly pids = new Map<number, SiteIds>();
  readonly roots = new Map<number, SiteIds>();
  /** Those that a new consumer names: they must be there. */
  readonly newPids = new Set<number>();
  readonly newRoots = new Set<number>();

  add(siteId: number, old: readonly TracerConsumer[], now: readonly TracerConsumer[]): void {
    const known = new Set(old.map((c) => c.id));
    for (const { processes } of old) this.#note(siteId, processes);
    for (const { id, processes } of now) {
      this.#note(siteId, processes);
      if (known.has(id)) continue;
      for (const pid of pidsOf(processes)) this.newPids.add(pid);
      const root = treeOf(processes);
      if (root !== undefined) this.newRoots.add(root);
    }
  }

  isNew({ pid, trees }: Process): boolean {
    return this.newPids.has(pid) || trees.some((root) => this.newRoots.has(root));
  }

  #note(siteId: number, processes: TracerConsumer['processes']): void {
    for (const pid of pidsOf(processes)) addId(this.pids, pid, siteId);
    const root = treeOf(processes);
    if (root !== undefined) addId(this.roots, root, siteId);
  }
}

/** The processes that a change concerns, and at which sites. */
class Touched {
  readonly processes = new Map<Process, SiteIds>();
  readonly #must = new Set<Process>();

  add(process: Process, ids: SiteIds, must: boolean): void {
    for (const id of ids) addId(this.processes, process, id);
    if (must) this.#must.add(process);
  }

  isMust(process: Process): boolean {
    return this.#must.has(process);
  }
}

function addId<K>(map: Map<K, SiteIds>, key: K, id: number): void {
  const ids = map.get(key);
  if (ids) ids.add(id);
  else map.set(key, new Set([id]));
}

const refusedReports = (pid: number, trees: readonly number[], ids: SiteIds, refusal: Refusal): ArmReport[] =>
  [...ids].map((siteId) => ({ siteId, pid, trees, state: 'refused', refusal }));

const refusalOf = (e: unknown): Refusal => ({
  code: e instanceof UprobeError ? e.code : 'internal-error',
  reason: messageOf(e),
});

/** Whoever ends while we come to it was just quicker. */
const hasEnded = (pid: number, e: unknown): boolean =>
  isEnd(e) || /^[ZX]/.test(statusField(pid, 'State') ?? 'X');

const tooManyTrees = (pid: number): ProcessError =>
  new ProcessError(
    'too-many-trees',
    pid,
    `process ${pid} is in ${MOST_TREES} trees that are probed already, and no process can be in more: take one of them out first`,
  );
