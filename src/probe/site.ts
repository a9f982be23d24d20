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
  /** The last word of the engine on each process. */
  readonly #reports = new Map<number, ArmReport>();

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
    return this.#reports.get(pid);
  }

  reports(): Iterable<ArmReport> {
    return this.#reports.values();
  }

  /** Keep a report. False when it says nothing new. */
  keep(report: ArmReport): boolean {
    const known = this.#reports.get(report.pid);
    if (known?.state === report.state && known.refusal?.code === report.refusal?.code) return false;
    // A process nobody named is forgotten when it is gone: nothing grows with the processes ever seen.
    const isNamed = this.registrations.some((r) => r.names(report.pid));
    if (report.state === 'gone' && !isNamed) this.#reports.delete(report.pid);
    else this.#reports.set(report.pid, report);
    return true;
  }
}
