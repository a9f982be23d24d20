/** Code for a handler's statements. */
import { R0, R1, R2, R3, R4, R8, type Label } from '../../arch/bpf/assembler.js';
import { isInt, isSigned, someExpr, type Expr, type IntType, type Program, type Statement } from '../ir.js';
import {
  cellWords,
  emptyCell,
  layOut,
  layOutEvent,
  type Aggregate,
  type CellShape,
  type EventsShape,
  type Field,
  type TableShape,
} from '../shapes.js';
import { addToCell } from './cells.js';
import { cellStride, type MapSpec } from './code.js';
import { refuse, type Context, type Kept } from './context.js';
import { Expressions, type Local } from './expressions.js';
import { isOnStack, readsMemory, type Facts } from './facts.js';
import { SCRATCH, type Place } from './frame.js';

type Of<D extends Statement['do']> = Extract<Statement, { do: D }>;

/** include/uapi/linux/bpf.h */
const BPF_NOEXIST = 1n;
const BPF_RB_NO_WAKEUP = 1n;
/** MAX_BPF_STACK: the most that a key of a hash may have (kernel/bpf/hashtab.c). */
const MOST_KEY_BYTES = 512;

/** Where control goes on. */
interface Ways {
  /** The end of the handler. */
  readonly end: Label;
  /** The same, after an error. */
  readonly error: Label;
  readonly loop?: { readonly next: Label; readonly end: Label };
}

/** A handler's code. It falls through at its end; `error`: where it goes on where it has failed. */
export function handler(context: Context, program: Program, facts: Facts, kept: Kept, error: Label): void {
  const statements = new Statements(context, program, facts, kept, error);
  const end = context.asm.label();
  statements.all(program.body, { end, error });
  context.asm.place(end);
}

class Statements {
  readonly #context: Context;
  readonly #program: Program;
  readonly #kept: Kept;
  readonly #facts: Facts;
  readonly #locals: readonly Local[];
  readonly #expressions: Expressions;

  constructor(context: Context, program: Program, facts: Facts, kept: Kept, error: Label) {
    this.#context = context;
    this.#program = program;
    this.#kept = kept;
    this.#facts = facts;
    this.#locals = program.locals.map((type, i) => {
      const bytes = type === 'string' ? (facts.localBytes[i]! + 7) & ~7 : 8;
      return {
        place: context.frame.buffer(bytes),
        present: facts.localAbsent[i] ? context.frame.word() : undefined,
        bytes,
      };
    });
    this.#expressions = new Expressions(
      context,
      facts,
      kept,
      this.#locals,
      program.absent === 'error' ? error : undefined,
    );
    for (const { place, present, bytes } of this.#locals) {
      // The verifier wants to see the stack written before it is read.
      if (place.base !== SCRATCH) this.#expressions.memory.zero(place, bytes);
      if (present) this.#expressions.memory.store(present, 0n);
    }
  }

  all(statements: readonly Statement[], ways: Ways): void {
    for (const statement of statements) {
      this.#context.asm.origin = { program: this.#program, at: statement.at };
      const isTimed = statement === this.#kept.timedBy;
      if (isTimed && statement.do !== 'emit') this.#context.readTime(this.#kept.time!);
      this.#context.frame.within(() => this.#statement(statement, ways));
    }
  }

  #statement(statement: Statement, ways: Ways): void {
    const { asm } = this.#context;
    switch (statement.do) {
      case 'set':
        return this.#set(statement);
      case 'if':
        return this.#if(statement, ways);
      case 'loop':
        return this.#loop(statement, ways);
      case 'break':
        return asm.jump(ways.loop!.end);
      case 'continue':
        return asm.jump(ways.loop!.next);
      case 'leave':
        if (statement.verdict !== undefined) noVerdict(statement.verdict);
        return asm.jump(ways.end);
      case 'setRegister':
        return refuse(
          'register-write',
          'the kernel lets no program on a uprobe write registers',
          () => 'Leave the registers as they are, or use the trap engine',
        );
      case 'setCall':
        return this.#setCall(statement, ways);
      case 'add':
        return this.#add(statement, ways);
      case 'emit':
        return this.#emit(statement, statement === this.#kept.timedBy);
    }
  }

  #set({ local, value }: Of<'set'>): void {
    const { asm, frame } = this.#context;
    const { memory } = this.#expressions;
    const { place, present, bytes } = this.#locals[local]!;
    const [absent, end] = [asm.label(), asm.label()];
    if (value.type !== 'string') {
      this.#expressions.value(value, absent);
      memory.store(place, R0);
    } else if (someExpr(value, (part) => part.op === 'local' && part.local === local)) {
      const made = frame.buffer(bytes);
      this.#expressions.string(value, made, bytes, absent);
      memory.copy(place, made, bytes);
    } else this.#expressions.string(value, place, bytes, absent);
    if (present === undefined) return asm.place(absent);
    memory.store(present, 1n);
    if (this.#facts.canBeAbsent(value)) {
      asm.jump(end);
      asm.place(absent);
      memory.store(present, 0n);
    }
    asm.place(end);
  }

  #if({ condition, yes, no }: Of<'if'>, ways: Ways): void {
    const { asm } = this.#context;
    const [otherwise, end] = [asm.label(), asm.label()];
    this.#expressions.branch(condition, false, no.length > 0 ? otherwise : end, end);
    this.all(yes, ways);
    if (no.length > 0) {
      asm.jump(end);
      asm.place(otherwise);
      this.all(no, ways);
    }
    asm.place(end);
  }

  /** The verifier follows the rounds one by one: it sees their end by a count of our own. */
  #loop(statement: Of<'loop'>, ways: Ways): void {
    const { asm, frame } = this.#context;
    const { memory } = this.#expressions;
    const { place, present } = this.#locals[statement.local]!;
    const origin = asm.origin;
    const [round, at] = [frame.word(), frame.word()];
    const [again, next, end] = [asm.label(), asm.label(), asm.label()];
    const type = this.#program.locals[statement.local] as IntType;
    const variable: Expr = { op: 'local', type, local: statement.local };
    this.#expressions.value(statement.from, end);
    memory.store(at, R0);
    memory.store(round, 0n);
    asm.place(again);
    memory.load(R0, at);
    memory.store(place, R0);
    if (present) memory.store(present, 1n);
    const condition = {
      op: 'compare',
      type: 'bool',
      operator: '<',
      left: variable,
      right: statement.to,
    } as const;
    this.#expressions.branch(condition, false, end, end);
    this.all(statement.body, { ...ways, loop: { next, end } });
    asm.origin = origin;
    asm.place(next);
    memory.load(R0, at);
    asm.load64(R1, statement.step);
    asm.alu('add', R0, R1);
    memory.store(at, R0);
    memory.load(R0, round);
    asm.alu('add', R0, 1n);
    memory.store(round, R0);
    asm.jumpIf('lt', R0, BigInt(statement.most), again);
    asm.place(end);
  }

  /** Where a statement goes on when something it needs has no value. */
  #absent(end: Label, ways: Ways): Label {
    return this.#program.absent === 'skip' ? end : ways.error;
  }

  #setCall({ value }: Of<'setCall'>, ways: Ways): void {
    const { asm } = this.#context;
    const end = asm.label();
    this.#expressions.value(value, this.#absent(end, ways));
    const call = this.#kept.call!;
    this.#expressions.memory.store(call.value, R0);
    this.#expressions.memory.store(call.present, 1n);
    asm.place(end);
  }

  #add({ aggregate: number, key, value }: Of<'add'>, ways: Ways): void {
    const { asm } = this.#context;
    const aggregate = this.#program.aggregates[number]!;
    const { shape } = aggregate;
    const end = asm.label();
    const absent = this.#absent(end, ways);
    const signed = isInt(value.type) && isSigned(value.type);
    if (shape.kind === 'events') throw new TypeError('nothing can be added to events');
    const place = shape.kind === 'table' ? this.#key(shape, key, absent) : undefined;
    this.#expressions.value(value, absent);
    asm.mov(R8, R0);
    if (shape.kind === 'table') this.#findEntry(aggregate, shape, place!, end);
    else this.#findCell(aggregate, shape);
    addToCell(asm, shape.kind === 'table' ? shape.cell : shape, signed);
    asm.place(end);
  }

  #key(shape: TableShape, key: readonly Expr[], absent: Label): Place {
    const { fields, bytes } = layOut(shape.key);
    if (bytes > MOST_KEY_BYTES) {
      refuse(
        'key-too-large',
        `a key of a table has ${bytes} bytes, and in the kernel at most ${MOST_KEY_BYTES}`,
        () => 'Give its strings fewer bytes',
      );
    }
    const place = this.#context.frame.buffer(bytes);
    fields.forEach(({ type, offset }, i) =>
      this.#expressions.field(key[i]!, type, { ...place, offset: place.offset + offset }, absent),
    );
    return place;
  }

  /** r1 = this CPU's cell. */
  #findCell(aggregate: Aggregate, shape: CellShape): void {
    const { asm, target } = this.#context;
    const stride = cellStride(shape) * 8;
    this.#context.cpuOffset(target.cpus, stride);
    asm.loadMapValue(R1, this.#context.map(cellsMap(aggregate, shape, target.cpus)), 0);
    if (target.cpus > 1) asm.alu('add', R1, R0);
  }

  /** r1 = the cell of the key, which is made where there is none. */
  #findEntry(aggregate: Aggregate, shape: TableShape, key: Place, end: Label): void {
    const { asm } = this.#context;
    const { memory } = this.#expressions;
    const found = asm.label();
    const table = this.#context.map(tableMap(aggregate, shape));
    const beside = this.#context.map(besideTable(aggregate, shape));
    const lookUp = (): void => {
      asm.loadMap(R1, table);
      memory.address(R2, key);
      asm.call('map_lookup_elem');
      asm.jumpIf('ne', R0, 0n, found);
    };
    lookUp();
    asm.loadMap(R1, table);
    memory.address(R2, key);
    asm.loadMapValue(R3, beside, 8);
    asm.mov(R4, BPF_NOEXIST);
    asm.call('map_update_elem');
    lookUp(); // whoever has made it
    this.#countBeside(beside);
    asm.jump(end);
    asm.place(found);
    asm.mov(R1, R0);
  }

  #countBeside(map: number): void {
    const { asm } = this.#context;
    asm.loadMapValue(R1, map, 0);
    asm.mov(R2, 1n);
    asm.atomic('add', R1, 0, R2);
  }

  /**
   * Right into the ring, but for programs that may sleep: who waits for a page there would hold up the readers of
   * everything that comes behind. A reservation writes to a line that the reader's CPU has had: while that is fetched, the clock is read
   * (`readsTime`).
   */
  #emit({ aggregate: number, fields }: Of<'emit'>, readsTime: boolean): void {
    const { asm, sleeps, frame } = this.#context;
    const aggregate = this.#program.aggregates[number]!;
    const shape = aggregate.shape as EventsShape;
    const { fields: layout, bytes } = layOutEvent(shape);
    const ring = this.#context.map(ringMap(aggregate, shape));
    const beside = this.#context.map(besideEvents(aggregate));
    const end = asm.label();
    // Nor may the handler end before it has handed over what it has reserved.
    const mayEnd = (part: Expr): boolean =>
      this.#program.absent === 'error' && part.op === 'arg' && isOnStack(part);
    if (fields.some((field) => someExpr(field, (part) => (sleeps && readsMemory(part)) || mayEnd(part)))) {
      const staged = frame.buffer(bytes);
      if (readsTime) this.#context.readTime(this.#kept.time!);
      this.#record(staged, fields, layout);
      asm.loadMap(R1, ring);
      this.#expressions.memory.address(R2, staged);
      asm.mov(R3, BigInt(bytes));
      asm.mov(R4, BPF_RB_NO_WAKEUP);
      asm.call('ringbuf_output');
      asm.jumpIf('eq', R0, 0n, end);
      this.#countBeside(beside);
    } else {
      const hasRoom = asm.label();
      asm.loadMap(R1, ring);
      asm.mov(R2, BigInt(bytes));
      asm.mov(R3, 0n);
      asm.call('ringbuf_reserve');
      asm.mov(R8, R0);
      if (readsTime) this.#context.readTime(this.#kept.time!);
      asm.jumpIf('ne', R8, 0n, hasRoom);
      this.#countBeside(beside);
      asm.jump(end);
      asm.place(hasRoom);
      this.#record({ base: R8, offset: 0 }, fields, layout);
      asm.mov(R1, R8);
      asm.mov(R2, BPF_RB_NO_WAKEUP);
      asm.call('ringbuf_submit');
    }
    asm.place(end);
  }

  #record(to: Place, fields: readonly Expr[], layout: readonly Field[]): void {
    const { asm } = this.#context;
    const { memory } = this.#expressions;
    const isSure = fields.map((field) => !this.#facts.canBeAbsent(field));
    asm.load64(
      R0,
      isSure.reduce((bits, sure, i) => (sure ? bits | (1n << BigInt(i)) : bits), 0n),
    );
    memory.store(to, R0);
    fields.forEach((expr, i) => {
      const { type, offset, bytes } = layout[i]!;
      const at = { ...to, offset: to.offset + offset };
      const [absent, end] = [asm.label(), asm.label()];
      this.#expressions.field(expr, type, at, absent);
      if (isSure[i]) return asm.place(absent);
      memory.load(R0, to);
      asm.load64(R1, 1n << BigInt(i));
      asm.alu('or', R0, R1);
      memory.store(to, R0);
      asm.jump(end);
      asm.place(absent);
      memory.zero(at, bytes);
      asm.place(end);
    });
  }
}

const noVerdict = (verdict: string): never =>
  refuse(
    'verdict-in-kernel',
    `the kernel lets no program on a uprobe say '${verdict}'`,
    () => 'Return nothing, or use the trap engine',
  );

// The maps of aggregates

const bytesOfWords = (words: BigInt64Array): Uint8Array => new Uint8Array(words.buffer);

function cellsMap(aggregate: Aggregate, shape: CellShape, cpus: number): MapSpec {
  const stride = cellStride(shape);
  const empty = emptyCell(shape);
  const initial = new BigInt64Array(stride * cpus);
  for (let cpu = 0; cpu < cpus; cpu++) initial.set(empty, cpu * stride);
  return mapped({ of: 'aggregate', aggregate }, initial);
}

const mapped = (key: MapSpec['key'], initial: BigInt64Array): MapSpec => ({
  key,
  type: 'array',
  keyBytes: 4,
  valueBytes: initial.byteLength,
  entries: 1,
  mapped: true,
  ...(initial.some((word) => word !== 0n) ? { initial: bytesOfWords(initial) } : {}),
});

const tableMap = (aggregate: Aggregate, shape: TableShape): MapSpec => ({
  key: { of: 'aggregate', aggregate },
  type: 'hash',
  keyBytes: layOut(shape.key).bytes,
  valueBytes: cellWords(shape.cell) * 8,
  entries: shape.capacity,
  mapped: false,
});

const besideTable = (aggregate: Aggregate, shape: TableShape): MapSpec =>
  mapped({ of: 'beside', aggregate }, BigInt64Array.of(0n, ...emptyCell(shape.cell)));
const besideEvents = (aggregate: Aggregate): MapSpec =>
  mapped({ of: 'beside', aggregate }, BigInt64Array.of(0n));

const ringMap = (aggregate: Aggregate, shape: EventsShape): MapSpec => ({
  key: { of: 'aggregate', aggregate },
  type: 'ring',
  keyBytes: 0,
  valueBytes: 0,
  entries: shape.buffer,
  mapped: false,
});
