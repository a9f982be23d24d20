/** From handlers to one program for the kernel: what comes before and behind them, and what all of it needs. */
import { JumpTooFar, R0, R1, R2, R3, R4, R6, R7, type Label } from '../../arch/bpf/assembler.js';
import type { Refusal } from '../../base/errors.js';
import { makeRefusal } from '../../base/errors.js';
import type { Program } from '../ir.js';
import { findCall, keepCall, needsOf, type Needs } from './calls.js';
import {
  TALLY,
  type BpfCode,
  type BpfRequest,
  type BpfResult,
  type BpfTarget,
  type MapSpec,
} from './code.js';
import { Context, Refused, type Kept } from './context.js';
import { allStatements, factsOf, onlyTimed, readsMemory, type Facts } from './facts.js';
import { Frame, SCRATCH, StackFull } from './frame.js';
import { Memory } from './memory.js';
import { handler } from './statements.js';

/**
 * Which programs these handlers want: a program for the entry and one for the return, or one for both where something is kept
 * from one to the other and the kernel has sessions.
 */
export function attachesFor(
  handlers: Pick<BpfRequest, 'pre' | 'return'>,
  target: BpfTarget,
): readonly BpfRequest['attach'][] {
  const needs = needsOf({ ...handlers, attach: 'session' }, target);
  if (handlers.return === undefined) return ['entry'];
  if (handlers.pre === undefined && needs === undefined) return ['return'];
  return target.session === undefined ? ['entry', 'return'] : ['session'];
}

/** Buffers of more bytes than these do not go on the stack, tried one after the other until the rest fits. */
const ON_STACK = [undefined, 64, 16] as const;

export function compileBpf(request: BpfRequest, target: BpfTarget): BpfResult {
  for (const onStack of ON_STACK) {
    try {
      // The size of a slot is known when all code is made: make it twice.
      const { scratchBytes } = new Compilation(request, target, onStack, MOST_SCRATCH_BYTES).make();
      const slot = onStack === undefined ? 0 : scratchBytes;
      if (slot > MOST_SCRATCH_BYTES) return { ok: false, refusal: tooLarge(slot) };
      return { ok: true, code: new Compilation(request, target, onStack, slot).make().code };
    } catch (error) {
      if (error instanceof Refused) return { ok: false, refusal: error.refusal };
      if (error instanceof JumpTooFar) return { ok: false, refusal: tooLong(error.message) };
      if (!(error instanceof StackFull)) throw error;
    }
  }
  return { ok: false, refusal: tooManyVariables() };
}

/** What an instruction can address from the start of a slot. */
const MOST_SCRATCH_BYTES = 32_760;
/** Slots for each CPU: hits that interrupt each other. Those that sleep are interrupted for long. */
const SLOTS = 4;
const SLEEPING_SLOTS = 16;

class Compilation {
  readonly #context: Context;
  readonly #needs: Needs | undefined;
  readonly #pre: Handler | undefined;
  readonly #return: Handler | undefined;
  readonly #slotBytes: number;
  readonly #memory: Memory;
  readonly #out: Label;

  constructor(request: BpfRequest, target: BpfTarget, onStack: number | undefined, slotBytes: number) {
    const facts = (program: Program | undefined): Handler | undefined =>
      program && { program, facts: factsOf(program, target.pidNamespace !== undefined) };
    this.#pre = request.attach === 'return' ? undefined : facts(request.pre);
    this.#return = request.attach === 'entry' ? undefined : facts(request.return);
    const sleeps = target.sleepable && [this.#pre, this.#return].some((h) => h?.facts.has(readsMemory));
    this.#context = new Context(request, target, sleeps, new Frame(onStack));
    this.#needs = needsOf(request, target);
    this.#slotBytes = slotBytes;
    this.#memory = new Memory(this.#context.asm);
    this.#out = this.#context.asm.label();
  }

  make(): { code: BpfCode; scratchBytes: number } {
    const { asm, request, target, frame } = this.#context;
    const ours = asm.label();
    asm.mov(R6, R1);
    if (request.attach === 'session') {
      const atReturn = asm.label();
      asm.callKernel(target.session!.isReturn);
      asm.jumpIf('set', R0, 1n, atReturn);
      frame.within(() => this.#entry(this.#begin(this.#pre, ours)));
      asm.place(atReturn);
      frame.within(() => this.#atReturn(this.#begin(this.#return, undefined)));
      // The kernel does not call us for the return, then (UPROBE_HANDLER_IGNORE).
      asm.place(ours);
      asm.mov(R0, 1n);
      asm.exit();
    } else if (request.attach === 'entry') this.#entry(this.#begin(this.#pre, this.#out));
    else this.#atReturn(this.#begin(this.#return, this.#out));
    asm.place(this.#out);
    asm.mov(R0, 0n);
    asm.exit();
    const { maps, tally, sleeps } = this.#context;
    this.#context.tallyMap();
    const instructions = asm.finish();
    const code = { instructions, maps, uses: asm.references, tally, sleeps, origins: asm.origins };
    return { code, scratchBytes: frame.scratchBytes };
  }

  /**
   * r7 = the uprobe; and what a handler looks at more than once, or the kernel has to be asked for. `ours`: where hits of our own process
   * go, if they are not sorted out already.
   */
  #begin(of: Handler | undefined, ours: Label | undefined): Kept {
    const { asm, frame, request, target } = this.#context;
    const ids = this.#ids(of, ours !== undefined);
    if (ours) {
      asm.alu('rsh', R0, 32n);
      asm.jumpIf('eq', R0, BigInt(target.ownPid), ours);
      if (request.pid !== undefined) asm.jumpIf('ne', R0, BigInt(request.pid), ours);
    }
    // Where a function returns to is no place of ours: there is nothing to correct.
    const isPlace = of !== undefined && of === this.#pre;
    const wantsBias = isPlace && of.facts.has((expr) => expr.op === 'reg' && expr.name === 'ip');
    const bias = wantsBias ? frame.word() : undefined;
    if (request.uprobes > 1 || bias) {
      asm.mov(R1, R6);
      asm.call('get_attach_cookie');
      if (request.uprobes > 1) {
        asm.alu32('mov', R7, R0);
        asm.jumpIf('ge', R7, BigInt(request.uprobes), this.#out);
      }
      if (bias) {
        asm.alu('rsh', R0, 32n);
        this.#memory.store(bias, R0);
      }
    }
    if (request.switched === true) {
      this.#context.off();
      asm.jumpIf('ne', R0, 0n, this.#out);
    }
    return { ...(ids ? { ids } : {}), ...(bias ? { bias } : {}) };
  }

  /** Process and thread in r0, if they are wanted there; also kept where the handler asks. */
  #ids(of: Handler | undefined, inR0: boolean): Kept['ids'] {
    const { asm, frame, target } = this.#context;
    const isAsked = of?.facts.has((expr) => expr.op === 'of' && expr.what !== 'cpu') ?? false;
    if (!isAsked && !inR0) return undefined;
    if (target.pidNamespace === undefined) {
      asm.call('get_current_pid_tgid');
      if (!isAsked) return undefined;
      const ids = frame.word();
      this.#memory.store(ids, R0);
      return ids;
    }
    // struct bpf_pidns_info: the thread, the process, 32 bits each; zeros for processes of other namespaces.
    const ids = frame.word();
    asm.load64(R1, target.pidNamespace.dev);
    asm.load64(R2, target.pidNamespace.ino);
    this.#memory.address(R3, ids);
    asm.mov(R4, 8n);
    asm.call('get_ns_current_pid_tgid');
    this.#memory.load(R0, ids);
    return ids;
  }

  /**
   * The time that a handler asks for, or a call's beginning or end. Where one statement alone wants it, that statement reads the clock:
   * hits that do not come to it need no time, and an event is made faster (see `Statements`). Not in programs that may sleep before.
   */
  #time(ofHandler: Handler | undefined, ofCall: boolean, kept: Kept): Kept {
    const isAsked = ofHandler?.facts.has((expr) => expr.op === 'time') ?? false;
    if (!isAsked && !ofCall) return kept;
    const time = this.#context.frame.word();
    const timedBy = ofCall || this.#context.sleeps ? undefined : onlyTimed(ofHandler!.program);
    if (timedBy === undefined) this.#context.readTime(time);
    return { ...kept, time, timedBy };
  }

  #entry(begun: Kept): void {
    const { asm, frame, request } = this.#context;
    const pre = this.#pre;
    const needs = this.#needs;
    let kept = this.#time(pre, needs?.time ?? false, begun);
    if (pre) this.#claim();
    if (pre || request.return === undefined) this.#context.count(TALLY.hits);
    if (pre) {
      if (usesCall(pre)) {
        const call = { value: frame.word(), present: frame.word() };
        this.#memory.store(call.value, 0n);
        this.#memory.store(call.present, 0n);
        kept = { ...kept, call };
      }
      this.#handler(pre, kept);
    }
    if (needs) keepCall(this.#context, needs, kept);
    if (pre) this.#release();
    asm.jump(this.#out);
  }

  #atReturn(begun: Kept): void {
    const { asm, request } = this.#context;
    const ending = this.#return!;
    const needs = this.#needs;
    const missing = asm.label();
    const hasDuration = ending.facts.has((expr) => expr.op === 'duration');
    let kept = this.#time(ending, hasDuration, begun);
    this.#claim();
    if (needs) kept = { ...kept, ...findCall(this.#context, needs, missing) };
    if (request.pre === undefined) this.#context.count(TALLY.hits);
    this.#handler(ending, kept);
    this.#release();
    asm.jump(this.#out);
    if (!needs) return;
    asm.place(missing);
    this.#release();
    this.#context.count(TALLY.missed);
    asm.jump(this.#out);
  }

  #handler({ program, facts }: Handler, kept: Kept): void {
    const { asm } = this.#context;
    const [error, end] = [asm.label(), asm.label()];
    handler(this.#context, program, facts, kept, error);
    asm.origin = undefined;
    if (program.absent === 'error') {
      asm.jump(end);
      asm.place(error);
      this.#context.count(TALLY.errors);
    }
    asm.place(end);
  }

  // Scratch

  #slots(): number {
    return this.#context.sleeps ? SLEEPING_SLOTS : SLOTS;
  }

  /**
   * r9 = a slot of this CPU that nobody has. A hit that finds none is missed. Which one it is, the verifier must not know, for it
   * would follow everything behind once for each: so it is left in the slot, and taken out again.
   */
  #claim(): void {
    const { asm, frame, target } = this.#context;
    if (frame.onStack === undefined) return;
    const [isMine, missed] = [asm.label(), asm.label()];
    const slots = this.#slots();
    const map = this.#context.map(this.#scratchMap());
    this.#context.cpuOffset(target.cpus, slots * this.#slotBytes);
    for (let slot = 0; slot < slots; slot++) {
      if (slot > 0) asm.alu('add', R0, BigInt(this.#slotBytes));
      asm.loadMapValue(SCRATCH, map, 0);
      asm.alu('add', SCRATCH, R0);
      asm.mov(R1, 1n);
      asm.atomic('xchg', SCRATCH, 0, R1);
      asm.jumpIf('eq', R1, 0n, isMine);
    }
    asm.place(missed);
    this.#context.count(TALLY.missed);
    asm.jump(this.#out);
    asm.place(isMine);
    asm.store(8, SCRATCH, 8, R0);
    asm.load(8, R0, SCRATCH, 8);
    asm.jumpIf('gt', R0, BigInt((target.cpus * slots - 1) * this.#slotBytes), missed); // never
    asm.loadMapValue(SCRATCH, map, 0);
    asm.alu('add', SCRATCH, R0);
  }

  #release(): void {
    if (this.#context.frame.onStack !== undefined) this.#context.asm.store(8, SCRATCH, 0, 0n);
  }

  #scratchMap(): MapSpec {
    const valueBytes = this.#context.target.cpus * this.#slots() * this.#slotBytes;
    return { key: { of: 'scratch' }, type: 'array', keyBytes: 4, valueBytes, entries: 1, mapped: false };
  }
}

interface Handler {
  readonly program: Program;
  readonly facts: Facts;
}

const usesCall = ({ program, facts }: Handler): boolean =>
  facts.has((expr) => expr.op === 'call') ||
  [...allStatements(program.body)].some((statement) => statement.do === 'setCall');

const tooLarge = (bytes: number): Refusal =>
  makeRefusal(
    'strings-too-large',
    `the handler's strings and keys take ${bytes} bytes at a time, and in the kernel at most ${MOST_SCRATCH_BYTES}`,
    () => 'Read fewer bytes of them, or use the trap engine',
  );
const tooLong = (what: string): Refusal =>
  makeRefusal(
    'program-too-large',
    `the handler is too long for a program in the kernel: a jump would be ${what} wide`,
    () => 'Make it shorter, or use the trap engine',
  );
const tooManyVariables = (): Refusal =>
  makeRefusal(
    'too-many-variables',
    "the handler's variables do not fit on the 512 bytes that a program in the kernel has for its stack",
    () => 'Use fewer variables, or the trap engine',
  );
