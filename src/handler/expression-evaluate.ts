/** The typed tree as a closure. What it computes is the meaning of the expression language. */
import { exact, holds } from './expression-numbers.js';
import type { Expr, IntType, Register } from './ir.js';
import { MOST_BYTES, bitsOf, isSigned, rangeOf, wrap } from './ir.js';

/** What an expression reads of a hit. A handler's hit fits. */
export interface ExpressionHit {
  readonly pid: number;
  readonly tid: number;
  readonly cpu: number;
  readonly comm: string;
  readonly time: bigint;
  readonly regs: { readonly [R in Register]: bigint };
  /** At a function's return. */
  readonly returnValue?: bigint;
  readonly duration?: bigint;
  readonly entryArgs?: readonly bigint[];
  /** What the pre handler has left for the return. */
  readonly call?: unknown;
  readonly cgroup?: bigint;
  readonly uprobe?: { readonly id: number };
  arg(n: number): bigint;
  floatArg(n: number): number;
  read(address: bigint, type: IntType): bigint | undefined;
  readBytes(address: bigint, length: number): Uint8Array | undefined;
  readString(address: bigint, max?: number): string | undefined;
}

/** `undefined`: there is no value, because memory could not be read or a divisor was 0. */
export type Value = bigint | number | string | boolean | undefined;
/** What a handler knows beside the hit. */
export interface Frame {
  readonly locals: Value[];
  /** `Program.absent` is `error`: what cannot be read on the stack throws, as `hit.arg` does. */
  readonly throws: boolean;
}
export type Evaluate = (hit: ExpressionHit, frame?: Frame) => Value;
type Of<T> = (hit: ExpressionHit, frame?: Frame) => T | undefined;

export function evaluator(expr: Expr): Evaluate {
  switch (expr.op) {
    case 'int':
    case 'float':
    case 'text':
    case 'truth': {
      const { value } = expr;
      return () => value;
    }
    case 'arg': {
      const { index } = expr;
      return index < 6 ? (hit) => hit.arg(index) : stackArgument(index);
    }
    case 'farg':
      return floatArgument(expr.index, expr.single);
    case 'reg': {
      const { name } = expr;
      return (hit) => hit.regs[name];
    }
    case 'entryArg': {
      const { index } = expr;
      return (hit) => hit.entryArgs?.[index];
    }
    case 'retval':
      return (hit) => hit.returnValue;
    case 'duration':
      return (hit) => hit.duration;
    case 'of': {
      const { what } = expr;
      // The CPU of a thread that was killed meanwhile is -1: not known.
      return (hit) => (hit[what] < 0 ? undefined : BigInt(hit[what]));
    }
    case 'time':
      return (hit) => hit.time;
    case 'cgroup':
      return (hit) => hit.cgroup;
    case 'uprobe':
      return (hit) => (hit.uprobe === undefined ? undefined : BigInt(hit.uprobe.id));
    case 'call':
      return (hit) => (typeof hit.call === 'bigint' ? hit.call : undefined);
    case 'local': {
      const { local } = expr;
      return (_hit, frame) => frame?.locals[local];
    }
    case 'present': {
      const of = evaluator(expr.of);
      return (hit, frame) => of(hit, frame) !== undefined;
    }
    case 'otherwise': {
      const of = evaluator(expr.of);
      const instead = evaluator(expr.instead);
      return (hit, frame) => of(hit, frame) ?? instead(hit, frame);
    }
    case 'comm':
      return (hit) => hit.comm;
    default:
      return computed(expr);
  }
}

/** SysV psABI 3.2.3: from the seventh on, arguments are on the stack, which may not be readable. */
function stackArgument(index: number): Evaluate {
  return (hit, frame) => {
    try {
      return hit.arg(index);
    } catch (e) {
      if (frame?.throws === true) throw e;
      return undefined;
    }
  };
}

/** The operations: nothing that has a part without a value has a value itself. */
function computed(expr: Expr): Evaluate {
  switch (expr.op) {
    case 'convert':
      return conversion(expr.type, expr.of);
    case 'negate':
      return expr.type === 'f64'
        ? map(numberOf(expr.of), (v) => -v)
        : map(bigintOf(expr.of), (v) => BigInt.asIntN(64, -v));
    case 'complement':
      return map(bigintOf(expr.of), expr.type === 'u64' ? (v) => BigInt.asUintN(64, ~v) : (v) => ~v);
    case 'not':
      return map(truthOf(expr.of), (v) => !v);
    case 'arithmetic':
      return arithmetic(expr);
    case 'compare': {
      const { operator } = expr;
      // The checker has made both sides of one type.
      return join(evaluator(expr.left), evaluator(expr.right), (a, b) =>
        holds(operator, a as bigint, b as bigint),
      );
    }
    case 'both':
      return shortCircuit(expr.left, expr.right, false);
    case 'either':
      return shortCircuit(expr.left, expr.right, true);
    case 'choose':
      return choice(truthOf(expr.condition), evaluator(expr.yes), evaluator(expr.no));
    case 'hex':
      // A negative number is shown as the bits it has in its own width.
      return map(bigintOf(expr.of), (v) => `0x${BigInt.asUintN(widthOf(expr.of), v).toString(16)}`);
    default:
      return memory(expr);
  }
}

function memory(expr: Expr): Evaluate {
  switch (expr.op) {
    case 'read': {
      const { type } = expr;
      const address = bigintOf(expr.address);
      return (hit, frame) => {
        const at = address(hit, frame);
        return at === undefined ? undefined : hit.read(at, type);
      };
    }
    case 'str':
      return reading(expr.address, expr.max, (hit, at, length) =>
        length === 0 ? '' : hit.readString(at, length),
      );
    case 'buf':
      return reading(expr.address, expr.length, (hit, at, length) =>
        length === 0 ? '' : bytesInHex(hit.readBytes(at, length)),
      );
    default:
      throw new TypeError(`no such operation: ${expr.op}`);
  }
}

const bigintOf = (expr: Expr): Of<bigint> => evaluator(expr) as Of<bigint>;
const numberOf = (expr: Expr): Of<number> => evaluator(expr) as Of<number>;
const truthOf = (expr: Expr): Of<boolean> => evaluator(expr) as Of<boolean>;
const widthOf = (expr: Expr): number => bitsOf(expr.type as IntType);

function map<T>(of: Of<T>, apply: (value: T) => Value): Evaluate {
  return (hit, frame) => {
    const value = of(hit, frame);
    return value === undefined ? undefined : apply(value);
  };
}

function join<T>(left: Of<T>, right: Of<T>, apply: (a: T, b: T) => Value): Evaluate {
  return (hit, frame) => {
    const a = left(hit, frame);
    if (a === undefined) return undefined;
    const b = right(hit, frame);
    return b === undefined ? undefined : apply(a, b);
  };
}

function arithmetic(expr: Extract<Expr, { op: 'arithmetic' }>): Evaluate {
  const { operator, type } = expr;
  if (type === 'f64')
    return join(numberOf(expr.left), numberOf(expr.right), (a, b) => floating(operator, a, b));
  const left = bigintOf(expr.left);
  const right = bigintOf(expr.right);
  if (operator === '/' || operator === '%') {
    return join(left, right, (a, b) => (b === 0n ? undefined : wrap(type, exact(operator, a, b))));
  }
  if (operator === '<<' || operator === '>>') {
    // As the processor does: only six bits of the count matter.
    return join(left, right, (a, b) => wrap(type, exact(operator, a, b & 63n)));
  }
  // Arithmetic wraps round at 64 bits, as in the probed program.
  return join(left, right, (a, b) => wrap(type, exact(operator, a, b)));
}

function floating(operator: string, a: number, b: number): number {
  switch (operator) {
    case '+':
      return a + b;
    case '-':
      return a - b;
    case '*':
      return a * b;
    case '/':
      return a / b;
    default:
      return a % b;
  }
}

function shortCircuit(left: Expr, right: Expr, decides: boolean): Evaluate {
  const a = truthOf(left);
  const b = truthOf(right);
  return (hit, frame) => {
    const first = a(hit, frame);
    return first === undefined || first === decides ? first : b(hit, frame);
  };
}

function choice(condition: Of<boolean>, yes: Evaluate, no: Evaluate): Evaluate {
  return (hit, frame) => {
    const chosen = condition(hit, frame);
    if (chosen === undefined) return undefined;
    return chosen ? yes(hit, frame) : no(hit, frame);
  };
}

function conversion(type: IntType | 'f64', from: Expr): Evaluate {
  if (type === 'f64') return map(evaluator(from) as Of<bigint | boolean>, Number);
  if (from.type === 'f64') return map(numberOf(from), (v) => truncated(type, v));
  return map(evaluator(from) as Of<bigint | boolean>, (v) => wrap(type, BigInt(v)));
}

/** Towards zero, and to the nearest value the type has; not a number is 0. */
function truncated(type: IntType, value: number): bigint {
  const [least, most] = rangeOf(type);
  if (Number.isNaN(value)) return 0n;
  if (value <= Number(least)) return least;
  if (value >= Number(most)) return most;
  return BigInt(Math.trunc(value));
}

/** One scratch double, to look at the lower half of a vector register as a float. */
const double = new Float64Array(1);
const single = new Float32Array(double.buffer);

function floatArgument(index: number, isSingle: boolean): Evaluate {
  if (!isSingle) return (hit) => hit.floatArg(index);
  return (hit) => {
    double[0] = hit.floatArg(index);
    return single[0];
  };
}

function reading(
  address: Expr,
  length: Expr,
  read: (hit: ExpressionHit, at: bigint, length: number) => Value,
): Evaluate {
  const at = bigintOf(address);
  const most = bigintOf(length);
  // A narrower view of the same bits: a length of -1 held in an unsigned register means as much as can be had.
  const signed = isSigned(length.type as IntType);
  return (hit, frame) => {
    const where = at(hit, frame);
    const wanted = where === undefined ? undefined : most(hit, frame);
    if (where === undefined || wanted === undefined) return undefined;
    const bytes = signed && wanted < 0n ? 0 : wanted > MOST_BYTES ? MOST_BYTES : Number(wanted);
    return read(hit, where, bytes);
  };
}

function bytesInHex(bytes: Uint8Array | undefined): string | undefined {
  if (bytes === undefined) return undefined;
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex');
}
