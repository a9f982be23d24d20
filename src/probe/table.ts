/**
 * Everything that is registered now: modules by (device, inode), sites by file offset, and by id for hits.
 *
 * Order of locks: each module has one mutex, held while what is armed in it changes. Whoever needs several takes them in
 * ascending order of module ids (register.ts, the only one); taking uprobes out needs one at a time. Nothing else is
 * locked: between two awaits JavaScript runs alone. A hit takes no lock, so a handler can never wait for one.
 */
import { UprobeError, messageOf } from '../base/errors.js';
import type { ArmReport, EngineName, EngineSink } from '../engines/engine.js';
import type { OpenedFile } from '../process/opened-file.js';
import { CodeFile } from './code-file.js';
import { countAbandoned, countMissed, dispatch } from './dispatch.js';
import type { EngineOffer } from './engine-choice.js';
import { ProbedModule, type ModuleHost } from './module.js';
import type { Registration } from './registration.js';
import { reportState } from './report.js';
import type { Site } from './site.js';
import { unregisterAll } from './uprobe-group.js';

export class Table {
  readonly offers: readonly EngineOffer[];
  readonly #modules = new Map<string, ProbedModule>();
  readonly #sites = new Map<number, Site>();
  readonly #host: ModuleHost;
  #lastSiteId = 0;

  constructor(offers: (sinkOf: (name: EngineName) => EngineSink) => readonly EngineOffer[]) {
    this.#host = {
      siteGone: (site) => this.#sites.delete(site.id),
      moduleGone: (module) => {
        if (this.#modules.get(keyOf(module.facts)) === module) this.#modules.delete(keyOf(module.facts));
      },
    };
    this.offers = offers((name) => this.#sinkOf(name));
  }

  // What is registered

  registrations(): Registration[] {
    return [...this.#sites.values()].flatMap((s) => s.registrations).sort((a, b) => a.id - b.id);
  }

  modules(): ProbedModule[] {
    return [...this.#modules.values()].filter((m) => m.sites.size > 0);
  }

  /** The module of an opened file, held for the caller. Takes `file` over: one that is known already is closed. */
  hold(file: OpenedFile): ProbedModule {
    const key = keyOf(file);
    let module = this.#modules.get(key);
    if (module === undefined) {
      module = new ProbedModule(new CodeFile(file), this.#host);
      this.#modules.set(key, module);
    } else {
      file.close();
    }
    module.hold();
    return module;
  }

  nextSiteId(): number {
    return ++this.#lastSiteId;
  }

  /** Hits at this site can come from now on. */
  addSite(site: Site): void {
    this.#sites.set(site.id, site);
    site.module.sites.set(site.offset, site);
  }

  // What engines say

  #sinkOf(name: EngineName): EngineSink {
    return {
      hit: (raw) => {
        const site = this.#sites.get(raw.siteId);
        return site === undefined ? { skip: false, changed: false } : dispatch(site, raw, leave);
      },
      missed: (siteId, pid, trees, phase) => {
        const site = this.#sites.get(siteId);
        if (site !== undefined) countMissed(site, pid, trees, phase);
      },
      abandoned: (siteId, pid, trees, calls) => {
        const site = this.#sites.get(siteId);
        if (site !== undefined) countAbandoned(site, pid, trees, calls);
      },
      state: (report) => this.take(report),
      ended: (pid) => this.#processEnded(pid),
      born: (pid, parent, trees) => this.#processBorn(pid, parent, trees),
      treeEnded: (root) => {
        for (const registration of this.#every()) registration.treeEnded(root);
      },
      failed: (error) => this.#engineFailed(name, error),
    };
  }

  /** Keep an engine's report and tell whom it concerns. */
  take(report: ArmReport): void {
    const site = this.#sites.get(report.siteId);
    if (site === undefined || !site.keep(report)) return;
    const { pid, state, refusal } = report;
    const engine = site.engine.name;
    for (const registration of site.registrations)
      if (registration.live && registration.wants(pid, report.trees))
        reportState(registration, { pid, state, engine, ...(refusal && { refusal }) });
  }

  #processEnded(pid: number): void {
    for (const site of [...this.#sites.values()]) {
      const known = site.reportOf(pid);
      const isNamed = site.registrations.some((r) => r.names(pid));
      if (known?.state !== 'gone' && (known !== undefined || isNamed))
        this.take({ siteId: site.id, pid, trees: known?.trees ?? [pid], state: 'gone' });
      for (const registration of site.registrations) registration.processEnded(pid);
    }
  }

  /** Where its parent stands, it stands, too: as copies of one memory. */
  #processBorn(pid: number, parent: number, trees: readonly number[]): void {
    for (const site of [...this.#sites.values()]) {
      const report = site.reportOf(parent);
      if (report === undefined || report.state === 'gone') continue;
      if (site.registrations.some((r) => r.wants(pid, trees))) this.take({ ...report, pid, trees });
    }
  }

  *#every(): Iterable<Registration> {
    for (const site of this.#sites.values()) yield* site.registrations;
  }

  #engineFailed(name: EngineName, error: Error): void {
    const because = new UprobeError(
      'engine-failed',
      `the ${name} engine failed and its probes are gone: ${messageOf(error)}`,
      { cause: error },
    );
    const concerned = [...this.#sites.values()].filter((s) => s.engine.name === name);
    for (const site of concerned) void site.module.unregister(site.registrations, because);
  }

  /** Take everything out. */
  async close(): Promise<void> {
    await unregisterAll(this.registrations());
  }
}

const leave = (registration: Registration): void => {
  void registration.site.module.unregister([registration]);
};

const keyOf = ({ dev, ino }: { readonly dev: bigint; readonly ino: bigint }): string => `${dev}:${ino}`;
