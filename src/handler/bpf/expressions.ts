/**
 * Code for expressions. A number ends in r0, a string in memory; where there is no value it goes on at `absent`. Uses r0–r5 and the
 * stack; r6 (the registers of the program), r7 (the uprobe's number) and r8 stay.
 */
import {
  isImmediate,
  R0,
  R1,
  R2,
  R3,
  R4,
  R6,
  R7,
  R10,
  type Label,
  type Reg,
} from '../../arch/bpf/assembler.js';
import type { JumpOperation } from '../../arch/bpf/opcodes.js';
import type { Expr, IntType } from '../ir.js';
import { bitsOf, isInt, isSigned, MOST_BYTES, rangeOf } from '../ir.js';
import { fieldBytes, type FieldType } from '../shapes.js';
import { argumentAt, refuse, savedAt, type Context, type Kept } from './context.js';
import { isOnStack, type Facts } from './facts.js';
import type { Place } from './frame.js';
import { Memory } from './memory.js';

type Arithmetic = Extract<Expr, { op: 'arithmetic' }>;
type Comparison = Extract<Expr, { op: 'compare' }>;
type Str = Extract<Expr, { op: 'str' }>;

/** A variable's memory. */
export interface Local {
  readonly place: Place;
  /** A word, not 0 where it has a value; undefined: it always has. */
  readonly present: Place | undefined;
  /** Of a string. */
  readonly bytes: number;
}

const roundUp = (bytes: number): number => (bytes + 7) & ~7;

const JUMPS: Readonly<
  Record<Comparison['operator'], readonly [JumpOperation, JumpOperation, Comparison['operator']]>
> = {
  // unsigned, signed, and what is true where this is not
  '==': ['eq', 'eq', '!='],
  '!=': ['ne', 'ne', '=='],
  '<': ['lt', 'slt', '>='],
  '<=': ['le', 'sle', '>'],
  '>': ['gt', 'sgt', '<='],
  '>=': ['ge', 'sge', '<'],
};

export class Expressions {
  readonly memory: Memory;

  constructor(
    readonly context: Context,
    readonly facts: Facts,
    readonly kept: Kept,
    readonly locals: readonly Local[],
    /** Where it goes on when an argument on the stack cannot be read; undefined: there is no value. */
    readonly unreadableStack: Label | undefined,
  ) {
    this.memory = new Memory(context.asm);
  }

  // Numbers

  value(expr: Expr, absent: Label): void {
    if (this.#isSimple(expr)) return this.#simple(expr, R0);
    const { asm } = this.context;
    switch (expr.op) {
      case 'arg':
        // The seventh is above the return address.
        asm.load(8, R0, R6, savedAt('sp')!);
        asm.alu('add', R0, BigInt((expr.index - 5) * 8));
        return this.#read('u64', this.unreadableStack ?? absent);
      case 'reg':
        return this.#register(expr.name);
      case 'duration':
        this.memory.load(R0, this.kept.time!);
        this.memory.load(R1, this.kept.entryTime!);
        return asm.alu('sub', R0, R1);
      case 'of':
        return this.#identity(expr.what, absent);
      case 'cgroup':
        return asm.call('get_current_cgroup_id');
      case 'uprobe':
        return this.#uprobe();
      case 'call':
        return this.#optional(this.kept.call!.value, this.kept.call!.present, absent);
      case 'local': {
        const { place, present } = this.locals[expr.local]!;
        return this.#optional(place, present, absent);
      }
      case 'convert':
        this.value(expr.of, absent);
        return this.#convert(expr.of, expr.type);
      case 'negate':
        this.value(expr.of, absent);
        return asm.neg(R0);
      case 'complement':
        this.value(expr.of, absent);
        return asm.alu('xor', R0, -1n);
      case 'arithmetic':
        return this.#arithmetic(expr, absent);
      case 'read':
        this.value(expr.address, absent);
        return this.#read(expr.type, absent);
      case 'hex':
        return this.value(expr.of, absent);
      case 'choose':
      case 'otherwise':
        return this.#alternatives(expr, absent, (part, none) => this.value(part, none));
      case 'present':
      case 'not':
      case 'compare':
      case 'both':
      case 'either':
        return this.#truth(expr, absent);
      default:
        return unsupported(expr);
    }
  }

  /** Those that one load makes, in any register, with no other destroyed. */
  #isSimple(expr: Expr): boolean {
    switch (expr.op) {
      case 'int':
      case 'truth':
      case 'entryArg':
      case 'retval':
      case 'time':
        return true;
      case 'arg':
        return !isOnStack(expr);
      case 'reg':
        return !['ip', 'cs', 'ss'].includes(expr.name) && savedAt(expr.name) !== undefined;
      case 'local':
        return expr.type !== 'string' && this.locals[expr.local]!.present === undefined;
      default:
        return false;
    }
  }

  #simple(expr: Expr, to: Reg): void {
    const { asm } = this.context;
    switch (expr.op) {
      case 'int':
        return asm.load64(to, expr.value);
      case 'truth':
        return asm.mov(to, expr.value ? 1n : 0n);
      case 'arg':
        return asm.load(8, to, R6, argumentAt(expr.index));
      case 'reg':
        return asm.load(8, to, R6, savedAt(expr.name)!);
      case 'retval':
        return asm.load(8, to, R6, savedAt('ax')!);
      case 'entryArg':
        return this.memory.load(to, this.kept.entryArgs!.get(expr.index)!);
      case 'time':
        return this.memory.load(to, this.kept.time!);
      case 'local':
        return this.memory.load(to, this.locals[expr.local]!.place);
      default:
        throw new TypeError(`${expr.op} is more than a load`);
    }
  }

  #register(name: Extract<Expr, { op: 'reg' }>['name']): void {
    const { asm } = this.context;
    const at = savedAt(name);
    if (at === undefined) {
      refuse(
        'register-not-saved',
        `the kernel does not hand ${name} to programs on uprobes`,
        () => 'Leave it out, or use the trap engine',
      );
    }
    asm.load(8, R0, R6, at);
    if (name !== 'ip') return asm.alu('and', R0, 0xffffn); // a selector; above it may be bits of the processor's own (FRED)
    if (this.kept.bias === undefined) return;
    this.memory.load(R1, this.kept.bias);
    asm.alu('sub', R0, R1);
  }

  #identity(what: 'pid' | 'tid' | 'cpu', absent: Label): void {
    const { asm, target } = this.context;
    if (what === 'cpu') return asm.call('get_smp_processor_id');
    this.memory.load(R0, this.kept.ids!);
    if (what === 'pid') asm.alu('rsh', R0, 32n);
    else asm.alu32('mov', R0, R0);
    // A process of another namespace has no number that means anything where we are.
    if (target.pidNamespace !== undefined) asm.jumpIf('eq', R0, 0n, absent);
  }

  #uprobe(): void {
    const { asm, tally } = this.context;
    asm.loadMapValue(R1, this.context.tallyMap(), 0);
    if (tally.uprobes > 1) {
      asm.mov(R0, R7);
      asm.alu('lsh', R0, 3n);
      asm.alu('add', R1, R0);
    }
    asm.load(8, R0, R1, 0);
  }

  #optional(place: Place, present: Place | undefined, absent: Label): void {
    if (present !== undefined) {
      this.memory.load(R0, present);
      this.context.asm.jumpIf('eq', R0, 0n, absent);
    }
    this.memory.load(R0, place);
  }

  /** r0 cut to a type, where its own has values that the other has not. */
  #convert(from: Expr, type: IntType | 'f64'): void {
    if (type === 'f64' || from.type === 'f64') return noFloats();
    this.narrow(from, type);
  }

  /** The same of what has just been evaluated. */
  narrow(from: Expr, type: IntType): void {
    if (!isInt(from.type)) return; // a truth fits everywhere
    const [least, most] = rangeOf(from.type);
    const [floor, ceiling] = rangeOf(type);
    if (least >= floor && most <= ceiling) return;
    const { asm } = this.context;
    const bits = bitsOf(type);
    if (bits === 64) return;
    if (type === 'u32') return asm.alu32('mov', R0, R0);
    if (!isSigned(type)) return asm.alu('and', R0, (1n << BigInt(bits)) - 1n);
    asm.alu('lsh', R0, BigInt(64 - bits));
    asm.alu('arsh', R0, BigInt(64 - bits));
  }

  /** The left one in r0; the right one is what is returned. */
  #operands(left: Expr, right: Expr, absent: Label): Reg | bigint {
    const { asm, frame } = this.context;
    if (right.op === 'int' && isImmediate(right.value)) {
      this.value(left, absent);
      return BigInt.asIntN(64, right.value);
    }
    if (this.#isSimple(right)) {
      this.value(left, absent);
      this.#simple(right, R1);
    } else if (this.#isSimple(left)) {
      this.value(right, absent);
      asm.mov(R1, R0);
      this.#simple(left, R0);
    } else {
      frame.within(() => {
        const first = frame.word();
        this.value(left, absent);
        this.memory.store(first, R0);
        this.value(right, absent);
        asm.mov(R1, R0);
        this.memory.load(R0, first);
      });
    }
    return R1;
  }

  #arithmetic(expr: Arithmetic, absent: Label): void {
    const { asm } = this.context;
    const { operator, type } = expr;
    if (type === 'f64') return noFloats();
    const by = this.#operands(expr.left, expr.right, absent);
    switch (operator) {
      case '+':
        return asm.alu('add', R0, by);
      case '-':
        return asm.alu('sub', R0, by);
      case '*':
        return asm.alu('mul', R0, by);
      case '&':
        return asm.alu('and', R0, by);
      case '|':
        return asm.alu('or', R0, by);
      case '^':
        return asm.alu('xor', R0, by);
      case '<<':
      case '>>': {
        if (by === R1) asm.alu('and', R1, 63n);
        const operation = operator === '<<' ? 'lsh' : type === 'i64' ? 'arsh' : 'rsh';
        return asm.alu(operation, R0, typeof by === 'bigint' ? by & 63n : by);
      }
      case '/':
      case '%':
        if (expr.right.op !== 'int') asm.jumpIf('eq', by as Reg, 0n, absent);
        else if (expr.right.value === 0n) return asm.jump(absent);
        return this.#divide(operator === '/' ? 'div' : 'mod', type, by);
    }
  }

  /** The processor's BPF divides unsigned numbers everywhere; signed ones, with the one that overflows, only in new kernels. */
  #divide(operation: 'div' | 'mod', type: 'u64' | 'i64', by: Reg | bigint): void {
    const { asm } = this.context;
    if (type === 'u64') return asm.alu(operation, R0, by);
    if (typeof by === 'bigint') asm.mov(R1, by);
    // The sign of the result in r2: of a remainder it is that of what is divided.
    asm.mov(R2, R0);
    if (operation === 'div') asm.alu('xor', R2, R1);
    this.#negateIfNegative(R0, R0);
    this.#negateIfNegative(R1, R1);
    asm.alu(operation, R0, R1);
    this.#negateIfNegative(R0, R2);
  }

  #negateIfNegative(what: Reg, sign: Reg): void {
    const { asm } = this.context;
    const isDone = asm.label();
    asm.jumpIf('sge', sign, 0n, isDone);
    asm.neg(what);
    asm.place(isDone);
  }

  /** r0 = what is at the address in r0. */
  #read(type: IntType, absent: Label): void {
    const { asm, frame, sleeps } = this.context;
    const bytes = (bitsOf(type) / 8) as 1 | 2 | 4 | 8;
    frame.within(() => {
      const to = frame.word();
      const address = frame.word();
      const isThere = asm.label();
      const ask = (helper: 'probe_read_user' | 'copy_from_user'): void => {
        this.memory.address(R1, to);
        asm.mov(R2, BigInt(bytes));
        asm.call(helper);
      };
      if (sleeps) this.memory.store(address, R0);
      asm.mov(R3, R0);
      ask('probe_read_user');
      if (sleeps) {
        asm.jumpIf('eq', R0, 0n, isThere);
        this.memory.load(R3, address);
        ask('copy_from_user');
      }
      asm.jumpIf('ne', R0, 0n, absent);
      asm.place(isThere);
      asm.load(bytes, R0, R10, to.offset);
    });
    if (!isSigned(type) || bytes === 8) return;
    asm.alu('lsh', R0, BigInt(64 - bytes * 8));
    asm.alu('arsh', R0, BigInt(64 - bytes * 8));
  }

  // Truths

  #truth(expr: Expr, absent: Label): void {
    const { asm } = this.context;
    const [isFalse, end] = [asm.label(), asm.label()];
    this.branch(expr, false, isFalse, absent);
    asm.mov(R0, 1n);
    asm.jump(end);
    asm.place(isFalse);
    asm.mov(R0, 0n);
    asm.place(end);
  }

  /** On to `target` where the condition is what `when` says. */
  branch(expr: Expr, when: boolean, target: Label, absent: Label): void {
    const { asm } = this.context;
    switch (expr.op) {
      case 'truth':
        if (expr.value === when) asm.jump(target);
        return;
      case 'not':
        return this.branch(expr.of, !when, target, absent);
      case 'both':
      case 'either': {
        const decides = expr.op === 'either';
        const end = asm.label();
        this.branch(expr.left, decides, decides === when ? target : end, absent);
        this.branch(expr.right, when, target, absent);
        return asm.place(end);
      }
      case 'present': {
        const end = asm.label();
        const none = when ? end : target;
        this.#evaluate(expr.of, none);
        if (when) asm.jump(target);
        return asm.place(end);
      }
      case 'compare':
        if (expr.left.type === 'string') return this.#compareStrings(expr, when, target, absent);
        return this.#compare(expr, when, target, absent);
      default:
        this.value(expr, absent);
        asm.jumpIf(when ? 'ne' : 'eq', R0, 0n, target);
    }
  }

  #compare(expr: Comparison, when: boolean, target: Label, absent: Label): void {
    const { left, right } = expr;
    if (left.type === 'f64' || right.type === 'f64') return noFloats();
    const operator = when ? expr.operator : JUMPS[expr.operator][2];
    const isUnsigned = left.type === 'u64' || right.type === 'u64';
    const by = this.#operands(left, right, absent);
    this.context.asm.jumpIf(JUMPS[operator][isUnsigned ? 0 : 1], R0, by, target);
  }

  #compareStrings(expr: Comparison, when: boolean, target: Label, absent: Label): void {
    const { asm, frame } = this.context;
    const end = asm.label();
    const isEqual = (expr.operator === '==') === when;
    const differ = isEqual ? end : target;
    frame.within(() => {
      const [left, right] = expr.left.op === 'text' ? [expr.right, expr.left] : [expr.left, expr.right];
      const block = this.#inMemory(left, absent);
      if (right.op === 'text') this.memory.differFromText(block, right.value, differ);
      else this.memory.differ(block, this.#inMemory(right, absent), differ);
    });
    if (isEqual) asm.jump(target);
    asm.place(end);
  }

  // Strings

  #inMemory(expr: Expr, absent: Label): { place: Place; bytes: number } {
    const bytes = roundUp(this.facts.stringBytes(expr));
    const place = this.context.frame.buffer(bytes);
    this.string(expr, place, bytes, absent);
    return { place, bytes };
  }

  /** A string, with NULs up to `bytes`, which has room for it. */
  string(expr: Expr, to: Place, bytes: number, absent: Label): void {
    const { asm } = this.context;
    switch (expr.op) {
      case 'text':
        return this.memory.text(to, expr.value, bytes);
      case 'comm':
        this.memory.zero(to, bytes);
        this.memory.address(R1, to);
        asm.mov(R2, 16n); // TASK_COMM_LEN
        return asm.call('get_current_comm');
      case 'local': {
        const local = this.locals[expr.local]!;
        if (local.present !== undefined) {
          this.memory.load(R0, local.present);
          asm.jumpIf('eq', R0, 0n, absent);
        }
        this.memory.copy(to, local.place, local.bytes);
        return this.memory.zero({ ...to, offset: to.offset + local.bytes }, bytes - local.bytes);
      }
      case 'str':
        return this.#readString(expr, to, bytes, absent);
      case 'choose':
      case 'otherwise':
        return this.#alternatives(expr, absent, (part, none) => this.string(part, to, bytes, none));
      default:
        return unsupported(expr);
    }
  }

  /**
   * bpf_probe_read_user_str ends what it reads with a NUL, in the last byte where there is none before. Asked for all `max`
   * bytes it has then seen the last one, which is read once more.
   */
  #readString(expr: Str, to: Place, bytes: number, absent: Label): void {
    const { asm, frame, sleeps } = this.context;
    const { memory } = this;
    const fixed = expr.max.op === 'int' ? this.facts.stringBytes(expr) : undefined;
    const end = asm.label();
    frame.within(() => {
      const [address, size, touched] = [frame.word(), frame.word(), frame.word()];
      this.value(expr.address, absent);
      memory.store(address, R0);
      if (fixed === undefined) this.#clampedSize(expr.max, size, absent);
      memory.zero(to, bytes);
      if (fixed === 0) return;
      const loadSize = (into: Reg): void =>
        fixed === undefined ? memory.load(into, size) : asm.mov(into, BigInt(fixed));
      if (fixed === undefined) {
        loadSize(R0);
        asm.jumpIf('eq', R0, 0n, end);
      }

      const hasRead = asm.label();
      const attempt = (failed: Label): void => {
        memory.address(R1, to);
        loadSize(R2);
        memory.load(R3, address);
        asm.call('probe_read_user_str');
        asm.jumpIf('slt', R0, 0n, failed);
      };
      if (sleeps) {
        // It cannot wait for pages: have them brought, the first, and the next where the string goes on there.
        for (const isNext of [false, true]) {
          const failed = asm.label();
          attempt(failed);
          asm.jump(hasRead);
          asm.place(failed);
          memory.address(R1, touched);
          asm.mov(R2, 1n);
          memory.load(R3, address);
          if (isNext) {
            asm.alu('or', R3, 4095n);
            asm.alu('add', R3, 1n);
          }
          asm.call('copy_from_user');
          asm.jumpIf('ne', R0, 0n, absent);
        }
      }
      attempt(absent);
      asm.place(hasRead);

      loadSize(R2);
      asm.jumpIf('ne', R0, R2, end);
      memory.address(R1, to);
      memory.load(R3, address);
      loadSize(R4);
      asm.alu('sub', R4, 1n);
      asm.alu('add', R1, R4);
      asm.alu('add', R3, R4);
      asm.mov(R2, 1n);
      asm.call('probe_read_user');
    });
    asm.place(end);
  }

  /** What is negative is 0; there are at most 4096. */
  #clampedSize(max: Expr, size: Place, absent: Label): void {
    const { asm } = this.context;
    const isFine = asm.label();
    this.value(max, absent);
    if (isInt(max.type) && isSigned(max.type)) {
      const isPositive = asm.label();
      asm.jumpIf('sge', R0, 0n, isPositive);
      asm.mov(R0, 0n);
      asm.place(isPositive);
    }
    asm.jumpIf('le', R0, BigInt(MOST_BYTES), isFine);
    asm.mov(R0, BigInt(MOST_BYTES));
    asm.place(isFine);
    this.memory.store(size, R0);
  }

  // Both

  #alternatives(
    expr: Extract<Expr, { op: 'choose' | 'otherwise' }>,
    absent: Label,
    make: (part: Expr, absent: Label) => void,
  ): void {
    const { asm } = this.context;
    const [other, end] = [asm.label(), asm.label()];
    if (expr.op === 'choose') {
      this.branch(expr.condition, false, other, absent);
      make(expr.yes, absent);
    } else make(expr.of, other);
    asm.jump(end);
    asm.place(other);
    make(expr.op === 'choose' ? expr.no : expr.instead, absent);
    asm.place(end);
  }

  /** Only whether there is one. */
  #evaluate(expr: Expr, absent: Label): void {
    if (expr.type !== 'string') return this.value(expr, absent);
    this.context.frame.within(() => this.#inMemory(expr, absent));
  }

  /** A field of a key or an event. */
  field(expr: Expr, type: FieldType, to: Place, absent: Label): void {
    if (typeof type !== 'object') {
      this.value(expr, absent);
      if (type !== 'bool') this.narrow(expr, type);
      return this.memory.store(to, R0);
    }
    const bytes = fieldBytes(type);
    if (expr.type !== 'string') return unsupported(expr);
    if (roundUp(this.facts.stringBytes(expr)) <= bytes) this.string(expr, to, bytes, absent);
    else {
      this.context.frame.within(() => {
        const { place } = this.#inMemory(expr, absent);
        this.memory.copy(to, place, bytes);
      });
    }
    if (this.facts.stringBytes(expr) > type.string) this.memory.cut(to, type.string);
  }
}

const noFloats = (): never =>
  refuse(
    'floating-point',
    'programs in the kernel have no floating-point numbers',
    () => 'Compute with whole numbers, or use the trap engine',
  );

function unsupported(expr: Expr): never {
  if (expr.type === 'f64') return noFloats();
  if (expr.type === 'bytes') {
    return refuse(
      'bytes-in-kernel',
      'programs in the kernel do not hand over bytes as such',
      () => 'Read a string or numbers, or use the trap engine',
    );
  }
  throw new TypeError(`${expr.op} makes no value of type ${expr.type}`);
}
