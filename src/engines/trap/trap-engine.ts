/**
 * The trap engine as the table of probes sees it: `int3` and a ptrace stop. This side runs on the thread that
 * registered the probes, whose event loop calls the handlers; the tracer has a thread of its own.
 */
import { availableParallelism } from 'node:os';
import type { Worker } from 'node:worker_threads';
import { ProcessError, UprobeError, type Refusal } from '../../base/errors.js';
import { signalName } from '../../linux/signal-name.js';
import { Bell } from '../../linux/doorbell.js';
import { futexWait } from '../../linux/futex.js';
import { readMemory, writeMemory } from '../../linux/process-memory.js';
import type { ExitStatus, SpawnRequest, Spawned } from '../../process/spawn.js';
import {
  MOST_TREES,
  NO_TALLY,
  type ArmReport,
  type CallEntry,
  type Consumer,
  type Engine,
  type EngineSink,
  type Phase,
  type RaisedSignal,
  type RawHit,
  type SiteChange,
  type Tally,
} from '../engine.js';
import { closeTracer } from './close-tracer.js';
import {
  ARGS,
  AWAKE,
  FIELD,
  FP,
  Mailbox,
  PHASES,
  REASON,
  STATE,
  VERDICT,
  WIDE,
  WORD,
  COUNTERS,
} from './mailbox.js';
import { Guard } from './guard.js';
import { Ledger } from './ledger.js';
import {
  fromPlain,
  plainSite,
  type Answer,
  type Applied,
  type Command,
  type TracerChange,
} from './protocol.js';
import { refusalFor } from './refusals.js';
import { takeTracer } from './tracer-worker.js';
import { Living } from './living.js';
import { hasHandlers } from './wants.js';

/** How long to look for the next hit, ms, before sleeping for it: a wake-up costs as much. */
const SPIN_MS = 0.1;
/**
 * How long to sleep for the next hit, ms, before going back to the event loop, which is slower to wake. More than the
 * kernel's tick of mostly 4 ms: a timer that comes sooner makes it set the clock anew twice a hit, which on a virtual
 * machine costs as much as the hit.
 */
const NAP_MS = 5;
/** Hits that come faster, on an average, are waited for, ms. */
const FAST_MS = 0.2;
/** How long hits may keep the event loop waiting at a stretch, ms. */
const STRETCH_MS = 2;

export interface TrapEngine extends Engine {
  /** What another thread can close it by (closeTracerAt). */
  readonly handle: number;
  spawn(program: SpawnRequest): Promise<Spawned>;
}

/** Starts the tracer thread at once: it takes tens of milliseconds, in parallel with what the caller does next. */
export function createTrapEngine(sink: EngineSink): TrapEngine {
  return new Trap(sink);
}

interface Waiter {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

class Trap implements TrapEngine {
  readonly name = 'trap';
  readonly #mailbox = Mailbox.create();
  readonly #bell = new Bell(this.#mailbox.address, this.#mailbox.words);
  readonly #guard: Guard;
  readonly #worker: Worker;
  readonly #hit: SharedHit;
  readonly #waiters = new Map<number, Waiter>();
  readonly #exits = new Map<number, (status: ExitStatus) => void>();
  readonly #counters = new Map<number, number>();
  readonly #freeCounters: number[] = [];
  readonly #finalCounts = new Map<number, bigint>();
  readonly #living = new Living();
  /** Uprobes of the engine by site. */
  readonly #consumers = new Map<number, readonly Consumer[]>();
  readonly #spins = availableParallelism() > 1;
  readonly #rhythm = new Rhythm();
  #nextCommand = 1;
  #nextCounter = 0;
  #closed = false;

  constructor(private readonly sink: EngineSink) {
    const thread = takeTracer();
    this.#worker = thread.worker;
    this.#worker.on('message', (message: Answer) => this.#answered(message));
    this.#worker.on('error', (e) => this.#failed(e));
    this.#worker.on('exit', () => {
      if (!this.#closed)
        this.#failed(new UprobeError('tracer-ended', 'the tracer thread ended unexpectedly'));
      this.#guard.dismiss();
    });
    this.#worker.unref(); // after the listeners, which keep the process alive
    const { ledger, fd } = Ledger.create();
    this.#mailbox.ledger = ledger.address;
    this.#guard = new Guard(ledger, fd);
    thread.start(this.#mailbox.address);
    this.#hit = new SharedHit(this.#mailbox, () => this.#bell.ring(REASON.floatRegs));
  }

  get handle(): number {
    return this.#mailbox.address;
  }

  canArm(site: Parameters<Engine['canArm']>[0], consumers: readonly Consumer[]): Refusal | undefined {
    return refusalFor(site, consumers);
  }

  async apply(changes: readonly SiteChange[]): Promise<readonly ArmReport[]> {
    const before = changes.map(({ site }) => this.#consumers.get(site.id) ?? []);
    try {
      const sent = changes.map((change): TracerChange => this.#withCounters(change));
      const { reports, refused } = (await this.#command({ kind: 'apply', changes: sent })) as Applied;
      this.#releaseCounters(before, changes);
      for (const report of reports) this.#living.report(report);
      this.#keepAlive();
      return [...reports, ...refused];
    } catch (e) {
      changes.forEach(({ site }, i) => this.#setConsumers(site.id, before[i]!));
      this.#releaseCounters(
        changes.map((c) => c.consumers),
        changes.map(({ site }, i) => ({ site, consumers: before[i]! })),
      );
      throw e;
    }
  }

  #setConsumers(siteId: number, consumers: readonly Consumer[]): void {
    this.#living.count(this.#consumers.get(siteId) ?? [], -1);
    this.#living.count(consumers, 1);
    if (consumers.length === 0) this.#consumers.delete(siteId);
    else this.#consumers.set(siteId, consumers);
  }

  #withCounters({ site, consumers }: SiteChange): TracerChange {
    this.#setConsumers(site.id, consumers);
    // Programs stay here: the tracer has handlers called in their plain form.
    return {
      site: plainSite(site),
      consumers: consumers.map((c) => ({ ...c, programs: undefined, counter: this.#counterOf(c) })),
    };
  }

  #counterOf(consumer: Consumer): number {
    if (hasHandlers(consumer)) return -1;
    const known = this.#counters.get(consumer.id);
    if (known !== undefined) return known;
    const counter = this.#freeCounters.pop() ?? this.#nextCounter++;
    if (counter >= COUNTERS)
      throw new UprobeError(
        'too-many-uprobes',
        `no more than ${COUNTERS} uprobes without handlers can be registered at once`,
      );
    this.#mailbox.counters[counter] = 0n;
    this.#counters.set(consumer.id, counter);
    return counter;
  }

  /** Consumers that were there before and are not any more: their counts are final. */
  #releaseCounters(before: readonly (readonly Consumer[])[], now: readonly SiteChange[]): void {
    now.forEach(({ consumers }, i) => {
      const staying = new Set(consumers.map((c) => c.id));
      for (const { id } of before[i]!) {
        const counter = this.#counters.get(id);
        if (counter === undefined || staying.has(id)) continue;
        this.#finalCounts.set(id, this.#mailbox.counters[counter]!);
        this.#counters.delete(id);
        this.#freeCounters.push(counter);
      }
    });
  }

  tally(consumerId: number): Tally {
    const counter = this.#counters.get(consumerId);
    const hits = counter === undefined ? this.#finalCounts.get(consumerId) : this.#mailbox.counters[counter];
    return hits === undefined ? NO_TALLY : { ...NO_TALLY, hits };
  }

  settle(consumerId: number): Tally {
    const tally = this.tally(consumerId);
    this.#finalCounts.delete(consumerId);
    return tally;
  }

  async spawn(program: SpawnRequest): Promise<Spawned> {
    // The exit may be reported before the answer to the command: both come from one thread, in order, so the
    // listener is there in time when it is made in the same turn as the answer arrives.
    let finish: (status: ExitStatus) => void = () => undefined;
    const exited = new Promise<ExitStatus>((resolve) => (finish = resolve));
    const pid = (await this.#command({ kind: 'spawn', program }, (value) =>
      this.#exits.set(value as number, finish),
    )) as number;
    return {
      pid,
      exited,
      resume: async () => void (await this.#command({ kind: 'resume', pid })),
      kill: (signal) => {
        if (this.#exits.has(pid)) process.kill(pid, signal);
      },
    };
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    const gone = new Promise<void>((resolve) => this.#worker.once('exit', () => resolve()));
    this.#worker.ref();
    this.#send({ id: 0, kind: 'close' });
    await gone;
  }

  closeSync(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeTracer(this.#mailbox, (reason) => this.#bell.ring(reason));
    if (Atomics.load(this.#mailbox.words, WORD.closed) !== 0) this.#guard.dismiss();
  }

  // ---- messages

  #command(
    command: Command extends infer C ? (C extends Command ? Omit<C, 'id'> : never) : never,
    onDone?: (value: unknown) => void,
  ): Promise<unknown> {
    if (this.#closed)
      return Promise.reject(new UprobeError('engine-closed', 'the trap engine has been closed'));
    const id = this.#nextCommand++;
    return new Promise((resolve, reject) => {
      this.#waiters.set(id, {
        resolve: (value) => {
          onDone?.(value);
          resolve(value);
        },
        reject,
      });
      this.#send({ ...command, id });
      if (command.kind === 'apply') this.#guard.start(); // while the tracer works
      this.#keepAlive();
    });
  }

  #send(command: Command): void {
    this.#worker.postMessage(command);
    this.#bell.ring(REASON.command);
  }

  /** Our process lives on while a process can hit a probe, a program that we started runs, or an answer is due. */
  #keepAlive(): void {
    if (this.#closed) return; // its end is waited for
    if (this.#living.size > 0 || this.#waiters.size > 0 || this.#exits.size > 0) this.#worker.ref();
    else this.#worker.unref();
  }

  #answered(message: Answer): void {
    switch (message.kind) {
      case 'wake':
        return this.#serve();
      case 'done':
        this.#take(message.id)?.resolve(message.value);
        return this.#keepAlive();
      case 'failed':
        this.#take(message.id)?.reject(fromPlain(message.error));
        return this.#keepAlive();
      case 'state':
        return this.sink.state(message.report);
      case 'born':
        this.#living.add(message.pid, message.trees);
        return this.sink.born(message.pid, message.parent, message.trees);
      case 'treeEnded':
        return this.sink.treeEnded(message.root);
      case 'ended':
        this.#living.delete(message.pid);
        this.#keepAlive();
        return this.sink.ended(message.pid);
      case 'missed':
        return this.sink.missed(message.siteId, message.pid, message.trees, message.phase, message.why);
      case 'abandoned':
        return this.sink.abandoned(message.siteId, message.pid, message.trees, message.calls);
      case 'exited':
        this.#exits.get(message.pid)?.({
          code: message.code,
          signal: message.signal === null ? null : signalName(message.signal),
        });
        this.#exits.delete(message.pid);
        return this.#keepAlive();
      case 'crashed':
        return this.#failed(fromPlain(message.error));
    }
  }

  #take(id: number): Waiter | undefined {
    const waiter = this.#waiters.get(id);
    this.#waiters.delete(id);
    return waiter;
  }

  #failed(error: Error): void {
    this.#closed = true;
    for (const waiter of this.#waiters.values()) waiter.reject(error);
    this.#waiters.clear();
    this.sink.failed(error);
    this.#worker.unref();
  }

  // ---- hits

  /** Call the handlers of the hits that wait, and of those that come soon after; then give the event loop its turn. */
  #serve(): void {
    const { words } = this.#mailbox;
    Atomics.store(words, WORD.handlersAwake, AWAKE.yes);
    const stretch = performance.now() + STRETCH_MS;
    for (;;) {
      let index = this.#mailbox.takePost();
      if (index < 0 && this.#rhythm.isFast) index = this.#linger();
      if (index < 0) {
        Atomics.store(words, WORD.handlersAwake, AWAKE.no);
        // a hit posted between the last look and the store did not wake us
        index = this.#mailbox.takePost();
        if (index < 0) return;
        Atomics.store(words, WORD.handlersAwake, AWAKE.yes);
      }
      const now = performance.now();
      this.#rhythm.hit(now);
      this.#handle(index);
      if (now > stretch) {
        setImmediate(() => this.#serve());
        return;
      }
    }
  }

  /** Wait a little for the next hit: where targets are busy it comes sooner than the event loop could turn. */
  #linger(): number {
    const { words } = this.#mailbox;
    if (this.#spins) {
      const limit = performance.now() + SPIN_MS;
      do {
        for (let i = 0; i < 50; i++) {
          const index = this.#mailbox.takePost();
          if (index >= 0) return index;
        }
      } while (performance.now() < limit);
    }
    Atomics.store(words, WORD.handlersAwake, AWAKE.napping);
    let index = this.#mailbox.takePost();
    if (index < 0) {
      futexWait(this.#mailbox.wordAddress(WORD.handlersAwake), AWAKE.napping, NAP_MS);
      index = this.#mailbox.takePost();
    }
    Atomics.store(words, WORD.handlersAwake, AWAKE.yes);
    return index;
  }

  #handle(index: number): void {
    const words = this.#mailbox.slot(index);
    let verdict = 0;
    if (Atomics.compareExchange(words, FIELD.state, STATE.posted, STATE.running) === STATE.posted) {
      const { skip, changed } = this.sink.hit(this.#hit.begin(index));
      if (Atomics.compareExchange(words, FIELD.state, STATE.running, STATE.done) === STATE.running)
        verdict = VERDICT.done | (skip ? VERDICT.skip : 0) | (changed ? VERDICT.changed : 0);
    }
    this.#mailbox.reply(index, verdict);
    // one that is awake looks at the replies before it sleeps
    if (this.#bell.waiterSleeps) this.#bell.ring(REASON.reply);
  }
}

/** How fast hits follow each other: whether the next one is worth waiting for. */
class Rhythm {
  #last = 0;
  #gap = FAST_MS * 4;

  hit(now: number): void {
    this.#gap += (Math.min(now - this.#last, FAST_MS * 4) - this.#gap) / 4;
    this.#last = now;
  }
  get isFast(): boolean {
    return this.#gap < FAST_MS;
  }
}

const NO_TREES: readonly number[] = [];

/** The hit in one mailbox slot. One object serves all hits: they are handled one at a time. */
class SharedHit implements RawHit {
  #index = 0;
  #words: Int32Array;
  regs: BigUint64Array;
  constructor(
    private readonly mailbox: Mailbox,
    private readonly ring: () => void,
  ) {
    this.#words = mailbox.slot(0);
    this.regs = mailbox.regs(0);
  }

  begin(index: number): this {
    this.#index = index;
    this.#words = this.mailbox.slot(index);
    this.regs = this.mailbox.regs(index);
    return this;
  }

  get siteId(): number {
    return this.#words[FIELD.siteId]!;
  }
  get phase(): Phase {
    return PHASES[this.#words[FIELD.phase]!]!;
  }
  get pid(): number {
    return this.#words[FIELD.pid]!;
  }
  get tid(): number {
    return this.#words[FIELD.tid]!;
  }
  get time(): bigint {
    return this.mailbox.wide(this.#index)[WIDE.time]!;
  }
  get call(): number {
    return this.#words[FIELD.call]!;
  }
  get trees(): readonly number[] {
    if (this.#words[FIELD.trees] === 0) return NO_TREES;
    const trees = this.#words.subarray(FIELD.trees, FIELD.trees + MOST_TREES);
    return [...trees].filter((root) => root !== 0);
  }
  get entry(): CallEntry {
    const wide = this.mailbox.wide(this.#index);
    return {
      time: wide[WIDE.entryTime]!,
      args: wide.slice(WIDE.args, WIDE.args + ARGS),
      lastConsumer: this.#words[FIELD.lastConsumer]!,
    };
  }
  get fault(): RaisedSignal {
    return {
      signal: this.#words[FIELD.signal]!,
      code: this.#words[FIELD.signalCode]!,
      address: this.mailbox.wide(this.#index)[WIDE.faultAddress]!,
    };
  }
  alive(): boolean {
    return Atomics.load(this.#words, FIELD.state) === STATE.running;
  }

  read(address: bigint, length: number): Uint8Array | undefined {
    if (address < 0n || address + BigInt(length) > BigInt(Number.MAX_SAFE_INTEGER)) return undefined;
    return readMemory(this.#words[FIELD.memFd]!, Number(address), length);
  }

  write(address: bigint, bytes: Uint8Array): void {
    const reachable = address >= 0n && address + BigInt(bytes.length) <= BigInt(Number.MAX_SAFE_INTEGER);
    if (!this.alive())
      throw new ProcessError(
        'hit-is-over',
        this.pid,
        `the hit in thread ${this.tid} is over: its deadline has passed`,
      );
    if (!reachable || !writeMemory(this.#words[FIELD.memFd]!, Number(address), bytes))
      throw new ProcessError(
        'not-writable',
        this.pid,
        `process ${this.pid} has no writable memory at 0x${address.toString(16)}`,
      );
  }

  floatRegs(): Uint8Array {
    const words = this.#words;
    Atomics.store(words, FIELD.fp, FP.wanted);
    const limit = performance.now() + 1000;
    while (Atomics.load(words, FIELD.fp) === FP.wanted && this.alive() && performance.now() < limit) {
      this.ring();
      futexWait(this.mailbox.fieldAddress(this.#index, FIELD.fp), FP.wanted, 20);
    }
    if (Atomics.load(words, FIELD.fp) !== FP.ready)
      throw new ProcessError(
        'no-float-registers',
        this.pid,
        `the floating-point registers of thread ${this.tid} could not be read`,
      );
    return this.mailbox.fpRegs(this.#index);
  }
}
