/**
 * One life of test/fixtures/soak.c's program, probed in all ways at once and at random. What must hold every time: each call
 * of a probed function was handled or counted as missed, all results are right, its end is its own.
 */
import assert from 'node:assert/strict';
import {
  openModule,
  registerUprobe,
  registerUprobes,
  UprobeError,
  type Uprobe,
  type UprobeGroup,
} from 'uprobe';
import { compileFixture, privateCopies } from '../helpers/compile.js';
import type { Random } from '../helpers/random.js';
import { running, started, type Life } from './life.js';
import { Shared, type Kind } from './shared.js';
import { lastingSpecs, stormSpecs, type Files, type Told } from './uprobes.js';

export interface Plan {
  readonly isAttached: boolean;
  readonly end: 'stop' | 'kill' | 'leave';
  readonly threads: number;
  readonly seed: number;
  readonly status: number;
  readonly ms: number;
}

export const somePlan = (random: Random): Plan => ({
  isAttached: random.once(3),
  end: random.pick(['stop', 'stop', 'stop', 'leave', 'kill']),
  threads: 1 + random.below(4),
  seed: random.below(1 << 20),
  status: random.below(100) + 2,
  ms: 300 + random.below(1200),
});

/** What a round has done. */
export interface Tally {
  hits: number;
  missed: number;
  storms: number;
  epochs: number;
  pauses: number;
  execs: number;
}

const PATIENCE_MS = 20_000;
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Kinds whose handlers are given all the time they want. */
const PATIENT: readonly Kind[] = [
  'counted',
  'pre',
  'post',
  'skipped',
  'changed',
  'thrown',
  'in_signal',
  'loaded',
];

export async function runRound(plan: Plan, random: Random): Promise<Tally> {
  const [program = '', library = ''] = privateCopies(
    compileFixture('soak'),
    compileFixture('soak-library', { flags: ['-shared'] }),
  );
  const shared = new Shared();
  const args = [shared.path, library, plan.threads, plan.seed, plan.status].map(String);
  const life = await (plan.isAttached ? running : started)(program, args);
  try {
    return await new Round(plan, random, { program, library }, shared, life).run();
  } finally {
    shared.set('stop', 1); // nothing that went wrong leaves a program behind
    shared.close();
  }
}

class Round {
  readonly #told: Told = { pre: 0, post: 0, skipped: 0, changed: 0, thrown: 0 };
  readonly #tally: Tally = { hits: 0, missed: 0, storms: 0, epochs: 0, pauses: 0, execs: 0 };
  readonly #lasting = new Map<Kind, Uprobe>();
  /** It has ended, or is to end: no more is started. */
  #isOver = false;
  #hasEnded = false;

  constructor(
    private readonly plan: Plan,
    private readonly random: Random,
    private readonly files: Files,
    private readonly shared: Shared,
    private readonly life: Life,
  ) {
    void life.ended.then(() => (this.#hasEnded = this.#isOver = true));
  }

  async run(): Promise<Tally> {
    const { life, plan, shared } = this;
    const specs = lastingSpecs(life.pid, this.files, this.#told, this.random);
    const group = await registerUprobes([...specs.values()]);
    [...specs.keys()].forEach((kind, i) => this.#lasting.set(kind, group.at(i)!));
    shared.set('go', 1);
    await life.resume();
    await this.#eventually('it is ready', () => (shared.state('ready') > 0 ? [] : ['it is not']));
    const busy = Promise.all([this.#storm(), this.#epochs(), this.#disturb()]);
    busy.catch(() => (this.#isOver = true));
    await Promise.race([life.ended, busy, sleep(plan.ms)]);
    assert.ok(!this.#hasEnded, `it ended before it was told to: ${this.#hasEnded && (await life.ended)}`);
    if (plan.end === 'kill') await this.#kill(busy);
    else await this.#stop(busy, group);
    await group.unregister();
    return this.#tally;
  }

  async #kill(busy: Promise<unknown>): Promise<void> {
    this.#isOver = true;
    const mayBeOn = 2 * (this.shared.state('alive') + 1); // each in a call, and in a signal handler's
    this.life.kill();
    assert.equal(await this.life.ended, 'SIGKILL');
    await busy;
    await this.#eventually('what a killed program called is accounted for', () => this.#unaccounted(mayBeOn));
    this.#count();
  }

  async #stop(busy: Promise<unknown>, group: UprobeGroup): Promise<void> {
    const { life, plan, shared } = this;
    this.#isOver = true;
    await busy;
    if (plan.end === 'leave') {
      await this.#pause();
      await this.#eventually('all is accounted for when it is left', () => this.#unaccounted(0));
      await group.unregister();
      shared.set('paused', 0);
      await sleep(50);
    }
    this.#count();
    shared.set('stop', 1);
    const status = await this.#inTime('it ends', life.ended);
    assert.equal(shared.state('failed'), 0, 'wrong results');
    assert.equal(status, plan.status);
    if (plan.end !== 'leave') await this.#eventually('all is accounted for', () => this.#unaccounted(0));
  }

  #count(): void {
    for (const { nhits, nmissed } of this.#lasting.values()) {
      this.#tally.hits += Number(nhits);
      this.#tally.missed += Number(nmissed);
    }
  }

  /** Kinds whose hits are not the calls made, but for as many calls as may be on their way. */
  #unaccounted(mayBeOn: number): string[] {
    const found: string[] = [];
    const expect = (what: string, is: bigint | number, should: bigint | number): void => {
      if (Math.abs(Number(should) - Number(is)) > mayBeOn) found.push(`${what}: ${is}, should be ${should}`);
    };
    for (const [kind, { nhits, nmissed }] of this.#lasting) {
      expect(`${kind}: ${nhits} hits and ${nmissed} missed`, nhits + nmissed, this.shared.calls(kind));
      if (PATIENT.includes(kind)) expect(`${kind}: missed`, nmissed, 0);
    }
    const { pre, post, skipped, changed, thrown } = this.#told;
    const hits = (kind: Kind): bigint => this.#lasting.get(kind)!.nhits;
    expect('pre handlers run', pre, hits('pre'));
    expect('post handlers run', post, hits('post'));
    expect('calls that were skipped', this.shared.state('wasSkipped'), skipped);
    expect('calls with changed arguments', this.shared.state('wasChanged'), changed);
    expect('handlers that threw', this.#lasting.get('thrown')!.nerrors, thrown);
    return found;
  }

  // ---- meanwhile

  /** Uprobes that come and go, at any moment. */
  async #storm(): Promise<void> {
    const { pid } = this.life;
    const view = openModule(this.files.program);
    const storm = [...view.matching('soak_storm')].flatMap((fn) => [...view.instructions(fn)]);
    const offsets = storm
      .map(({ offset }) => offset)
      .filter((offset) => view.plan({ offset }).chosen !== undefined);
    view.close();
    while (!this.#isOver) {
      const group = await this.#unlessEnded(() =>
        registerUprobes(stormSpecs(pid, this.files.program, offsets, this.random)),
      );
      await sleep(this.random.below(30));
      await group?.unregister();
      this.#tally.storms++;
    }
  }

  /** A uprobe that is there while calls are made: exactly those. */
  async #epochs(): Promise<void> {
    const { shared, random } = this;
    while (!this.#isOver) {
      await this.#closeGate();
      const before = shared.calls('epoch');
      let called = 0n;
      const handler = random.pick([
        {},
        { preHandler: () => void called++ },
        { postHandler: () => void called++ },
      ]);
      const spec = {
        pathname: this.files.program,
        symbol: 'soak_epoch',
        processes: this.life.pid,
        deadline: 30_000,
      };
      const uprobe = await this.#unlessEnded(() => registerUprobe({ ...spec, ...handler }));
      if (uprobe === undefined) return;
      shared.set('gate', 0);
      await sleep(random.below(100));
      await this.#closeGate();
      const calls = shared.calls('epoch') - before;
      await uprobe.unregister();
      if (this.#hasEnded || this.plan.end === 'kill') continue;
      assert.equal(uprobe.nmissed, 0n);
      assert.equal(uprobe.nhits, calls, 'hits while a uprobe was there');
      if (Object.keys(handler).length > 0) assert.equal(called, calls);
      shared.set('gate', 0);
      this.#tally.epochs++;
      await sleep(random.below(50));
    }
    shared.set('gate', 0);
  }

  async #closeGate(): Promise<void> {
    this.shared.set('gate', 1);
    await this.#eventually('nobody is behind the gate', () => this.#still(['inGate', 0]));
  }

  /** Signals, executing itself anew, and looks at it while it stands still. */
  async #disturb(): Promise<void> {
    const { shared, random, life } = this;
    while (!this.#isOver) {
      await sleep(random.below(120));
      if (this.#isOver) return;
      switch (random.below(4)) {
        case 0:
          shared.set('exec', 1);
          this.#tally.execs++;
          break;
        case 1:
          await this.#pause();
          if (!this.#hasEnded)
            await this.#eventually('all is accounted for in a pause', () => this.#unaccounted(0));
          shared.set('paused', 0);
          this.#tally.pauses++;
          break;
        default:
          process.kill(life.pid, 'SIGUSR1');
      }
    }
  }

  async #pause(): Promise<void> {
    const { shared } = this;
    shared.set('paused', 1);
    await this.#eventually('it stands still', () =>
      this.#still(['parked', shared.state('alive')], ['inHandler', 0]),
    );
  }

  #still(...states: readonly (readonly [Parameters<Shared['state']>[0], number])[]): string[] {
    if (this.#hasEnded) return [];
    return states
      .filter(([name, should]) => this.shared.state(name) !== should)
      .map(([name, should]) => `${name} is ${this.shared.state(name)}, not ${should}`);
  }

  // ---- waiting

  /** Undefined where the process ended meanwhile: then it may be refused. */
  async #unlessEnded<T>(register: () => Promise<T>): Promise<T | undefined> {
    try {
      return await register();
    } catch (e) {
      if (!(e instanceof UprobeError)) throw e;
      await Promise.race([this.life.ended, sleep(2000)]);
      if (!this.#hasEnded) throw e;
      return undefined;
    }
  }

  async #eventually(what: string, wrong: () => string[]): Promise<void> {
    const limit = performance.now() + PATIENCE_MS;
    for (let found = wrong(); found.length > 0; found = wrong()) {
      if (performance.now() > limit) assert.fail(`not so: ${what}: ${found.join('; ')}`);
      await sleep(5);
    }
  }

  async #inTime<T>(what: string, promise: Promise<T>): Promise<T> {
    const late = Symbol();
    const result = await Promise.race([promise, sleep(PATIENCE_MS).then(() => late)]);
    if (result === late) this.life.kill();
    assert.notEqual(result, late, `not in time: ${what}`);
    return result as T;
  }
}
