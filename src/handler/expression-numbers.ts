/**
 * The rules of arithmetic and comparison. Every number is 64 bits wide, signed or unsigned, or a double. Where
 * JavaScript and 64-bit code would see different values (signs mixed, a comparison that cannot be true), the
 * answer is an error that says what to write, never a guess.
 */
import type { Node } from 'acorn';
import { shortened } from './expression-error.js';
import type { ArithmeticOperator, ComparisonOperator, Expr, IntType, Type } from './ir.js';
import { bitsOf, isInt, isSigned, rangeOf } from './ir.js';

/** An integer that is known and has no type yet: it takes that of what it meets. */
export interface Constant {
  readonly op: 'constant';
  readonly value: bigint;
}
export type Checked = Expr | Constant;

/** A checked part, with the piece of text it came from. */
export interface Operand {
  readonly node: Node;
  readonly is: Checked;
}

/** How a rule complains: where, and about what. */
export interface Report {
  fail(node: Node, problem: string): never;
  /** The text of a node, for "write …". */
  source(node: Node): string;
}

const [I64_MIN, I64_MAX] = rangeOf('i64');
const U64_MAX = rangeOf('u64')[1];
const BITWISE: readonly string[] = ['&', '|', '^'];

/** The name of a type, as a sentence about a value has it. */
export function describe(is: Checked): string {
  if (is.op === 'constant') return 'a number';
  if (is.type === 'f64') return 'a floating-point number';
  if (is.type === 'bool') return 'true or false';
  if (is.type === 'string') return 'a string';
  if (is.type === 'bytes' || is.type === 'hex') return 'text for showing';
  return `${isSigned(is.type) ? 'signed' : 'unsigned'} (${is.type})`;
}

/** A constant as an expression: signed where it fits, so that the greater half of u64 keeps its meaning. */
export function settle(operand: Operand, report: Report, type?: IntType): Expr {
  const { is, node } = operand;
  if (is.op !== 'constant') return is;
  const chosen = type ?? (is.value > I64_MAX ? 'u64' : 'i64');
  const [least, most] = rangeOf(chosen);
  if (is.value < least || is.value > most) {
    report.fail(node, `${is.value} does not fit ${chosen}, which holds ${least} to ${most}`);
  }
  return { op: 'int', type: chosen, value: is.value };
}

/** Narrow integers become signed 64-bit ones: every one of their values fits. */
const promoted = (type: IntType): 'u64' | 'i64' => (type === 'u64' ? 'u64' : 'i64');

/** The type two integers are computed in, or undefined where one is u64 and the other can be negative. */
export function commonType(left: IntType, right: IntType): 'u64' | 'i64' | undefined {
  if (left !== 'u64' && right !== 'u64') return 'i64';
  return isSigned(left) || isSigned(right) ? undefined : 'u64';
}

export class Numbers {
  readonly #report: Report;
  constructor(report: Report) {
    this.#report = report;
  }

  arithmetic(operator: ArithmeticOperator, left: Operand, right: Operand, node: Node): Checked {
    const { is: l } = left;
    const { is: r } = right;
    if (l.op === 'constant' && r.op === 'constant')
      return this.#fold(operator, l.value, right, r.value, node);
    if (typeOf(l) === 'f64' || typeOf(r) === 'f64') return this.#floats(operator, left, right, node);
    this.#integer(left, operator);
    this.#integer(right, operator);
    if (operator === '<<' || operator === '>>') return this.#shift(operator, left, right);
    if ((operator === '/' || operator === '%') && r.op === 'constant' && r.value === 0n) {
      return this.#report.fail(right.node, 'this divides by zero');
    }
    const [a, b, type] = this.#sides(operator, left, right, node);
    return { op: 'arithmetic', type, operator, left: a, right: b };
  }

  compare(operator: ComparisonOperator, left: Operand, right: Operand, node: Node): Checked {
    const { is: l } = left;
    const { is: r } = right;
    if (l.op === 'constant' && r.op === 'constant') {
      return { op: 'truth', type: 'bool', value: holds(operator, l.value, r.value) };
    }
    if (typeOf(l) === 'string' || typeOf(r) === 'string' || typeOf(l) === 'bool' || typeOf(r) === 'bool') {
      return this.#compareWords(operator, left, right, node);
    }
    if (typeOf(l) === 'f64' || typeOf(r) === 'f64') {
      return {
        op: 'compare',
        type: 'bool',
        operator,
        left: this.#float(left, right),
        right: this.#float(right, left),
      };
    }
    this.#integer(left, operator);
    this.#integer(right, operator);
    if (r.op === 'constant') this.#mustMatter(operator, left, r.value, node);
    if (l.op === 'constant') this.#mustMatter(mirrored(operator), right, l.value, node);
    const [a, b] = this.#sides(operator, left, right, node);
    return { op: 'compare', type: 'bool', operator, left: a, right: b };
  }

  negate(operand: Operand): Checked {
    const { is, node } = operand;
    if (is.op === 'constant') return this.constant(-is.value, node);
    if (is.type === 'f64') return { op: 'negate', type: 'f64', of: is };
    const type = this.#integer(operand, '-');
    if (type === 'u64')
      this.#report.fail(node, `this is unsigned, so it has no negative: write -i64(${this.#source(node)})`);
    return { op: 'negate', type: 'i64', of: is };
  }

  complement(operand: Operand): Checked {
    const { is, node } = operand;
    if (is.op === 'constant') return this.constant(~is.value, node);
    return { op: 'complement', type: promoted(this.#integer(operand, '~')), of: is };
  }

  constant(value: bigint, node: Node): Constant {
    if (value < I64_MIN || value > U64_MAX)
      this.#report.fail(node, `${shortened(String(value))} needs more than 64 bits`);
    return { op: 'constant', value };
  }

  #source(node: Node): string {
    return this.#report.source(node);
  }

  /** The integer type of an operand; a constant counts as i64. */
  #integer({ is, node }: Operand, operator: string): IntType {
    if (is.op === 'constant') return 'i64';
    if (isInt(is.type)) return is.type;
    return this.#report.fail(node, `${operator} needs whole numbers, and this is ${describe(is)}`);
  }

  /** Both sides as expressions of one 64-bit type. */
  #sides(operator: string, left: Operand, right: Operand, node: Node): [Expr, Expr, 'u64' | 'i64'] {
    if (left.is.op === 'constant') {
      const type = promoted(this.#integer(right, operator));
      return [this.#fit(operator, left, type, right), settle(right, this.#report), type];
    }
    const leftType = this.#integer(left, operator);
    if (right.is.op === 'constant') {
      const type = promoted(leftType);
      return [left.is, this.#fit(operator, right, type, left), type];
    }
    const type = commonType(leftType, this.#integer(right, operator));
    if (type !== undefined) return [left.is, right.is, type];
    const signed = isSigned(leftType) ? left : right;
    const other = signed === left ? right : left;
    return this.#report.fail(
      node,
      `${this.#source(signed.node)} is signed and ${this.#source(other.node)} is unsigned: ` +
        `write i64(${this.#source(other.node)}) or u64(${this.#source(signed.node)})`,
    );
  }

  /** A constant in the type of the other side. In `&`, `|` and `^` a negative one stands for its bits: `arg0 & ~0xfff`. */
  #fit(operator: string, constant: Operand, type: 'u64' | 'i64', other: Operand): Expr {
    const value = constant.is.op === 'constant' ? constant.is.value : 0n;
    if (type === 'u64' && value < 0n) {
      if (BITWISE.includes(operator)) return { op: 'int', type, value: BigInt.asUintN(64, value) };
      this.#report.fail(
        constant.node,
        `this is negative, and ${this.#source(other.node)} is unsigned: write i64(${this.#source(other.node)})`,
      );
    }
    return settle(constant, this.#report, type);
  }

  #shift(operator: '<<' | '>>', left: Operand, right: Operand): Expr {
    const count = settle(right, this.#report);
    if (count.op === 'int' && (count.value < 0n || count.value > 63n)) {
      this.#report.fail(right.node, 'a 64-bit number can be shifted by 0 to 63');
    }
    const value = settle(
      left,
      this.#report,
      left.is.op === 'constant' && left.is.value >= 0n ? 'u64' : undefined,
    );
    return { op: 'arithmetic', type: promoted(value.type as IntType), operator, left: value, right: count };
  }

  #floats(operator: ArithmeticOperator, left: Operand, right: Operand, node: Node): Expr {
    if (BITWISE.includes(operator) || operator === '<<' || operator === '>>') {
      this.#report.fail(node, `${operator} needs whole numbers: write i64(…) around the floating-point ones`);
    }
    return {
      op: 'arithmetic',
      type: 'f64',
      operator,
      left: this.#float(left, right),
      right: this.#float(right, left),
    };
  }

  /** One side of a floating-point operation. */
  #float(operand: Operand, other: Operand): Expr {
    const { is, node } = operand;
    if (is.op === 'constant') {
      const value = Number(is.value);
      if (BigInt(value) !== is.value)
        this.#report.fail(node, 'a floating-point number cannot hold this exactly');
      return { op: 'float', type: 'f64', value };
    }
    if (is.type === 'f64') return is;
    if (!isInt(is.type)) return this.#report.fail(node, `this is ${describe(is)}, not a number`);
    return this.#report.fail(
      node,
      `this is a whole number and ${this.#source(other.node)} is a floating-point one: write f64(${this.#source(node)})`,
    );
  }

  #compareWords(operator: ComparisonOperator, left: Operand, right: Operand, node: Node): Expr {
    const l = settle(left, this.#report);
    const r = settle(right, this.#report);
    if (l.type !== r.type) {
      this.#report.fail(
        node,
        `${this.#source(left.node)} is ${describe(left.is)} and ${this.#source(right.node)} is ${describe(right.is)}: they cannot be compared`,
      );
    }
    if (operator !== '==' && operator !== '!=') {
      this.#report.fail(node, `${describe(l)} can be compared with == and != only`);
    }
    return { op: 'compare', type: 'bool', operator, left: l, right: r };
  }

  /** A comparison with a constant that has the same answer for every value is a mistake, most often of sign. */
  #mustMatter(operator: ComparisonOperator, operand: Operand, value: bigint, node: Node): void {
    if (operand.is.op === 'constant' || !isInt(operand.is.type)) return;
    const { type } = operand.is;
    const answer = alwaysOf(operator, rangeOf(type), value);
    if (answer === undefined) return;
    const text = this.#source(operand.node);
    const bits = bitsOf(type);
    const signed = bits === 64 ? `i64(${text}) or i32(${text})` : `i${bits}(${text})`;
    const instead =
      isSigned(type) || value > 0n
        ? `it holds ${rangeOf(type).join(' to ')}`
        : `for a signed value write ${signed}`;
    this.#report.fail(node, `${text} is ${describe(operand.is)}, so this is always ${answer}: ${instead}`);
  }

  #fold(operator: ArithmeticOperator, left: bigint, right: Operand, count: bigint, node: Node): Constant {
    if ((operator === '/' || operator === '%') && count === 0n)
      this.#report.fail(right.node, 'this divides by zero');
    if ((operator === '<<' || operator === '>>') && (count < 0n || count > 63n)) {
      this.#report.fail(right.node, 'a 64-bit number can be shifted by 0 to 63');
    }
    return this.constant(exact(operator, left, count), node);
  }
}

const typeOf = (is: Checked): Type => (is.op === 'constant' ? 'i64' : is.type);

/** The answer a comparison has for every value of a range, if it has one. */
function alwaysOf(
  operator: ComparisonOperator,
  [least, most]: readonly [bigint, bigint],
  value: bigint,
): boolean | undefined {
  const atLeast = holds(operator, least, value);
  const atMost = holds(operator, most, value);
  if (operator === '==' || operator === '!=') {
    return value < least || value > most ? operator === '!=' : undefined;
  }
  return atLeast === atMost ? atLeast : undefined;
}

const MIRRORED = { '==': '==', '!=': '!=', '<': '>', '<=': '>=', '>': '<', '>=': '<=' } as const;
const mirrored = (operator: ComparisonOperator): ComparisonOperator => MIRRORED[operator];

export function holds<T extends bigint | number | string | boolean>(
  operator: ComparisonOperator,
  a: T,
  b: T,
): boolean {
  switch (operator) {
    case '==':
      return a === b;
    case '!=':
      return a !== b;
    case '<':
      return a < b;
    case '<=':
      return a <= b;
    case '>':
      return a > b;
    case '>=':
      return a >= b;
  }
}

/** The mathematical result; the caller has checked divisors and shift counts. */
export function exact(operator: ArithmeticOperator, a: bigint, b: bigint): bigint {
  switch (operator) {
    case '+':
      return a + b;
    case '-':
      return a - b;
    case '*':
      return a * b;
    case '/':
      return a / b;
    case '%':
      return a % b;
    case '<<':
      return a << b;
    case '>>':
      return a >> b;
    case '&':
      return a & b;
    case '|':
      return a | b;
    case '^':
      return a ^ b;
  }
}
