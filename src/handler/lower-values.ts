/** What a piece of a handler's text stands for, while it is compiled. */
import type { AnyNode } from 'acorn';
import type { Conversion } from './conversions.js';
import { CONVERSIONS } from './conversions.js';
import type { Expr, IntType, Span, Type } from './ir.js';
import { wrap } from './ir.js';
import type { Range } from './ranges.js';
import { point, typeFor } from './ranges.js';
import type { Aggregate } from './shapes.js';
import { ATTACH } from './shapes.js';

/** JavaScript's type of a value. Numbers here are whole, and exact. */
export type Kind = 'bigint' | 'number' | 'string' | 'boolean';

export interface Value {
  readonly is: 'value';
  readonly node: AnyNode;
  readonly kind: Kind;
  readonly expr: Expr;
  /** Of a bigint or number. */
  readonly range: Range;
  readonly nonzero: boolean;
  /** It may be undefined. */
  readonly optional: boolean;
  /** What facts about it are kept by. */
  readonly key?: string | undefined;
  /** It stands in the text as it is. */
  readonly literal: boolean;
}

/** A variable of the handler, in every pass over its text. */
export interface Local {
  readonly index: number;
  readonly name: string;
  readonly kind: Kind;
  readonly mutable: boolean;
  /** Everything that is ever put into it; of a bigint or number. */
  range: Range;
}

export type Thing =
  | Value
  | { readonly is: 'undefined' }
  | { readonly is: 'hit' | 'regs' | 'entryArgs' | 'uprobe' | 'scope' }
  | { readonly is: 'method'; readonly name: 'arg' | 'read' | 'readString' }
  | { readonly is: 'aggregate'; readonly aggregate: Aggregate }
  | { readonly is: 'conversion'; readonly type: IntType }
  | { readonly is: 'function'; readonly name: 'BigInt' | 'Number' | 'Math.trunc' }
  | { readonly is: 'Math' };

/** What a name means. `later`: it is declared further down. */
export type Binding = Thing | { readonly is: 'local'; readonly local: Local } | { readonly is: 'later' };

/** How a rule complains: where, and about what. */
export interface Report {
  fail(node: AnyNode, problem: string): never;
  /** About something that is there at another moment only. */
  failHere(node: AnyNode, problem: string): never;
  source(node: AnyNode): string;
}

/** Of values that are no numbers. */
export const NO_RANGE: Range = point(0n);

export const isInteger = (value: Value): boolean => value.kind === 'bigint' || value.kind === 'number';

/** The same value in a type that holds it; of a wider range, its lowest bits. */
export function as(expr: Expr, type: Type): Expr {
  if (expr.type === type) return expr;
  if (expr.op === 'int')
    return { op: 'int', type: type as IntType, value: wrap(type as IntType, expr.value) };
  return { op: 'convert', type: type as IntType, of: expr };
}

export function whole(node: AnyNode, kind: 'bigint' | 'number', value: bigint, literal: boolean): Value {
  const range = point(value);
  const type = typeFor(range) ?? 'u64';
  const expr: Expr = { op: 'int', type, value: wrap(type, value) };
  return { is: 'value', node, kind, expr, range, nonzero: value !== 0n, optional: false, literal };
}

export const text = (node: AnyNode, value: string): Value => ({
  ...NOTHING_KNOWN,
  node,
  kind: 'string',
  expr: { op: 'text', type: 'string', value },
  literal: true,
});

export const truth = (node: AnyNode, expr: Expr): Value => ({
  ...NOTHING_KNOWN,
  node,
  kind: 'boolean',
  expr,
  literal: false,
});

const NOTHING_KNOWN = { is: 'value', range: NO_RANGE, nonzero: false, optional: false } as const;

/** What a value that the author passes in is inside; undefined: nothing that a program can have. */
export function constantOf(node: AnyNode, value: unknown): Thing | undefined {
  switch (typeof value) {
    case 'bigint':
      return typeFor(point(value)) === undefined ? undefined : whole(node, 'bigint', value, false);
    case 'number':
      return Number.isSafeInteger(value) ? whole(node, 'number', BigInt(value), false) : undefined;
    case 'string':
      return { ...text(node, value), literal: false };
    case 'boolean':
      return truth(node, { op: 'truth', type: 'bool', value });
    case 'function': {
      const known = Object.entries(CONVERSIONS).find(([, f]) => f === (value as Conversion));
      return known && { is: 'conversion', type: known[0] as IntType };
    }
    case 'object':
      return value !== null && ATTACH in value
        ? { is: 'aggregate', aggregate: value as Aggregate }
        : undefined;
    default:
      return undefined;
  }
}

export const spanOf = ({ start, end }: Span): Span => ({ start, end });

/** A value as a sentence has it. */
export function described(value: Value): string {
  const what = { bigint: 'a bigint', number: 'a number', string: 'a string', boolean: 'true or false' }[
    value.kind
  ];
  return value.optional ? `${what} or undefined` : what;
}
