/** Values of expressions as fields of keys and events, and how they are shown. */
import { string } from '../index.js';
import type { FieldType } from '../index.js';
import { escapeText } from '../base/escape.js';
import { bitsOf, bytesOf, isInt, someExpr } from '../handler/ir.js';
import type { Expr } from '../handler/ir.js';
import type { ShownValue, ValueKind } from '../outputs/trace-line.js';

/** How a value is shown, by its type. */
export function kindOf({ type }: Expr): ValueKind {
  if (isInt(type)) return bitsOf(type) === 64 ? 'wide' : 'narrow';
  if (type === 'f64') return 'real';
  if (type === 'bool') return 'truth';
  return type === 'string' ? 'string' : 'verbatim';
}

/** An expression that can be kept. */
export interface FieldExpr {
  /** What is kept: of hex(…) the number. */
  readonly expr: Expr;
  readonly type: FieldType;
  /** What is shown of a value that was kept. */
  readonly shown: (value: ShownValue) => ShownValue;
}

const asItIs = (value: ShownValue): ShownValue => value;

/** Undefined where there is no field for it: floating-point numbers, and bytes. */
export function fieldOf(expr: Expr): FieldExpr | undefined {
  if (isInt(expr.type) || expr.type === 'bool') return { expr, type: expr.type, shown: asItIs };
  // A string of no bytes is still a field.
  if (expr.type === 'string') return { expr, type: string(Math.max(1, bytesOf(expr))), shown: asItIs };
  if (expr.op !== 'hex' || !isInt(expr.of.type)) return undefined;
  const { of } = expr;
  const { type } = expr.of;
  const bits = bitsOf(expr.of.type);
  const shown = (value: ShownValue): ShownValue =>
    value === undefined ? undefined : `0x${BigInt.asUintN(bits, BigInt(value)).toString(16)}`;
  return { expr: of, type, shown };
}

/** The kernel saves no floating-point registers for its handlers. */
export const needsFloats = (expr: Expr): boolean => someExpr(expr, (part) => part.type === 'f64');

/** What stands in --by: a name, for JSON, and the field. */
export interface KeyPart extends FieldExpr {
  readonly name: string;
  readonly kind: ValueKind;
  /** Its values are cgroups' ids. */
  readonly isCgroup: boolean;
}

/** One part of a key as text. */
export const keyText = ({ shown }: KeyPart, value: ShownValue): string => escapeText(String(shown(value)));

/** The same as JSON's values: what can have 64 bits is a string. */
export function keyJson({ kind, shown }: KeyPart, value: ShownValue): string | number | boolean {
  const known = shown(value);
  if (kind === 'narrow') return Number(known);
  return kind === 'truth' ? known === true : String(known);
}
