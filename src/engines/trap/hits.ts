/** Hits on their way to the handlers' thread and back, through the mailbox. Runs on the tracer thread. */
import { futexWake } from '../../linux/futex.js';
import { ptrace } from '../../linux/ptrace.js';
import type { Arm } from './address-space.js';
import {
  AWAKE,
  FIELD,
  FP,
  PHASE,
  SLOTS,
  STATE,
  VERDICT,
  WORD,
  replySlot,
  replyVerdict,
  type Mailbox,
} from './mailbox.js';
import { IDLE, type Thread } from './thread.js';

export interface HitReply {
  readonly thread: Thread;
  readonly arm: Arm;
  readonly phase: 'pre' | 'post';
  readonly skip: boolean;
  /** The handlers have written registers. */
  readonly changed: boolean;
  /** Address of the registers as the handlers left them, and the index of the slot they are in. */
  readonly slot: number;
}

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
  post(thread: Thread, arm: Arm, phase: 'pre' | 'post', siteId: number, deadline: number): void {
    const slot = this.#free.pop()!;
    const words = this.mailbox.slot(slot);
    words[FIELD.siteId] = siteId;
    words[FIELD.pid] = thread.process.pid;
    words[FIELD.tid] = thread.tid;
    words[FIELD.phase] = phase === 'pre' ? PHASE.pre : PHASE.post;
    words[FIELD.memFd] = thread.process.space.memory.fd;
    words[FIELD.fp] = FP.none;
    this.mailbox.time(slot)[0] = process.hrtime.bigint();
    Atomics.store(words, FIELD.state, STATE.posted);
    this.#waiting.set(slot, thread);
    thread.activity = { kind: 'handlers', slot, arm, phase, expires: performance.now() + deadline };
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
      const { arm, phase } = thread.activity;
      thread.activity = IDLE;
      const skip = (verdict & VERDICT.skip) !== 0;
      return { thread, arm, phase, skip, changed: (verdict & VERDICT.changed) !== 0, slot };
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
