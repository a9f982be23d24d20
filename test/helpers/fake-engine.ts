/** An engine that arms nothing: it remembers what it was told, and hits come from the test. */
import type { Refusal } from '#uprobe/base/errors.js';
import type {
  ArmReport,
  Consumer,
  Engine,
  EngineName,
  EngineSink,
  RawHit,
  SiteChange,
  Tally,
  Verdict,
} from '#uprobe/engines/engine.js';
import { NO_TALLY } from '#uprobe/engines/engine.js';
import type { EngineOffer } from '#uprobe/probe/engine-choice.js';
import { register } from '#uprobe/probe/register.js';
import { checkSpecs } from '#uprobe/probe/spec.js';
import { Table } from '#uprobe/probe/table.js';
import type { UprobeSpec } from '#uprobe/probe/types.js';
import type { Uprobe } from '#uprobe/probe/uprobe.js';
import { UprobeGroup } from '#uprobe/probe/uprobe-group.js';

export interface FakeHit extends Partial<Omit<RawHit, 'siteId'>> {
  readonly pid?: number;
}

export class FakeEngine implements Engine {
  readonly name: EngineName;
  /** Armed sites and who wants them. */
  readonly armed = new Map<number, readonly Consumer[]>();
  /** Every call of `apply`, in order. */
  readonly applied: (readonly SiteChange[])[] = [];
  /** The next `apply` rejects with this. */
  failure: Error | undefined;
  /** `apply` waits for it. */
  gate: Promise<void> | undefined;
  refusal: Refusal | undefined;
  /** What is reported for each process. */
  report: Pick<ArmReport, 'state' | 'refusal'> = { state: 'armed' };
  readonly counts = new Map<number, bigint>();
  readonly #sink: EngineSink;
  /** How many calls of `apply` run at this moment for a module, and the most ever. */
  readonly running = new Map<number, number>();
  mostAtOnce = 0;

  constructor(sink: EngineSink, name: EngineName = 'trap') {
    this.#sink = sink;
    this.name = name;
  }

  get sink(): EngineSink {
    return this.#sink;
  }

  canArm(): Refusal | undefined {
    return this.refusal;
  }

  async apply(changes: readonly SiteChange[]): Promise<readonly ArmReport[]> {
    this.applied.push(changes);
    const modules = new Set(changes.map((c) => c.site.module.id));
    this.#enter(modules, 1);
    try {
      await (this.gate ?? Promise.resolve());
      const { failure } = this;
      if (failure !== undefined) {
        this.failure = undefined;
        throw failure;
      }
      return changes.flatMap((change) => this.#arm(change));
    } finally {
      this.#enter(modules, -1);
    }
  }

  #enter(modules: ReadonlySet<number>, by: number): void {
    for (const id of modules) {
      const now = (this.running.get(id) ?? 0) + by;
      this.running.set(id, now);
      this.mostAtOnce = Math.max(this.mostAtOnce, now);
    }
  }

  #arm({ site, consumers }: SiteChange): ArmReport[] {
    if (consumers.length === 0) this.armed.delete(site.id);
    else this.armed.set(site.id, consumers);
    const trees = new Set(
      consumers.flatMap(({ processes: p }) => (p !== 'all' && 'tree' in p ? [p.tree] : [])),
    );
    const pids = new Set([
      ...trees,
      ...consumers.flatMap(({ processes: p }) => (p === 'all' || 'tree' in p ? [] : p)),
    ]);
    return [...pids].map((pid) => ({
      siteId: site.id,
      pid,
      trees: trees.has(pid) ? [pid] : [],
      ...this.report,
    }));
  }

  settle(consumerId: number): Tally {
    return this.tally(consumerId);
  }
  tally(consumerId: number): Tally {
    return { ...NO_TALLY, hits: this.counts.get(consumerId) ?? 0n };
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
  closeSync(): void {}

  /** A thread arrives at the place of `uprobe`. */
  hit(uprobe: Uprobe | number, hit: FakeHit): Verdict {
    return this.#sink.hit(this.rawHit(uprobe, hit));
  }

  rawHit(uprobe: Uprobe | number, hit: FakeHit): RawHit {
    return {
      siteId: typeof uprobe === 'number' ? uprobe : this.siteOf(uprobe),
      phase: 'pre',
      pid: process.pid,
      tid: hit.pid ?? process.pid,
      trees: [],
      call: 0,
      entry: { time: 0n, args: new BigUint64Array(6), lastConsumer: Number.MAX_SAFE_INTEGER },
      fault: { signal: 11, code: 1, address: 0n },
      time: 0n,
      regs: new BigUint64Array(27),
      floatRegs: () => new Uint8Array(512),
      read: () => undefined,
      write: () => undefined,
      alive: () => true,
      ...hit,
    };
  }

  siteOf(uprobe: Uprobe): number {
    for (const changes of this.applied)
      for (const { site, consumers } of changes)
        if (consumers.some((c) => c.id === uprobe.id)) return site.id;
    throw new Error(`uprobe ${uprobe.id} was never armed`);
  }
}

export interface FakeSystem {
  readonly table: Table;
  readonly engine: FakeEngine;
  readonly registerAll: (specs: Iterable<UprobeSpec>) => Promise<UprobeGroup>;
  readonly registerOne: (spec: UprobeSpec) => Promise<Uprobe>;
}

const offerOf = (made: FakeEngine): EngineOffer => ({
  name: made.name,
  refuseProcesses: (p) => (p === 'all' ? { code: 'needs-processes', reason: 'not all' } : undefined),
  canArm: () => made.canArm(),
  engine: () => made,
});

/** A table of its own with a fake trap engine, and one of its own for `jump` where that is asked for. */
export function fakeSystem({ withJump = false } = {}): FakeSystem {
  let engine: FakeEngine | undefined;
  const table = new Table((sinkOf): readonly EngineOffer[] => [
    offerOf((engine = new FakeEngine(sinkOf('trap')))),
    withJump
      ? offerOf(new FakeEngine(sinkOf('jump'), 'jump'))
      : { name: 'jump', missing: { code: 'engine-not-available', reason: 'there is no jump engine' } },
  ]);
  const registerAll = async (specs: Iterable<UprobeSpec>): Promise<UprobeGroup> => {
    const checked = checkSpecs(specs);
    return new UprobeGroup(await register(table, checked), checked);
  };
  const registerOne = async (spec: UprobeSpec): Promise<Uprobe> => (await registerAll([spec])).at(0)!;
  return { table, engine: engine!, registerAll, registerOne };
}
