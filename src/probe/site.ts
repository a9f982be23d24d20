/** One place of one file, and everybody who wants its hits. */
import type { FileOffset } from '../base/address.js';
import type { ArmReport, Consumer, Engine, SiteFacts } from '../engines/engine.js';
import type { ProbedModule } from './module.js';
import type { Registration } from './registration.js';

export class Site {
  readonly module: ProbedModule;
  readonly facts: SiteFacts;
  /** The engine that serves all uprobes here: known before the first is armed, and the same from then on. */
  engine!: Engine;
  /** In registration order. Replaced, never changed in place: a dispatch may be going through it. */
  registrations: readonly Registration[] = [];
  /** The last word of the engine on each process; the only one needs no map, and many sites have no more. */
  #only: ArmReport | undefined;
  #several: Map<number, ArmReport> | undefined;

  constructor(module: ProbedModule, facts: SiteFacts) {
    this.module = module;
    this.facts = facts;
  }

  get id(): number {
    return this.facts.id;
  }
  get offset(): FileOffset {
    return this.facts.offset;
  }

  /** What the engine shall do here now. */
  consumers(): Consumer[] {
    return this.registrations.map((r) => r.consumer);
  }

  add(registration: Registration): void {
    this.registrations = [...this.registrations, registration];
  }

  remove(gone: ReadonlySet<Registration>): void {
    this.registrations = this.registrations.filter((r) => !gone.has(r));
  }

  /** The engine's last report on a process; undefined before the first. */
  reportOf(pid: number): ArmReport | undefined {
    if (this.#several !== undefined) return this.#several.get(pid);
    return this.#only?.pid === pid ? this.#only : undefined;
  }

  reports(): Iterable<ArmReport> {
    if (this.#several !== undefined) return this.#several.values();
    return this.#only === undefined ? [] : [this.#only];
  }

  /** Keep a report. False when it says nothing new. */
  keep(report: ArmReport): boolean {
    const known = this.reportOf(report.pid);
    if (known?.state === report.state && known.refusal?.code === report.refusal?.code) return false;
    // A process nobody named is forgotten when it is gone: nothing grows with the processes ever seen.
    const isNamed = this.registrations.some((r) => r.names(report.pid));
    if (report.state === 'gone' && !isNamed) this.#forget(report.pid);
    else this.#set(report);
    return true;
  }

  #set(report: ArmReport): void {
    const isFirst = this.#only === undefined || this.#only.pid === report.pid;
    if (this.#several === undefined && isFirst) {
      this.#only = report;
      return;
    }
    this.#several ??= new Map([[this.#only!.pid, this.#only!]]);
    this.#several.set(report.pid, report);
  }

  #forget(pid: number): void {
    this.#several?.delete(pid);
    if (this.#only?.pid === pid) this.#only = undefined;
  }
}
