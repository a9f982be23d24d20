/**
 * The intermediate representation: what handlers and expressions have become once they are checked. Small, typed, plain
 * data. Whatever runs them (the interpreter here, compilers to BPF and to machine code) works from this tree and never from
 * text.
 *
 * Every number has 64 bits, signed or unsigned, and arithmetic wraps round there; front ends prove that it cannot, or
 * make their authors say that it may. A value may be absent (memory that cannot be read, a division by 0): whatever has an
 * absent part is absent itself, but for `present` and `otherwise`.
 */
import type { Aggregate } from './shapes.js';

export const INT_TYPES = ['u8', 'u16', 'u32', 'u64', 'i8', 'i16', 'i32', 'i64'] as const;
export type IntType = (typeof INT_TYPES)[number];
/** `bytes` and `hex` are ways to show a value; nothing can be computed from them. */
export type Type = IntType | 'f64' | 'bool' | 'string' | 'bytes' | 'hex';

/** The registers, by the kernel's names for x86-64 (struct pt_regs). */
// prettier-ignore
export const REGISTERS = [
  'ax', 'bx', 'cx', 'dx', 'si', 'di', 'bp', 'sp', 'r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15', 'ip', 'flags',
  'origAx', 'cs', 'ss', 'ds', 'es', 'fs', 'gs', 'fsBase', 'gsBase',
] as const;
export type Register = (typeof REGISTERS)[number];

export type ArithmeticOperator = '+' | '-' | '*' | '/' | '%' | '<<' | '>>' | '&' | '|' | '^';
export type ComparisonOperator = '==' | '!=' | '<' | '<=' | '>' | '>=';

export type Expr =
  | { readonly op: 'int'; readonly type: IntType; readonly value: bigint }
  | { readonly op: 'float'; readonly type: 'f64'; readonly value: number }
  | { readonly op: 'text'; readonly type: 'string'; readonly value: string }
  | { readonly op: 'truth'; readonly type: 'bool'; readonly value: boolean }
  | { readonly op: 'arg'; readonly type: 'u64'; readonly index: number }
  /** `single`: the register holds a float, not a double. */
  | { readonly op: 'farg'; readonly type: 'f64'; readonly index: number; readonly single: boolean }
  | { readonly op: 'reg'; readonly type: 'u64'; readonly name: Register }
  /** Where a function returns: its argument as it was at the entry. */
  | { readonly op: 'entryArg'; readonly type: 'u64'; readonly index: number }
  | { readonly op: 'retval' | 'duration'; readonly type: 'u64' }
  | { readonly op: 'of'; readonly type: 'u32'; readonly what: 'pid' | 'tid' | 'cpu' }
  | { readonly op: 'time'; readonly type: 'u64' }
  /** The id of the thread's cgroup (cgroup v2): the inode of its directory. */
  | { readonly op: 'cgroup'; readonly type: 'u64' }
  /** `Uprobe.id`. */
  | { readonly op: 'uprobe'; readonly type: 'u64' }
  /** What the pre handler has left for the return of the same call; absent where it has left nothing. */
  | { readonly op: 'call'; readonly type: 'u64' }
  /** A variable of the handler, absent where what was put into it was. */
  | { readonly op: 'local'; readonly type: Type; readonly local: number }
  /** Whether there is a value. Never absent. */
  | { readonly op: 'present'; readonly type: 'bool'; readonly of: Expr }
  /** The value, or another where there is none: `??`. */
  | { readonly op: 'otherwise'; readonly type: Type; readonly of: Expr; readonly instead: Expr }
  | { readonly op: 'comm'; readonly type: 'string' }
  | { readonly op: 'convert'; readonly type: IntType | 'f64'; readonly of: Expr }
  | { readonly op: 'negate' | 'complement'; readonly type: 'u64' | 'i64' | 'f64'; readonly of: Expr }
  | { readonly op: 'not'; readonly type: 'bool'; readonly of: Expr }
  | {
      readonly op: 'arithmetic';
      readonly type: 'u64' | 'i64' | 'f64';
      readonly operator: ArithmeticOperator;
      readonly left: Expr;
      readonly right: Expr;
    }
  | {
      readonly op: 'compare';
      readonly type: 'bool';
      readonly operator: ComparisonOperator;
      readonly left: Expr;
      readonly right: Expr;
    }
  | { readonly op: 'both' | 'either'; readonly type: 'bool'; readonly left: Expr; readonly right: Expr }
  | {
      readonly op: 'choose';
      readonly type: Type;
      readonly condition: Expr;
      readonly yes: Expr;
      readonly no: Expr;
    }
  | { readonly op: 'read'; readonly type: IntType; readonly address: Expr }
  | { readonly op: 'str'; readonly type: 'string'; readonly address: Expr; readonly max: Expr }
  | { readonly op: 'buf'; readonly type: 'bytes'; readonly address: Expr; readonly length: Expr }
  | { readonly op: 'hex'; readonly type: 'hex'; readonly of: Expr };

export const isInt = (type: Type): type is IntType => (INT_TYPES as readonly string[]).includes(type);
export const isSigned = (type: IntType): boolean => type.startsWith('i');
export const bitsOf = (type: IntType): number => Number(type.slice(1));

/** The least and the greatest value of a type. */
export const rangeOf = (type: IntType): readonly [bigint, bigint] => {
  const bits = BigInt(bitsOf(type));
  return isSigned(type) ? [-(1n << (bits - 1n)), (1n << (bits - 1n)) - 1n] : [0n, (1n << bits) - 1n];
};

/** The value a type's bits hold when more bits are cut off, as a processor's narrow registers do. */
export const wrap = (type: IntType, value: bigint): bigint =>
  isSigned(type) ? BigInt.asIntN(bitsOf(type), value) : BigInt.asUintN(bitsOf(type), value);

/** The parts of an expression, for walks over the tree. */
export function partsOf(expr: Expr): readonly Expr[] {
  switch (expr.op) {
    case 'convert':
    case 'negate':
    case 'complement':
    case 'not':
    case 'present':
    case 'hex':
      return [expr.of];
    case 'otherwise':
      return [expr.of, expr.instead];
    case 'arithmetic':
    case 'compare':
    case 'both':
    case 'either':
      return [expr.left, expr.right];
    case 'choose':
      return [expr.condition, expr.yes, expr.no];
    case 'read':
      return [expr.address];
    case 'str':
      return [expr.address, expr.max];
    case 'buf':
      return [expr.address, expr.length];
    default:
      return [];
  }
}

/** Whether the expression, or any part of it, is one that `wanted` accepts. */
export const someExpr = (expr: Expr, wanted: (part: Expr) => boolean): boolean =>
  wanted(expr) || partsOf(expr).some((part) => someExpr(part, wanted));

/** Where in the author's text something stands: UTF-16 code units. */
export interface Span {
  readonly start: number;
  readonly end: number;
}

/** One step of a handler. `at`: where its text is, for messages. */
export type Statement = { readonly at: Span } & (
  | { readonly do: 'set'; readonly local: number; readonly value: Expr }
  /** An absent condition takes neither branch. */
  | {
      readonly do: 'if';
      readonly condition: Expr;
      readonly yes: readonly Statement[];
      readonly no: readonly Statement[];
    }
  /**
   * `for (let i = from; i < to; i += step)`, `to` evaluated before each round; at most `most` rounds, which the front end has proven.
   * Where `from` or `to` is absent there is no round.
   */
  | {
      readonly do: 'loop';
      readonly local: number;
      readonly from: Expr;
      readonly to: Expr;
      readonly step: bigint;
      readonly most: number;
      readonly body: readonly Statement[];
    }
  /** Out of, or to the next round of, the innermost loop. */
  | { readonly do: 'break' | 'continue' }
  /** The end of the handler. */
  | { readonly do: 'leave'; readonly verdict: Verdict | undefined }
  | { readonly do: 'setRegister'; readonly name: Register; readonly value: Expr }
  /** For the return of the same call. */
  | { readonly do: 'setCall'; readonly value: Expr }
  /** Add a value to an aggregate, or to the one of a table that its key (not empty then) names. */
  | {
      readonly do: 'add';
      readonly aggregate: number;
      readonly key: readonly Expr[];
      readonly value: Expr;
    }
  /** One event. A field that is absent is absent in the event, too. */
  | { readonly do: 'emit'; readonly aggregate: number; readonly fields: readonly Expr[] }
);

export type Verdict = 'skip' | 'remove';

/** When a handler runs. */
export type ProgramMoment = 'pre' | 'return';

/** A whole handler. */
export interface Program {
  readonly moment: ProgramMoment;
  /** The types of its variables. A string in one has at most `bytesOf` what was put into it. */
  readonly locals: readonly Type[];
  /** What it writes to, by the numbers in its statements. */
  readonly aggregates: readonly Aggregate[];
  readonly body: readonly Statement[];
  /**
   * What an absent value does where a value is needed (an `add`'s, a key's, a register's, a call's): nothing but that the statement
   * does nothing (`skip`, as in the expression language), or it ends the handler as an exception does (`error`). With `error` an
   * `arg` on the stack that cannot be read ends the handler where it is evaluated, for `hit.arg` throws: it is never absent.
   */
  readonly absent: 'skip' | 'error';
  /** The author's text that the spans are in. */
  readonly text: string;
}

/** The most bytes a string can have. */
export function bytesOf(expr: Expr, localBytes: (local: number) => number = () => MOST_BYTES): number {
  switch (expr.op) {
    case 'text':
      return Buffer.byteLength(expr.value);
    case 'comm':
      return COMM_BYTES;
    case 'str':
      return expr.max.op === 'int' ? Number(expr.max.value) : MOST_BYTES;
    case 'choose':
      return Math.max(bytesOf(expr.yes, localBytes), bytesOf(expr.no, localBytes));
    case 'otherwise':
      return Math.max(bytesOf(expr.of, localBytes), bytesOf(expr.instead, localBytes));
    case 'local':
      return localBytes(expr.local);
    default:
      throw new TypeError(`${expr.op} is no string`);
  }
}

/** TASK_COMM_LEN without the NUL (include/linux/sched.h). */
export const COMM_BYTES = 15;
/** The most bytes that are read of a string at one hit. */
export const MOST_BYTES = 4096;
