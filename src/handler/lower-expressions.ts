/** Expressions of a handler's text, checked and lowered. */
import type {
  AnyNode,
  BinaryExpression,
  CallExpression,
  ConditionalExpression,
  Identifier,
  Literal,
  LogicalExpression,
  MemberExpression,
  UnaryExpression,
} from 'acorn';
import { nearest } from '../base/nearest.js';
import { cutUtf8 } from '../base/utf8.js';
import { shortened } from './expression-error.js';
import type { Fact, Facts } from './facts.js';
import { either, having, mirrored, narrowed, negated } from './facts.js';
import type { ArithmeticOperator, ComparisonOperator, Expr, IntType, ProgramMoment, Type } from './ir.js';
import { INT_TYPES, MOST_BYTES, isInt } from './ir.js';
import type { Property } from './lower-hit.js';
import { HIT_NAMES, METHODS, PLAIN_ONLY, PROPERTIES, UPROBE_ID, isRegister, keyOf } from './lower-hit.js';
import { HandlerNumbers, MODULAR, asBigint, shown } from './lower-numbers.js';
import type { Kind, Local, Report, Thing, Value } from './lower-values.js';
import { NO_RANGE, as, constantOf, described, isInteger, text, truth, whole } from './lower-values.js';
import type { Names } from './names.js';
import { outsideName } from './outside.js';
import type { Range } from './ranges.js';
import { SAFE, U64, joined, ofType, range, typeFor, within } from './ranges.js';

/** A condition, and what is known where it holds and where it does not. */
export interface Condition {
  readonly expr: Expr;
  readonly yes: Facts | undefined;
  readonly no: Facts | undefined;
}

const COMPARISONS: Readonly<Record<string, ComparisonOperator>> = {
  '===': '==',
  '!==': '!=',
  '<': '<',
  '<=': '<=',
  '>': '>',
  '>=': '>=',
};
const ARITHMETIC: readonly string[] = ['+', '-', '*', '/', '%', '<<', '>>', '&', '|', '^'];
const NEVER: Facts | undefined = undefined;

/** Words for syntax that is JavaScript but not part of the language. */
const FOREIGN: Readonly<Record<string, string>> = {
  ArrowFunctionExpression: 'functions cannot be written in a compiled handler',
  FunctionExpression: 'functions cannot be written in a compiled handler',
  ArrayExpression: 'arrays are not part of compiled handlers',
  ObjectExpression: 'objects are written for emit({ … }) only',
  NewExpression: 'compiled handlers make no objects',
  ThisExpression: 'there is no this in a compiled handler: use hit',
  AwaitExpression: 'a handler is synchronous',
  YieldExpression: 'a handler is no generator',
  AssignmentExpression: 'an assignment is a statement of its own here',
  UpdateExpression: '++ and -- are statements of their own here',
  TaggedTemplateExpression: 'write a string in quotes',
  ChainExpression: 'write a plain dot: nothing here is null',
  SpreadElement: '... is not part of compiled handlers',
  ClassExpression: 'classes are not part of compiled handlers',
};

export class HandlerExpressions {
  /** What is known where the text is being read. Never read where nothing is reached. */
  facts: Facts = new Map();
  /** The text is read for good: nothing more will become known. */
  final = false;
  readonly numbers: HandlerNumbers;
  readonly #report: Report;
  readonly #names: Names;
  readonly #moment: ProgramMoment;
  readonly #scope: Readonly<Record<string, unknown>>;

  constructor(report: Report, names: Names, moment: ProgramMoment, scope: Readonly<Record<string, unknown>>) {
    this.#report = report;
    this.#names = names;
    this.#moment = moment;
    this.#scope = scope;
    this.numbers = new HandlerNumbers(report);
  }

  /** A value, which may be undefined only where the caller looks for that. `wraps`: its lowest 64 bits are asked for. */
  value(node: AnyNode, wraps = false): Value {
    const thing = this.thing(node, wraps);
    if (thing.is === 'value') return thing;
    return this.#report.fail(node, this.#noValue(node, thing));
  }

  /** A value that is there. */
  present(node: AnyNode, wraps = false): Value {
    const value = this.value(node, wraps);
    this.numbers.present(value);
    return value;
  }

  thing(node: AnyNode, wraps = false): Thing {
    switch (node.type) {
      case 'Literal':
        return this.#literal(node);
      case 'TemplateLiteral': {
        const [only] = node.quasis;
        if (node.expressions.length > 0)
          return this.#report.fail(node, 'strings cannot be put together here: emit or key by their parts');
        return this.#text(node, only?.value.cooked ?? '');
      }
      case 'Identifier':
        return this.#identifier(node);
      case 'MemberExpression':
        return this.#member(node);
      case 'CallExpression':
        return this.#call(node);
      case 'UnaryExpression':
        // How tools write undefined.
        if (node.operator === 'void' && node.argument.type === 'Literal') return { is: 'undefined' };
        return this.#unary(node, wraps);
      case 'BinaryExpression':
        return this.#binary(node, wraps);
      case 'LogicalExpression':
        if (node.operator === '??') return this.#otherwise(node);
        return truth(node, this.condition(node).expr);
      case 'ConditionalExpression':
        return this.#conditional(node);
      case 'SequenceExpression':
        return this.#sequence(node.expressions, node);
      default:
        return this.#report.fail(node, FOREIGN[node.type] ?? 'this is not part of compiled handlers');
    }
  }

  // Conditions

  condition(node: AnyNode): Condition {
    const { facts } = this;
    try {
      return this.#condition(node);
    } finally {
      this.facts = facts;
    }
  }

  #condition(node: AnyNode): Condition {
    if (node.type === 'UnaryExpression' && node.operator === '!') {
      // How tools write true and false.
      if (node.argument.type === 'Literal' && (node.argument.value === 0 || node.argument.value === 1))
        return this.#known(node.argument.value === 0);
      const { expr, yes, no } = this.condition(node.argument);
      if (expr.op === 'truth') return { expr: { ...expr, value: !expr.value }, yes: no, no: yes };
      return { expr: { op: 'not', type: 'bool', of: expr }, yes: no, no: yes };
    }
    if (node.type === 'LogicalExpression' && node.operator !== '??')
      return this.#joinedConditions(node, node.operator === '&&');
    if (node.type === 'BinaryExpression' && Object.hasOwn(COMPARISONS, node.operator))
      return this.#comparison(node, COMPARISONS[node.operator]!);
    const value = this.value(node);
    if (value.optional || value.kind !== 'boolean') this.#notTruth(value);
    const { expr } = value;
    const known = expr.op === 'truth' ? expr.value : undefined;
    return {
      expr,
      yes: known === false ? NEVER : this.facts,
      no: known === true ? NEVER : this.facts,
    };
  }

  #known(value: boolean): Condition {
    const { facts } = this;
    return {
      expr: { op: 'truth', type: 'bool', value },
      yes: value ? facts : NEVER,
      no: value ? NEVER : facts,
    };
  }

  #notTruth(value: Value): never {
    const source = this.#report.source(value.node);
    const compared = { bigint: '!== 0n', number: '!== 0', string: '!== ""', boolean: '=== true' }[value.kind];
    return this.#report.fail(
      value.node,
      `a condition is needed, and this is ${described(value)}: write ${source} ${value.optional ? '!== undefined' : compared}`,
    );
  }

  #joinedConditions(node: LogicalExpression, isAnd: boolean): Condition {
    const left = this.condition(node.left);
    const goesOn = isAnd ? left.yes : left.no;
    if (goesOn === undefined) return left;
    this.facts = goesOn;
    const right = this.condition(node.right);
    if (left.expr.op === 'truth') return right;
    const expr: Expr = { op: isAnd ? 'both' : 'either', type: 'bool', left: left.expr, right: right.expr };
    return isAnd
      ? { expr, yes: right.yes, no: either(left.no, right.no) }
      : { expr, yes: either(left.yes, right.yes), no: right.no };
  }

  #comparison(node: BinaryExpression, operator: ComparisonOperator): Condition {
    const left = this.thing(node.left);
    const right = this.thing(node.right);
    const isEquality = operator === '==' || operator === '!=';
    if (left.is === 'undefined' || right.is === 'undefined') {
      const of = left.is === 'undefined' ? right : left;
      const place = left.is === 'undefined' ? node.right : node.left;
      if (of.is !== 'value' || !isEquality)
        return this.#report.fail(node, 'undefined is compared by === with values that may be undefined');
      return this.#presence({ ...of, node: place }, operator === '!=', node);
    }
    const [a, b] = [this.#asValue(left, node.left), this.#asValue(right, node.right)];
    return isEquality ? this.#equality(operator, a, b, node) : this.#order(operator, a, b, node);
  }

  #asValue(thing: Thing, node: AnyNode): Value {
    return thing.is === 'value' ? thing : this.#report.fail(node, this.#noValue(node, thing));
  }

  /** `x !== undefined`, or the opposite. */
  #presence(value: Value, wanted: boolean, node: AnyNode): Condition {
    if (!value.optional) {
      // TypeScript believes that arrays may end anywhere (noUncheckedIndexedAccess): who has to ask may.
      if (this.final && value.expr.op !== 'entryArg')
        this.#report.fail(node, `${this.#report.source(value.node)} is never undefined here`);
      return this.#known(wanted);
    }
    const is: Expr = { op: 'present', type: 'bool', of: value.expr };
    const there = this.#learned(value, { ...value, optional: false });
    return wanted
      ? { expr: is, yes: there, no: this.facts }
      : { expr: { op: 'not', type: 'bool', of: is }, yes: this.facts, no: there };
  }

  #equality(operator: '==' | '!=', a: Value, b: Value, node: AnyNode): Condition {
    if (a.kind !== b.kind) this.#unlike(a, b, operator, node);
    if (a.optional && b.optional)
      this.#report.fail(node, 'both sides may be undefined: look at one of them first (=== undefined)');
    // Where the left side is absent nobody looks at the right one, which may throw: the one that is there comes first.
    const [first, second] = a.optional ? [b, a] : [a, b];
    const compared: Expr = isInteger(a)
      ? this.numbers.compare(operator, first, second, node, this.final)
      : { op: 'compare', type: 'bool', operator, left: first.expr, right: second.expr };
    const optional = a.optional || b.optional;
    // undefined equals no value.
    const instead: Expr = { op: 'truth', type: 'bool', value: operator === '!=' };
    const expr: Expr = optional ? { op: 'otherwise', type: 'bool', of: compared, instead } : compared;
    const equal = this.#compared('==', a, b);
    const unequal = optional ? this.facts : this.#compared('!=', a, b);
    const [yes, no] = operator === '==' ? [equal, unequal] : [unequal, equal];
    if (expr.op === 'truth') return this.#known(expr.value);
    return { expr, yes, no };
  }

  #order(operator: ComparisonOperator, a: Value, b: Value, node: AnyNode): Condition {
    for (const side of [a, b]) {
      this.numbers.present(side);
      if (side.kind === 'string') this.#report.fail(node, 'strings are compared with === and !== only');
      if (side.kind === 'boolean') this.#report.fail(side.node, 'true and false have no order');
    }
    const expr = this.numbers.compare(operator, a, b, node, this.final);
    if (expr.op === 'truth') return this.#known(expr.value);
    return { expr, yes: this.#compared(operator, a, b), no: this.#compared(negated(operator), a, b) };
  }

  #unlike(a: Value, b: Value, operator: '==' | '!=', node: AnyNode): never {
    const always = operator === '!=';
    const [x, y] = [this.#report.source(a.node), this.#report.source(b.node)];
    let instead = '';
    if (isInteger(a) && isInteger(b)) {
      const number = a.kind === 'number' ? a : b;
      instead = `: write ${asBigint(number, number === a ? x : y)}`;
    }
    return this.#report.fail(
      node,
      `${x} is ${described(a)} and ${y} ${described(b)}, so this is always ${always}${instead}`,
    );
  }

  /** The facts where a comparison holds. */
  #compared(operator: ComparisonOperator, a: Value, b: Value): Facts | undefined {
    if (!isInteger(a)) {
      const first = this.#learned(a, { ...a, optional: false });
      return operator === '==' && b.key !== undefined
        ? having(first, b.key, { ...b, optional: false })
        : first;
    }
    const left = narrowed(operator, a, b.range);
    const right = narrowed(mirrored(operator), b, a.range);
    if (left === undefined || right === undefined) return NEVER;
    let { facts } = this;
    if (a.key !== undefined) facts = having(facts, a.key, { ...left, optional: false });
    if (b.key !== undefined) facts = having(facts, b.key, { ...right, optional: false });
    return facts;
  }

  #learned(value: Value, { range: all, nonzero, optional }: Value): Facts {
    return value.key === undefined
      ? this.facts
      : having(this.facts, value.key, { range: all, nonzero, optional });
  }

  // Literals and names

  #literal(node: Literal): Value {
    const raw = (node.raw ?? '').replaceAll('_', '');
    if (typeof node.value === 'string') return this.#text(node, node.value);
    if (typeof node.value === 'boolean')
      return { ...truth(node, { op: 'truth', type: 'bool', value: node.value }), literal: true };
    if (node.bigint != null) {
      const value = BigInt(raw.slice(0, -1));
      if (value > U64.hi) this.#report.fail(node, `${shortened(raw)} needs more than 64 bits`);
      return whole(node, 'bigint', value, true);
    }
    if (typeof node.value !== 'number')
      return this.#report.fail(
        node,
        node.regex != null ? 'regular expressions are not part of compiled handlers' : 'write undefined',
      );
    if (!Number.isInteger(node.value)) {
      return this.#report.fail(node, 'numbers with a fraction are not part of compiled handlers');
    }
    if (!Number.isSafeInteger(node.value)) {
      return this.#report.fail(node, `JavaScript rounds this number: write ${shortened(raw)}n`);
    }
    return whole(node, 'number', BigInt(node.value), true);
  }

  #text(node: AnyNode, value: string): Value {
    this.#checkText(node, value);
    return text(node, value);
  }

  /** Programs' strings are bytes before a NUL, and one sequence of bytes is one string. */
  #checkText(node: AnyNode, value: string): void {
    if (value.includes('\0')) this.#report.fail(node, 'strings end at their NUL: no other has one');
    if (cutUtf8(value, Infinity) !== value)
      this.#report.fail(
        node,
        'no sequence of bytes is read as this string: half a character, or bytes that make one',
      );
  }

  #identifier(node: Identifier): Thing {
    const { name } = node;
    const binding = this.#names.find(name);
    if (binding?.is === 'later')
      return this.#report.fail(node, `${name} is declared further down, where it gets its value`);
    if (binding?.is === 'local') return this.local(binding.local, node);
    if (binding !== undefined) return binding.is === 'value' ? { ...binding, node } : binding;
    if (name === 'undefined') return { is: 'undefined' };
    if ((INT_TYPES as readonly string[]).includes(name)) return { is: 'conversion', type: name as IntType };
    if (name === 'BigInt' || name === 'Number') return { is: 'function', name };
    if (name === 'Math') return { is: 'Math' };
    if (name === 'arguments') return this.#report.fail(node, 'write parameters: (hit, scope) => …');
    return this.#outside(node);
  }

  #outside(node: Identifier, member?: string): never {
    return this.#report.fail(node, outsideName(node.name, this.#names.all(), member));
  }

  /** The variable's value, as it is known here. */
  local(local: Local, node: AnyNode): Value {
    const key = `local${local.index}`;
    const fact = this.facts.get(key);
    const type = this.typeOf(local);
    return {
      is: 'value',
      node,
      kind: local.kind,
      expr: { op: 'local', type, local: local.index },
      range: fact?.range ?? local.range,
      nonzero: fact?.nonzero ?? false,
      optional: fact?.optional ?? false,
      key,
      literal: false,
    };
  }

  typeOf(local: Local): Type {
    if (local.kind === 'string') return 'string';
    return local.kind === 'boolean' ? 'bool' : (typeFor(local.range) ?? 'u64');
  }

  // Members

  #member(node: MemberExpression): Thing {
    const { object, property } = node;
    if (object.type === 'Super') return this.#report.fail(node, FOREIGN['ThisExpression']!);
    if (node.optional) return this.#report.fail(node, FOREIGN['ChainExpression']!);
    if (object.type === 'Identifier' && this.#isOutside(object.name))
      return this.#outside(object, this.#nameOf(node));
    const of = this.thing(object);
    if (of.is === 'entryArgs') return this.#entryArg(node);
    const name = this.#nameOf(node);
    if (name === undefined) return this.#report.fail(property, 'write a name after a dot');
    switch (of.is) {
      case 'hit':
        return this.ofHit(name, node);
      case 'regs':
        return this.register(name, property);
      case 'scope':
        return this.ofScope(name, node);
      case 'uprobe':
        if (name === 'id') return this.#property(UPROBE_ID, node);
        return this.#report.fail(property, 'of the uprobe only its id is known here: hit.uprobe.id');
      case 'Math':
        if (name === 'trunc') return { is: 'function', name: 'Math.trunc' };
        return this.#report.fail(
          node,
          `of Math there is only trunc${name === 'min' || name === 'max' ? ': write a < b ? a : b' : ''}`,
        );
      case 'aggregate':
        return this.#report.fail(node, AGGREGATES_ARE_WRITTEN);
      case 'value':
        if (of.kind === 'string') {
          return this.#report.fail(
            property,
            'strings can be compared, be keys and be emitted, and nothing else',
          );
        }
        return this.#report.fail(property, `${described(of)} has no members here`);
      default:
        return this.#report.fail(node, 'this is not part of compiled handlers');
    }
  }

  #isOutside(name: string): boolean {
    return (
      this.#names.find(name) === undefined &&
      !['undefined', 'Math', ...INT_TYPES, 'BigInt', 'Number'].includes(name)
    );
  }

  #nameOf({ property, computed }: MemberExpression): string | undefined {
    if (!computed && property.type === 'Identifier') return property.name;
    return computed && property.type === 'Literal' && typeof property.value === 'string'
      ? property.value
      : undefined;
  }

  /** `hit.NAME`. */
  ofHit(name: string, node: AnyNode): Thing {
    if (name === 'regs' || name === 'uprobe') return { is: name };
    if (name === 'entryArgs') {
      if (this.#moment === 'return') return { is: 'entryArgs' };
      return this.#report.failHere(
        node,
        'entryArgs is known only where a function returns, in a return handler; here write hit.arg(0)',
      );
    }
    const method = METHODS.find((m) => m === name);
    if (method !== undefined) return { is: 'method', name: method };
    const property = Object.hasOwn(PROPERTIES, name) ? PROPERTIES[name] : undefined;
    if (property !== undefined) {
      if (property.moment === undefined || property.moment === this.#moment)
        return this.#property(property, node);
      return this.#report.failHere(
        node,
        name === 'call'
          ? 'a pre handler writes hit.call, and the return handler reads it: keep it in a variable'
          : `${name} is known only where a function returns, in a return handler`,
      );
    }
    const plain = Object.hasOwn(PLAIN_ONLY, name) ? PLAIN_ONLY[name] : undefined;
    if (plain !== undefined) return this.#report.fail(node, plain);
    const near = nearest(name, HIT_NAMES, 1)[0];
    return this.#report.fail(
      node,
      `a hit has no ${name}: ${near === undefined ? `there are ${HIT_NAMES.join(', ')}` : `did you mean hit.${near}?`}`,
    );
  }

  #property({ kind, expr, range: all, optional = false }: Property, node: AnyNode): Value {
    const key = keyOf(expr);
    const fact: Fact | undefined = key === undefined ? undefined : this.facts.get(key);
    return {
      is: 'value',
      node,
      kind,
      expr,
      range: fact?.range ?? all,
      nonzero: fact?.nonzero ?? false,
      optional: fact?.optional ?? optional,
      key,
      literal: false,
    };
  }

  register(name: string, node: AnyNode): Value {
    if (isRegister(name))
      return this.#property({ kind: 'bigint', expr: { op: 'reg', type: 'u64', name }, range: U64 }, node);
    return this.#report.fail(
      node,
      `there is no register ${name}; they have the kernel's names: regs.di, regs.ax, …`,
    );
  }

  ofScope(name: string, node: AnyNode): Thing {
    if (!Object.hasOwn(this.#scope, name)) {
      const near = nearest(name, Object.keys(this.#scope), 1)[0];
      return this.#report.fail(
        node,
        `the scope has no ${name}: ${near === undefined ? `write compiled({ scope: { ${name} } }, …)` : `did you mean ${near}?`}`,
      );
    }
    const given = this.#scope[name];
    const constant = constantOf(node, given);
    if (constant !== undefined) {
      if (typeof given === 'string') this.#checkText(node, given);
      return constant;
    }
    const what =
      typeof given === 'bigint'
        ? `${shortened(String(given))}n, which needs more than 64 bits`
        : typeof given === 'number'
          ? `${given}, which is no whole number that a number holds exactly`
          : given === null || given === undefined
            ? String(given)
            : Array.isArray(given)
              ? 'an array'
              : typeof given === 'function'
                ? 'a function'
                : `${typeof given === 'object' ? 'an' : 'a'} ${typeof given}`;
    return this.#report.fail(
      node,
      `${name} of the scope is ${what}: a scope holds whole numbers, bigints, strings, booleans and aggregates`,
    );
  }

  #entryArg(node: MemberExpression): Value {
    const index = this.#index(node.property, node.computed ? 5 : -1, 'write entryArgs[0] to entryArgs[5]');
    return this.#property({ kind: 'bigint', expr: { op: 'entryArg', type: 'u64', index }, range: U64 }, node);
  }

  /** A number that is known when the handler is compiled. */
  #index(node: AnyNode, most: number, instead: string): number {
    const value = node.type === 'PrivateIdentifier' ? undefined : this.thing(node);
    if (value?.is === 'value' && value.kind === 'number' && value.expr.op === 'int') {
      const index = Number(value.range.lo);
      if (index >= 0 && index <= most) return index;
    }
    return this.#report.fail(node, instead);
  }

  // Calls

  #call(node: CallExpression): Value {
    const { callee } = node;
    for (const given of node.arguments)
      if (given.type === 'SpreadElement') this.#report.fail(given, FOREIGN['SpreadElement']!);
    if (node.optional) this.#report.fail(node, FOREIGN['ChainExpression']!);
    if (callee.type === 'Super') return this.#report.fail(node, FOREIGN['ThisExpression']!);
    if (callee.type === 'MemberExpression') this.#refuseMethods(callee, node);
    const of = this.thing(callee);
    switch (of.is) {
      case 'method':
        if (callee.type !== 'MemberExpression')
          this.#report.fail(callee, `a method needs its hit: write hit.${of.name}(…)`);
        return this.#method(of.name, node);
      case 'conversion': {
        const [argument] = this.#given(node, 1, 1, `${of.type}(value)`);
        return this.numbers.convert(of.type, this.present(argument, true), node);
      }
      case 'function':
        return this.#builtin(of.name, node);
      default:
        return this.#report.fail(callee, 'this cannot be called in a compiled handler');
    }
  }

  /** Calls that write are statements, and others than these have no place at all. */
  #refuseMethods(callee: MemberExpression, node: CallExpression): void {
    const name = this.#nameOf(callee);
    if (callee.object.type === 'Super') return;
    if (name !== 'add' && name !== 'emit' && name !== 'at') return;
    if (
      name === 'at' ||
      callee.object.type === 'CallExpression' ||
      this.thing(callee.object).is === 'aggregate'
    ) {
      this.#report.fail(
        node,
        name === 'at'
          ? 'of a table a handler writes table.at(key).add(value), as one statement'
          : `${name}() is a statement of its own: it has no value`,
      );
    }
  }

  #given(node: CallExpression, least: number, most: number, form: string): [AnyNode, AnyNode | undefined] {
    const [first, second] = node.arguments;
    if (first === undefined || node.arguments.length < least || node.arguments.length > most)
      return this.#report.fail(node, `write ${form}`);
    return [first, second];
  }

  #method(name: 'arg' | 'read' | 'readString', node: CallExpression): Value {
    if (name === 'arg') return this.#argument(node);
    return name === 'read' ? this.#read(node) : this.#readString(node);
  }

  #argument(node: CallExpression): Value {
    if (this.#moment === 'return')
      this.#report.failHere(node, 'where a function returns its arguments are gone: write hit.entryArgs[0]');
    const [argument] = this.#given(node, 1, 1, 'hit.arg(0) to hit.arg(9)');
    const index = this.#index(argument, 9, 'write a number from 0 to 9, as in hit.arg(0)');
    return this.#property({ kind: 'bigint', expr: { op: 'arg', type: 'u64', index }, range: U64 }, node);
  }

  #address(node: AnyNode): Expr {
    const value = this.present(node, true);
    if (value.kind !== 'bigint')
      this.#report.fail(node, `an address is a bigint, and this is ${described(value)}`);
    return as(value.expr, 'u64');
  }

  #read(node: CallExpression): Value {
    const types = INT_TYPES.map((t) => `"${t}"`).join(' ');
    const [address, type] = this.#given(node, 2, 2, `hit.read(address, "u32"); the types are ${types}`);
    const given = this.thing(type ?? node);
    const word = given.is === 'value' && given.expr.op === 'text' ? given.expr.value : undefined;
    const known = INT_TYPES.find((t) => t === word);
    if (known === undefined) return this.#report.fail(type ?? node, `name a type: ${types}`);
    return {
      is: 'value',
      node,
      kind: 'bigint',
      expr: { op: 'read', type: known, address: this.#address(address) },
      range: ofType(known),
      nonzero: false,
      optional: true,
      literal: false,
    };
  }

  #readString(node: CallExpression): Value {
    const [address, most] = this.#given(
      node,
      1,
      2,
      'hit.readString(address) or hit.readString(address, bytes)',
    );
    let max: Expr = { op: 'int', type: 'u64', value: 256n };
    if (most !== undefined) {
      const value = this.present(most);
      const source = this.#report.source(most);
      if (value.kind !== 'number')
        this.#report.fail(
          most,
          `a number of bytes is needed, and this is ${described(value)}: write Number(${source})`,
        );
      if (!within(value.range, range(0n, BigInt(MOST_BYTES))))
        this.#report.fail(
          most,
          `0 to ${MOST_BYTES} bytes can be read, and ${source} may be ${shown(value.range)}: write ${source} < ${MOST_BYTES} ? ${source} : ${MOST_BYTES}`,
        );
      max = as(value.expr, 'u64');
    }
    return {
      ...text(node, ''),
      expr: { op: 'str', type: 'string', address: this.#address(address), max },
      optional: true,
      literal: false,
    };
  }

  #builtin(name: 'BigInt' | 'Number' | 'Math.trunc', node: CallExpression): Value {
    const [argument] = this.#given(node, 1, 1, `${name}(value)`);
    if (name === 'Math.trunc') return this.#truncated(argument, node);
    const value = this.present(argument);
    const kind = name === 'BigInt' ? 'bigint' : 'number';
    if (value.kind === 'boolean') {
      const made = this.numbers.convert('u8', value, node);
      return { ...made, kind };
    }
    if (value.kind === 'string')
      return this.#report.fail(argument, `${name}() converts numbers, and this is ${described(value)}`);
    if (kind === 'number' && !within(value.range, SAFE)) {
      const source = this.#report.source(argument);
      this.#report.fail(
        argument,
        `${source} may be ${shown(value.range)}, which a number does not hold exactly: write Number(u32(${source})), or compute with bigints`,
      );
    }
    return { ...value, node, kind, key: undefined };
  }

  /** Whole numbers have nothing to cut off but what a division leaves. */
  #truncated(argument: AnyNode, node: CallExpression): Value {
    if (argument.type !== 'BinaryExpression' || argument.operator !== '/')
      return this.#report.fail(node, 'write Math.trunc(a / b): other numbers are whole already');
    return this.numbers.truncatedQuotient(this.value(argument.left), this.value(argument.right), node);
  }

  // Operators

  #unary(node: UnaryExpression, wraps: boolean): Value {
    switch (node.operator) {
      case '!':
        return truth(node, this.condition(node).expr);
      case '-':
        return this.numbers.negate(this.value(node.argument, wraps), node, wraps);
      case '~':
        return this.numbers.complement(this.value(node.argument, wraps), node, wraps);
      default:
        return this.#report.fail(node, `${node.operator} is not part of compiled handlers`);
    }
  }

  #binary(node: BinaryExpression, wraps: boolean): Value {
    const { operator } = node;
    if (Object.hasOwn(COMPARISONS, operator)) return truth(node, this.condition(node).expr);
    if (operator === '==' || operator === '!=')
      return this.#report.fail(node, `${operator} converts in JavaScript: write ${operator}=`);
    if (!ARITHMETIC.includes(operator)) {
      const instead = operator === '>>>' ? ': write u64(…) >> n' : '';
      return this.#report.fail(node, `${operator} is not part of compiled handlers${instead}`);
    }
    return this.binary(operator as ArithmeticOperator, node.left, node.right, node, wraps);
  }

  binary(operator: ArithmeticOperator, left: AnyNode, right: AnyNode, node: AnyNode, wraps: boolean): Value {
    const inside = wraps && MODULAR.includes(operator);
    const b = this.value(right, inside && operator !== '<<');
    // A mask cuts off, too.
    const a = this.value(left, inside || (operator === '&' && within(b.range, U64)));
    return this.numbers.arithmetic(operator, a, b, node, wraps);
  }

  #otherwise(node: LogicalExpression): Value {
    const value = this.value(node.left);
    if (!value.optional) return { ...value, node };
    const instead = this.value(node.right);
    return this.otherwise(value, instead, node);
  }

  otherwise(value: Value, instead: Value, node: AnyNode): Value {
    const [of, other, type] = this.#alternatives(value, instead, node);
    return this.#oneOf(value, instead, instead.optional, node, {
      op: 'otherwise',
      type,
      of,
      instead: other,
    });
  }

  #conditional(node: ConditionalExpression): Value {
    const { facts } = this;
    const { expr: condition, yes, no } = this.condition(node.test);
    const branch = (known: Facts | undefined, of: AnyNode): Value | undefined => {
      if (known === undefined) return undefined;
      this.facts = known;
      const value = this.value(of);
      this.facts = facts;
      return value;
    };
    const a = branch(yes, node.consequent);
    const b = branch(no, node.alternate);
    if (a === undefined || b === undefined) {
      const only = (a ?? b)!;
      if (condition.op === 'truth') return { ...only, node };
      const { expr } = only;
      return {
        ...only,
        node,
        key: undefined,
        expr: { op: 'choose', type: expr.type, condition, yes: expr, no: expr },
      };
    }
    const [left, right, type] = this.#alternatives(a, b, node);
    return this.#oneOf(a, b, a.optional || b.optional, node, {
      op: 'choose',
      type,
      condition,
      yes: left,
      no: right,
    });
  }

  #oneOf(a: Value, b: Value, optional: boolean, node: AnyNode, expr: Expr): Value {
    return {
      is: 'value',
      node,
      kind: a.kind,
      expr,
      range: isInteger(a) ? joined(a.range, b.range) : NO_RANGE,
      nonzero: a.nonzero && b.nonzero,
      optional,
      literal: false,
    };
  }

  /** Both as one type. */
  #alternatives(a: Value, b: Value, node: AnyNode): [Expr, Expr, Type] {
    const [x, y] = [this.#report.source(a.node), this.#report.source(b.node)];
    if (a.kind !== b.kind)
      return this.#report.fail(
        node,
        `both alternatives must be of one kind: ${x} is ${described(a)} and ${y} ${described(b)}`,
      );
    if (!isInteger(a)) return [a.expr, b.expr, a.expr.type];
    const all: Range = joined(a.range, b.range);
    const type = typeFor(all);
    if (type === undefined)
      return this.#report.fail(
        node,
        `the alternatives are ${shown(a.range)} and ${shown(b.range)}, which no 64 bits hold: write u64(…) or i64(…) around one of them`,
      );
    return [as(a.expr, type), as(b.expr, type), type];
  }

  /** `(0, uprobe_1.u64)(x)`: how tools write calls of what was imported. */
  #sequence(expressions: readonly AnyNode[], node: AnyNode): never {
    const last = expressions.at(-1);
    if (
      last?.type === 'MemberExpression' &&
      last.object.type === 'Identifier' &&
      this.#isOutside(last.object.name)
    )
      return this.#outside(last.object, this.#nameOf(last));
    return this.#report.fail(node, 'one value is needed here, not several');
  }

  #noValue(node: AnyNode, thing: Thing): string {
    const source = this.#report.source(node);
    switch (thing.is) {
      case 'undefined':
        return 'undefined is only compared with: === undefined, !== undefined';
      case 'conversion':
      case 'function':
        return `${source} is a function: write ${source}(…)`;
      case 'method':
        return `write hit.${thing.name}(…)`;
      case 'regs':
        return 'name a register: hit.regs.di';
      case 'entryArgs':
        return 'write entryArgs[0] to entryArgs[5]';
      case 'uprobe':
        return 'write hit.uprobe.id';
      case 'aggregate':
        return AGGREGATES_ARE_WRITTEN;
      default:
        return `${source} is no value`;
    }
  }
}

export const AGGREGATES_ARE_WRITTEN =
  'a handler writes aggregates (add, at(…).add, emit); read them outside of it';

/** Kinds whose values have a place in a field of the type. */
export const kindsFor = (type: Type): readonly Kind[] =>
  isInt(type) ? ['bigint', 'number'] : type === 'bool' ? ['boolean'] : ['string'];
