/** What a handler writes: aggregates, registers, `hit.call`. */
import type { AnyNode, CallExpression, MemberExpression, ObjectExpression } from 'acorn';
import type { Expr, Register, Statement, Type } from './ir.js';
import { isRegister } from './lower-hit.js';
import { AGGREGATES_ARE_WRITTEN, kindsFor } from './lower-expressions.js';
import type { HandlerExpressions } from './lower-expressions.js';
import type { Report, Thing, Value } from './lower-values.js';
import { as, described, isInteger, spanOf, whole } from './lower-values.js';
import { U64, ofType, typeFor, within } from './ranges.js';
import type { Aggregate, FieldType } from './shapes.js';
import { nearest } from '../base/nearest.js';

/** A place that can be assigned to, besides variables. */
export type Place = { readonly register: Register } | 'call';

type Writing = Extract<Statement, { do: 'add' | 'emit' }>;

const FORMS = {
  counter: 'add() or add(value)',
  histogram: 'add(value)',
  linear: 'add(value)',
  stats: 'add(value)',
  table: 'at(key, …).add(value)',
  events: 'emit({ … })',
} as const;

export class HandlerWrites {
  /** In the order of their numbers. */
  readonly aggregates: Aggregate[] = [];
  readonly #report: Report;
  readonly #expressions: HandlerExpressions;
  constructor(report: Report, expressions: HandlerExpressions) {
    this.#report = report;
    this.#expressions = expressions;
  }

  /** `a.add(…)`, `a.at(…).add(…)`, `a.emit(…)`; undefined: the call is none of them. */
  call(node: CallExpression): Writing | undefined {
    const { callee } = node;
    if (callee.type !== 'MemberExpression' || callee.property.type !== 'Identifier' || callee.computed)
      return undefined;
    const { name } = callee.property;
    const { object } = callee;
    const row = object.type === 'CallExpression' ? this.#row(object) : undefined;
    const aggregate = row?.aggregate ?? this.#aggregate(object);
    if (aggregate === undefined) return undefined;
    for (const given of [...node.arguments, ...(row?.key ?? [])])
      if (given.type === 'SpreadElement') this.#report.fail(given, '... is not part of compiled handlers');
    const { shape } = aggregate;
    const form = FORMS[shape.kind];
    const fits =
      shape.kind === 'events'
        ? name === 'emit'
        : name === 'add' && (shape.kind === 'table') === (row !== undefined);
    if (!fits) {
      const reads = name === 'add' || name === 'emit' || name === 'at' ? '' : `${AGGREGATES_ARE_WRITTEN}; `;
      return this.#report.fail(callee.property, `${reads}${describedShape(shape.kind)} has ${form}`);
    }
    return shape.kind === 'events' ? this.#emit(aggregate, node) : this.#add(aggregate, row?.key ?? [], node);
  }

  /** The aggregate that a piece of text names, if it does. */
  #aggregate(node: AnyNode): Aggregate | undefined {
    if (node.type !== 'Identifier' && node.type !== 'MemberExpression') return undefined;
    const thing: Thing = this.#expressions.thing(node);
    return thing.is === 'aggregate' ? thing.aggregate : undefined;
  }

  #row(
    node: CallExpression,
  ): { readonly aggregate: Aggregate; readonly key: readonly AnyNode[] } | undefined {
    const { callee } = node;
    if (callee.type !== 'MemberExpression' || callee.property.type !== 'Identifier') return undefined;
    const aggregate = callee.property.name === 'at' ? this.#aggregate(callee.object) : undefined;
    if (aggregate === undefined) return undefined;
    if (aggregate.shape.kind !== 'table')
      this.#report.fail(
        callee.property,
        `${describedShape(aggregate.shape.kind)} has ${FORMS[aggregate.shape.kind]}`,
      );
    return { aggregate, key: node.arguments };
  }

  #number(aggregate: Aggregate): number {
    const known = this.aggregates.indexOf(aggregate);
    return known >= 0 ? known : this.aggregates.push(aggregate) - 1;
  }

  #add(aggregate: Aggregate, keys: readonly AnyNode[], node: CallExpression): Writing {
    const { shape } = aggregate;
    const key: Expr[] = [];
    if (shape.kind === 'table') {
      if (keys.length !== shape.key.length)
        this.#report.fail(
          node,
          `the table's key has ${shape.key.length} ${shape.key.length === 1 ? 'part' : 'parts'}, and ${keys.length} ${keys.length === 1 ? 'is' : 'are'} given`,
        );
      // As JavaScript does: the key first.
      for (const [i, part] of keys.entries())
        key.push(this.#field(this.#expressions.present(part), shape.key[i]!, 'this part of the key'));
    }
    const cell = shape.kind === 'table' ? shape.cell.kind : shape.kind;
    return {
      at: spanOf(node),
      do: 'add',
      aggregate: this.#number(aggregate),
      key,
      value: this.#added(cell, node),
    };
  }

  #added(cell: string, node: CallExpression): Expr {
    const [argument, another] = node.arguments;
    if (another !== undefined) this.#report.fail(another, 'one value is added at a time');
    if (argument === undefined) {
      if (cell === 'counter') return whole(node, 'bigint', 1n, false).expr;
      return this.#report.fail(node, `${describedShape(cell)} needs a value: add(value)`);
    }
    const value = this.#expressions.present(argument);
    if (!isInteger(value))
      return this.#report.fail(argument, `whole numbers are added, and this is ${described(value)}`);
    return as(value.expr, typeFor(value.range)!);
  }

  #emit(aggregate: Aggregate, node: CallExpression): Writing {
    const { shape } = aggregate;
    const [argument] = node.arguments;
    if (shape.kind !== 'events' || argument?.type !== 'ObjectExpression' || node.arguments.length > 1)
      return this.#report.fail(node, 'write emit({ field: value, … })');
    const names = shape.fields.map((f) => f.name);
    const given = this.#fieldsOf(argument, names);
    const missing = names.filter((name) => !given.has(name));
    if (missing.length > 0)
      this.#report.fail(
        argument,
        `the event has ${missing.join(', ')}, too: write ${missing.map((m) => `${m}: …`).join(', ')}`,
      );
    const fields = shape.fields.map(({ name, type }) =>
      this.#field(given.get(name)!, type, `the field ${name}`),
    );
    return { at: spanOf(node), do: 'emit', aggregate: this.#number(aggregate), fields };
  }

  #fieldsOf(node: ObjectExpression, names: readonly string[]): Map<string, Value> {
    const given = new Map<string, Value>();
    for (const property of node.properties) {
      if (property.type !== 'Property' || property.computed || property.method || property.kind !== 'init')
        return this.#report.fail(property, 'write field: value');
      const { key } = property;
      const name = key.type === 'Identifier' ? key.name : key.type === 'Literal' ? String(key.value) : '';
      if (given.has(name)) this.#report.fail(property, `the field ${name} is there already`);
      if (!names.includes(name)) {
        const near = nearest(name, names, 1)[0];
        this.#report.fail(
          key,
          `the event has no field ${name}: ${near === undefined ? `it has ${names.join(', ')}` : `did you mean ${near}?`}`,
        );
      }
      given.set(name, this.#expressions.value(property.value));
    }
    return given;
  }

  /** A value in the type of a field or of a part of a key. */
  #field(value: Value, type: FieldType, what: string): Expr {
    const scalar: Type = typeof type === 'object' ? 'string' : type;
    if (!kindsFor(scalar).includes(value.kind)) {
      const wanted = scalar === 'string' ? 'a string' : scalar === 'bool' ? 'true or false' : 'a number';
      this.#report.fail(value.node, `${what} holds ${wanted}, and this is ${described(value)}`);
    }
    if (!isInteger(value) || typeof type === 'object' || type === 'bool') return value.expr;
    const all = ofType(type);
    if (!within(value.range, all)) this.#expressions.numbers.unfit(value, all, what, type);
    return as(value.expr, type);
  }

  // Places

  /** What an assignment to a member means. */
  place(node: MemberExpression): Place {
    const { object, property } = node;
    const of = object.type === 'Super' ? undefined : this.#expressions.thing(object);
    const name = property.type === 'Identifier' && !node.computed ? property.name : '';
    if (of?.is === 'regs') {
      if (isRegister(name)) return { register: name };
      this.#expressions.register(name, property);
    }
    if (of?.is === 'hit' && name === 'returnValue') {
      this.#expressions.ofHit(name, node);
      return { register: 'ax' }; // System V psABI 3.2.3
    }
    if (of?.is === 'hit' && name === 'call') return 'call';
    return this.#report.fail(
      node,
      'only variables, hit.regs.NAME, hit.returnValue and hit.call can be assigned',
    );
  }

  write(place: Place, value: Value, at: AnyNode): Statement {
    this.#expressions.numbers.present(value);
    if (place === 'call') {
      if (value.kind !== 'bigint')
        this.#report.fail(
          value.node,
          `hit.call keeps a bigint, and this is ${described(value)}${value.kind === 'number' ? `: write BigInt(${this.#report.source(value.node)})` : ''}`,
        );
      if (!within(value.range, U64)) this.#expressions.numbers.unfit(value, U64, 'hit.call', 'u64');
      return { at: spanOf(at), do: 'setCall', value: as(value.expr, 'u64') };
    }
    if (!isInteger(value))
      this.#report.fail(value.node, `a register holds a number, and this is ${described(value)}`);
    return { at: spanOf(at), do: 'setRegister', name: place.register, value: as(value.expr, 'u64') };
  }
}

const describedShape = (kind: string): string =>
  kind === 'events'
    ? 'an event stream'
    : kind === 'stats'
      ? 'stats'
      : kind === 'linear'
        ? 'a linear histogram'
        : `a ${kind}`;
