/**
 * Arithmetic and comparison in handlers: what JavaScript computes, in 64 bits. Every operation is proven to fit, or
 * stands where its lowest bits are all that is asked for (`wraps`); everything else is an error that says what to write.
 */
import type { AnyNode } from 'acorn';
import { alwaysHolds, INT32, SAFE, isPoint, joined, range, results, typeFor, within } from './ranges.js';
import type { Range } from './ranges.js';
import { isNonzero } from './facts.js';
import type { ArithmeticOperator, ComparisonOperator, Expr, IntType } from './ir.js';
import { wrap } from './ir.js';
import type { Report, Value } from './lower-values.js';
import { as, described, isInteger, whole } from './lower-values.js';
import { ofType } from './ranges.js';

/** Their lowest 64 bits depend on nothing but the lowest 64 bits of their operands. */
export const MODULAR: readonly string[] = ['+', '-', '*', '&', '|', '^', '<<'];
const BITWISE: readonly string[] = ['&', '|', '^', '<<', '>>'];

export class HandlerNumbers {
  readonly #report: Report;
  constructor(report: Report) {
    this.#report = report;
  }

  arithmetic(operator: ArithmeticOperator, left: Value, right: Value, node: AnyNode, wraps: boolean): Value {
    this.#integer(left, operator, node);
    this.#integer(right, operator, node);
    if (left.kind !== right.kind) this.#mixed(left, right);
    if (operator === '/' || operator === '%') this.#divisor(right);
    return left.kind === 'bigint'
      ? this.#bigints(operator, left, right, node, wraps)
      : this.#numbers(operator, left, right, node);
  }

  negate(operand: Value, node: AnyNode, wraps: boolean): Value {
    this.#integer(operand, '-', node);
    const zero = whole(node, operand.kind as 'bigint' | 'number', 0n, false);
    const negative = this.arithmetic('-', zero, operand, node, wraps);
    return { ...negative, literal: operand.literal };
  }

  complement(operand: Value, node: AnyNode, wraps: boolean): Value {
    this.#integer(operand, '~', node);
    if (operand.kind === 'number') this.#int32(operand, '~');
    const inverse = range(~operand.range.hi, ~operand.range.lo);
    const type = typeFor(inverse) ?? (wraps ? 'u64' : undefined);
    if (type === undefined) {
      const source = this.#report.source(operand.node);
      return this.#report.fail(
        node,
        `~${source} may not fit in 64 bits: write u64(~${source}) or ~i64(${source})`,
      );
    }
    if (operand.expr.op === 'int' && isPoint(inverse))
      return whole(node, operand.kind as 'bigint' | 'number', inverse.lo, operand.literal);
    const of = as(operand.expr, type);
    return this.#made(operand, node, inverse, { op: 'complement', type, of });
  }

  /** `u8(x)` … `i64(x)`. */
  convert(type: IntType, operand: Value, node: AnyNode): Value {
    this.present(operand);
    if (operand.kind === 'string')
      this.#report.fail(operand.node, `${type}() converts numbers, and this is ${described(operand)}`);
    const all = ofType(type);
    if (operand.kind === 'boolean') {
      const expr: Expr = { op: 'convert', type, of: operand.expr };
      return this.#made({ ...operand, kind: 'bigint' }, node, range(0n, 1n), expr);
    }
    if (operand.expr.op === 'int' && isPoint(operand.range)) {
      return whole(node, 'bigint', wrap(type, operand.range.lo), operand.literal);
    }
    const kept = within(operand.range, all);
    return {
      ...this.#made({ ...operand, kind: 'bigint' }, node, kept ? operand.range : all, as(operand.expr, type)),
      nonzero: kept && operand.nonzero,
    };
  }

  /** Both sides of a comparison as numbers of one type. */
  compare(operator: ComparisonOperator, left: Value, right: Value, node: AnyNode, final: boolean): Expr {
    const always = alwaysHolds(operator, left.range, right.range);
    if (left.expr.op === 'int' && right.expr.op === 'int' && always !== undefined)
      return { op: 'truth', type: 'bool', value: always };
    if (final && always !== undefined && (left.literal || right.literal))
      this.#pointless(left.literal ? right : left, always, node);
    const type = typeFor(joined(left.range, right.range)) ?? this.#signs(left, right, node);
    return {
      op: 'compare',
      type: 'bool',
      operator,
      left: as(left.expr, type),
      right: as(right.expr, type),
    };
  }

  /** A value that cannot be undefined. */
  present(value: Value): void {
    if (!value.optional) return;
    const source = this.#report.source(value.node);
    const isName = /^\w+$/.test(source);
    this.#report.fail(
      value.node,
      `${source} may be undefined: write ${isName ? `if (${source} === undefined) return;` : 'const v = …; if (v === undefined) return;'} before it, or ${source} ?? ${ZERO[value.kind]}`,
    );
  }

  /** The value of a piece of text that does not fit `all`. */
  unfit(value: Value, all: Range, what: string, type: string): never {
    const source = this.#report.source(value.node);
    return this.#report.fail(
      value.node,
      `${what} holds ${all.lo} to ${all.hi}, and ${source} may be ${shown(value.range)}: write ${type}(${source})`,
    );
  }

  #bigints(operator: ArithmeticOperator, left: Value, right: Value, node: AnyNode, wraps: boolean): Value {
    if (operator === '<<' || operator === '>>') this.#count(right, 63n, 'n');
    const result = results(operator, left.range, right.range);
    let type: 'u64' | 'i64';
    if (operator === '>>') type = typeFor(left.range)!;
    else if (MODULAR.includes(operator)) {
      type = typeFor(result) ?? (wraps ? 'u64' : this.#tooWide(result, node));
    } else {
      type =
        typeFor(joined(joined(left.range, right.range), result)) ?? this.#signs(left, right, node, result);
    }
    return this.#computed(operator, left, right, node, result, type);
  }

  #numbers(operator: ArithmeticOperator, left: Value, right: Value, node: AnyNode): Value {
    const [a, b] = [this.#report.source(left.node), this.#report.source(right.node)];
    if (operator === '/') {
      return this.#report.fail(
        node,
        `a division of numbers has a fraction: write Math.trunc(${a} / ${b}), or BigInt(${a}) / BigInt(${b})`,
      );
    }
    if (BITWISE.includes(operator)) {
      this.#int32(left, operator);
      if (operator === '<<' || operator === '>>') this.#count(right, 31n, '');
      else this.#int32(right, operator);
    }
    const result = results(operator, left.range, right.range);
    if (!within(result, BITWISE.includes(operator) ? INT32 : SAFE)) {
      return this.#report.fail(
        node,
        `${this.#report.source(node)} may be ${shown(result)}, which a number ${BITWISE.includes(operator) ? 'cuts off at 32 bits' : 'does not hold exactly'}: compute with BigInt(${a}) and BigInt(${b})`,
      );
    }
    const type = typeFor(joined(joined(left.range, right.range), result))!;
    return this.#computed(operator, left, right, node, result, type);
  }

  /** `Math.trunc(a / b)`: exact, for the nearest double to a quotient of safe integers is not beyond the next integer. */
  truncatedQuotient(left: Value, right: Value, node: AnyNode): Value {
    this.#integer(left, '/', node);
    this.#integer(right, '/', node);
    for (const side of [left, right])
      if (side.kind !== 'number')
        this.#report.fail(side.node, 'Math takes numbers, and this is a bigint, whose / has no fraction');
    this.#divisor(right);
    const result = results('/', left.range, right.range);
    const type = typeFor(joined(joined(left.range, right.range), result))!;
    return this.#computed('/', left, right, node, result, type);
  }

  #computed(
    operator: ArithmeticOperator,
    left: Value,
    right: Value,
    node: AnyNode,
    result: Range,
    type: 'u64' | 'i64',
  ): Value {
    const kind = left.kind as 'bigint' | 'number';
    const literal = left.literal && right.literal;
    if (left.expr.op === 'int' && right.expr.op === 'int' && isPoint(result))
      return whole(node, kind, result.lo, literal);
    return this.#made(left, node, result, {
      op: 'arithmetic',
      type,
      operator,
      left: as(left.expr, type),
      right: as(right.expr, type),
    });
  }

  #made(like: Value, node: AnyNode, all: Range, expr: Expr): Value {
    return {
      is: 'value',
      node,
      kind: like.kind,
      expr,
      range: all,
      nonzero: false,
      optional: false,
      literal: false,
    };
  }

  #integer(value: Value, operator: string, node: AnyNode): void {
    this.present(value);
    if (isInteger(value)) return;
    if (value.kind === 'string' && operator === '+')
      this.#report.fail(node, 'strings cannot be joined here: emit or key by both of them');
    this.#report.fail(value.node, `${operator} needs whole numbers, and this is ${described(value)}`);
  }

  #mixed(left: Value, right: Value): never {
    const number = left.kind === 'number' ? left : right;
    const source = this.#report.source(number.node);
    const other = this.#report.source((number === left ? right : left).node);
    return this.#report.fail(
      number.node,
      `${other} is a bigint and ${source} a number, which JavaScript does not mix: write ${asBigint(number, source)}`,
    );
  }

  #divisor(value: Value): void {
    if (isNonzero(value)) return;
    const source = this.#report.source(value.node);
    const zero = value.kind === 'bigint' ? '0n' : '0';
    this.#report.fail(
      value.node,
      isPoint(value.range)
        ? 'this divides by zero'
        : `${source} may be 0, and nothing can be divided by that: write if (${source} === ${zero}) return; before it`,
    );
  }

  #count(value: Value, most: bigint, suffix: string): void {
    if (within(value.range, range(0n, most))) return;
    const source = this.#report.source(value.node);
    this.#report.fail(
      value.node,
      `a shift is by 0 to ${most}, and ${source} may be ${shown(value.range)}: write ${source} & ${most}${suffix}`,
    );
  }

  #int32(value: Value, operator: string): void {
    if (within(value.range, INT32)) return;
    const source = this.#report.source(value.node);
    this.#report.fail(
      value.node,
      `${operator} sees the lowest 32 bits of a number, and ${source} may be ${shown(value.range)}: write ${asBigint(value, source)}`,
    );
  }

  #tooWide(result: Range, node: AnyNode): never {
    const [source, target] = this.#computation(node);
    const how = result.hi > FOLLOWED ? 'it grows in more rounds than are followed' : shown(result);
    const written = (type: string): string => `${target}${type}(${source})`;
    return this.#report.fail(
      node,
      `${source} may not fit in 64 bits (${how}): write ${written('u64')}${result.lo < 0n ? `, or ${written('i64')} where it may be negative` : ''}`,
    );
  }

  /** What is computed, and `x = ` where it is assigned by the same operator. */
  #computation(node: AnyNode): readonly [string, string] {
    if (node.type !== 'AssignmentExpression' && node.type !== 'UpdateExpression')
      return [this.#report.source(node), ''];
    const isStep = node.type === 'UpdateExpression';
    const target = this.#report.source(isStep ? node.argument : node.left);
    const right = isStep ? '1n' : this.#report.source(node.right);
    const by = /^[\w.]+(?:\([^()]*\))?$/.test(right) ? right : `(${right})`;
    return [`${target} ${node.operator.slice(0, isStep ? 1 : -1)} ${by}`, `${target} = `];
  }

  #signs(left: Value, right: Value, node: AnyNode, result?: Range): never {
    const signed = left.range.lo < 0n ? left : right.range.lo < 0n ? right : undefined;
    const source = (value: Value): string => this.#report.source(value.node);
    if (signed === undefined || typeFor(joined(left.range, right.range)) !== undefined)
      return this.#tooWide(result ?? joined(left.range, right.range), node);
    const other = signed === left ? right : left;
    return this.#report.fail(
      node,
      `${source(signed)} may be negative and ${source(other)} may be above 2^63: ` +
        `write i64(${source(other)}) or u64(${source(signed)})`,
    );
  }

  #pointless(value: Value, always: boolean, node: AnyNode): never {
    const source = this.#report.source(value.node);
    const signed =
      value.range.lo >= 0n && value.kind === 'bigint'
        ? `; for a signed value write i64(${source}) or i32(${source})`
        : '';
    return this.#report.fail(
      node,
      `${source} is ${shown(value.range)} here, so this is always ${always}${signed}`,
    );
  }
}

/** Beyond what any operation makes of 64 bits: see `widened`. */
const FOLLOWED = 1n << 190n;

const ZERO = { bigint: '0n', number: '0', string: '""', boolean: 'false' } as const;

/** A number as a bigint, in the author's text. */
export const asBigint = (value: Value, source: string): string =>
  value.literal && value.node.type === 'Literal' ? `${source}n` : `BigInt(${source})`;

const POWERS = new Map<bigint, string>();
for (const bits of [31n, 32n, 53n, 63n, 64n])
  for (const [sign, prefix] of [
    [1n, ''],
    [-1n, '-'],
  ] as const) {
    POWERS.set(sign * (1n << bits), `${prefix}2^${bits}`);
    POWERS.set(sign * ((1n << bits) - 1n), prefix === '' ? `2^${bits} - 1` : `-2^${bits} + 1`);
  }

const bound = (v: bigint): string => {
  const power = POWERS.get(v);
  if (power !== undefined) return power;
  const digits = String(v);
  return digits.length > 24 ? `${v < 0n ? '-' : ''}2^${(v < 0n ? -v : v).toString(2).length} or so` : digits;
};

/** A range as a sentence has it. */
export const shown = (all: Range): string =>
  isPoint(all) ? bound(all.lo) : `${bound(all.lo)} to ${bound(all.hi)}`;
