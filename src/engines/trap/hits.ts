/** Hits on their way to the handlers' thread and back, through the mailbox. Runs on the tracer thread. */
import { futexWake } from '../../linux/futex.js';
import { ptrace } from '../../linux/ptrace.js';
import { MOST_TREES, type Phase, type RaisedSignal } from '../engine.js';
import type { Arm } from './address-space.js';
import type { Call } from './calls.js';
import {
  AWAKE,
  FIELD,
  FP,
  PHASES,
  SLOTS,
  STATE,
  VERDICT,
  WIDE,
  WORD,
  replySlot,
  replyVerdict,
  type Mailbox,
} from './mailbox.js';
import { IDLE, type Thread } from './thread.js';
import type { Want } from './wants.js';

export interface HitReply {
  readonly thread: Thread;
  readonly arm: Arm;
  readonly phase: Phase;
  readonly skip: boolean;
  /** The handlers have written registers. */
  readonly changed: boolean;
  readonly others: readonly Call[];
  readonly signal: number;
  /** Address of the registers as the handlers left them, and the index of the slot they are in. */
  readonly slot: number;
}

/** What some phases have besides. */
export interface PostOptions {
  /** `pre`: the call that begins; `return`: the one that has ended. */
  readonly call?: Call | undefined;
  readonly others?: readonly Call[];
  /** `fault`. */
  readonly raised?: RaisedSignal;
}
const NOTHING: PostOptions = {};
const NO_OTHERS: readonly Call[] = [];

export class Hits {
  readonly #free: number[] = Array.from({ length: SLOTS }, (_, i) => SLOTS - 1 - i);
  /** Threads whose hit is with the handlers, by slot. */
  readonly #waiting = new Map<number, Thread>();

  constructor(
    readonly mailbox: Mailbox,
    /** The handlers' thread sleeps in its event loop: wake it. */
    private readonly wake: () => void,
  ) {}

  /** The handlers' thread was looking for the last hit on a CPU of its own: the reply is worth a short busy wait. */
  replyImminent = false;

  get outstanding(): number {
    return this.#waiting.size;
  }

  /** The slot that the next hit will use: its registers can be read right into it. -1: all are with the handlers. */
  get nextSlot(): number {
    return this.#free.at(-1) ?? -1;
  }

  /** Hand over a stopped thread whose registers are in `nextSlot`. */
  post(thread: Thread, arm: Arm, phase: Phase, { site, deadline }: Want, more: PostOptions = NOTHING): void {
    const slot = this.#free.pop()!;
    const words = this.mailbox.slot(slot);
    const wide = this.mailbox.wide(slot);
    const { process: owner } = thread;
    words[FIELD.siteId] = site.id;
    words[FIELD.pid] = owner.pid;
    words[FIELD.tid] = thread.tid;
    words[FIELD.phase] = PHASES.indexOf(phase);
    words[FIELD.memFd] = owner.space.memory.fd;
    words[FIELD.fp] = FP.none;
    words[FIELD.call] = more.call?.id ?? 0;
    for (let i = 0; i < MOST_TREES; i++) words[FIELD.trees + i] = owner.trees[i] ?? 0;
    wide[WIDE.time] = process.hrtime.bigint();
    if (phase === 'return' && more.call !== undefined) {
      wide[WIDE.entryTime] = more.call.time;
      wide.set(more.call.args, WIDE.args);
      words[FIELD.lastConsumer] = more.call.lastConsumer;
    } else if (more.raised !== undefined) {
      words[FIELD.signal] = more.raised.signal;
      words[FIELD.signalCode] = more.raised.code;
      wide[WIDE.faultAddress] = more.raised.address;
    }
    Atomics.store(words, FIELD.state, STATE.posted);
    this.#waiting.set(slot, thread);
    const expires = performance.now() + deadline;
    thread.activity = {
      kind: 'handlers',
      slot,
      arm,
      siteId: site.id,
      phase,
      expires,
      others: more.others ?? NO_OTHERS,
      signal: more.raised?.signal ?? 0,
    };
    this.mailbox.post(slot);
    const awake = Atomics.load(this.mailbox.words, WORD.handlersAwake);
    this.replyImminent = awake === AWAKE.yes;
    if (awake === AWAKE.no) this.wake();
    if (awake === AWAKE.napping) futexWake(this.mailbox.wordAddress(WORD.handlersAwake));
  }

  /** The next hit that came back, or undefined. */
  takeReply(): HitReply | undefined {
    for (;;) {
      const reply = this.mailbox.takeReply();
      if (reply < 0) return undefined;
      const slot = replySlot(reply);
      const verdict = replyVerdict(reply);
      this.#free.push(slot);
      const thread = this.#waiting.get(slot);
      if ((verdict & VERDICT.done) === 0 || thread === undefined || thread.activity.kind !== 'handlers')
        continue;
      this.#waiting.delete(slot);
      const { arm, phase, others, signal } = thread.activity;
      thread.activity = IDLE;
      const skip = (verdict & VERDICT.skip) !== 0;
      return { thread, arm, phase, others, signal, skip, changed: (verdict & VERDICT.changed) !== 0, slot };
    }
  }

  /** Whether a reply is there, without taking it. */
  get replied(): boolean {
    return this.mailbox.replied;
  }

  /** Take a hit back from the handlers. False when they have just finished it: its reply is on the way. */
  abandon(thread: Thread): boolean {
    if (thread.activity.kind !== 'handlers') return false;
    const { slot } = thread.activity;
    const words = this.mailbox.slot(slot);
    const taken =
      Atomics.compareExchange(words, FIELD.state, STATE.posted, STATE.abandoned) === STATE.posted ||
      Atomics.compareExchange(words, FIELD.state, STATE.running, STATE.abandoned) === STATE.running;
    if (taken) {
      this.#waiting.delete(slot);
      thread.activity = IDLE;
    }
    return taken;
  }

  /** Give a hit up whatever its state: the thread is gone, or must leave now. */
  drop(thread: Thread): void {
    if (thread.activity.kind !== 'handlers') return;
    const { slot } = thread.activity;
    if (this.abandon(thread)) return;
    this.#waiting.delete(slot);
    thread.activity = IDLE;
  }

  /** Milliseconds until the first hit has waited long enough; undefined when none waits. */
  nextDeadline(): number | undefined {
    let first: number | undefined;
    for (const { activity } of this.#waiting.values()) {
      if (activity.kind === 'handlers' && (first === undefined || activity.expires < first))
        first = activity.expires;
    }
    return first === undefined ? undefined : Math.max(0, first - performance.now());
  }

  /** The threads whose hits have waited too long. */
  expired(): Thread[] {
    const now = performance.now();
    return [...this.#waiting.values()].filter(
      (t) => t.activity.kind === 'handlers' && t.activity.expires <= now,
    );
  }

  /** Handlers that wait for floating-point registers get them. */
  serveFloatRegs(): void {
    for (const [slot, thread] of this.#waiting) {
      const words = this.mailbox.slot(slot);
      if (Atomics.load(words, FIELD.fp) !== FP.wanted) continue;
      const ok = ptrace.getFpRegs(thread.tid, this.mailbox.fpRegsAddress(slot));
      Atomics.store(words, FIELD.fp, ok ? FP.ready : FP.failed);
      futexWake(this.mailbox.fieldAddress(slot, FIELD.fp));
    }
  }
}
