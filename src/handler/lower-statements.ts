/** Statements of a handler's text, checked and lowered, with what is known carried along. */
import type {
  AnyNode,
  AssignmentExpression,
  BlockStatement,
  CallExpression,
  ForStatement,
  Pattern,
  UpdateExpression,
  VariableDeclaration,
  VariableDeclarator,
} from 'acorn';
import type { Facts } from './facts.js';
import { either, having, sameFacts, widened, without } from './facts.js';
import type { ArithmeticOperator, Expr, ProgramMoment, Statement, Type } from './ir.js';
import { someExpr } from './ir.js';
import { HandlerExpressions } from './lower-expressions.js';
import { ofRegisters } from './lower-hit.js';
import { shown } from './lower-numbers.js';
import type { Local, Report, Value } from './lower-values.js';
import { as, described, isInteger, spanOf, whole } from './lower-values.js';
import type { Place } from './lower-writes.js';
import { HandlerWrites } from './lower-writes.js';
import { Names } from './names.js';
import { I64, SAFE, U64, joined, range, typeFor, within } from './ranges.js';

/** A loop goes round at most so often. */
export const MOST_ROUNDS = 1024n;
/** Rounds that are followed one by one, of all loops together; later ones are taken to be able to change anything. */
const FOLLOWED = 20_000;

const OPERATORS: readonly string[] = ['+=', '-=', '*=', '/=', '%=', '<<=', '>>=', '&=', '|=', '^='];

const FOREIGN: Readonly<Record<string, string>> = {
  WhileStatement: 'a loop must have a bound: write for (let i = 0; i < 16; i++)',
  DoWhileStatement: 'a loop must have a bound: write for (let i = 0; i < 16; i++)',
  ForOfStatement: 'write for (let i = 0; i < 16; i++)',
  ForInStatement: 'write for (let i = 0; i < 16; i++)',
  SwitchStatement: 'write if … else if …',
  ThrowStatement: 'a compiled handler cannot throw: return',
  TryStatement: 'nothing throws in a compiled handler: hit.read gives undefined where memory cannot be read',
  FunctionDeclaration: 'functions cannot be written in a compiled handler',
  ClassDeclaration: 'classes are not part of compiled handlers',
  LabeledStatement: 'labels are not part of compiled handlers',
  DebuggerStatement: 'a compiled handler runs where no debugger is',
};

/** Where the ways through a loop's body end. */
interface Loop {
  next: Facts | undefined;
  out: Facts | undefined;
}

/** What is assigned to. */
type Target = { readonly local: Local } | { readonly place: Place };

/** What is kept from one pass over the text to the next. */
export type Locals = Map<AnyNode, Local>;

export class HandlerStatements {
  readonly #report: Report;
  readonly #names = new Names();
  readonly #moment: ProgramMoment;
  readonly #expressions: HandlerExpressions;
  readonly #writes: HandlerWrites;
  readonly #locals: Locals;
  /** The last pass: types are settled, and what is found is what is meant. */
  readonly #last: boolean;
  /** Undefined: not reached. */
  #facts: Facts | undefined = new Map();
  #loops: Loop[] = [];
  #exploring = 0;
  #followed = 0;

  constructor(
    report: Report,
    moment: ProgramMoment,
    scope: Readonly<Record<string, unknown>>,
    locals: Locals,
    last: boolean,
  ) {
    this.#report = report;
    this.#moment = moment;
    this.#locals = locals;
    this.#last = last;
    this.#expressions = new HandlerExpressions(report, this.#names, moment, scope);
    this.#writes = new HandlerWrites(report, this.#expressions);
  }

  get aggregates(): HandlerWrites['aggregates'] {
    return this.#writes.aggregates;
  }

  get types(): Type[] {
    return [...this.#locals.values()].map((local) => this.#expressions.typeOf(local));
  }

  whole(params: readonly Pattern[], body: BlockStatement | AnyNode): Statement[] {
    return this.#names.block(() => {
      const [hit, scope, another] = params;
      if (another !== undefined) this.#report.fail(another, 'a handler has two parameters: (hit, scope)');
      const entry = [...this.#parameter(hit, 'hit'), ...this.#parameter(scope, 'scope')];
      if (body.type === 'BlockStatement') return [...entry, ...this.#block(body.body)];
      return [...entry, ...this.#result(body)];
    });
  }

  /** What an arrow without a block gives back: a verdict, or nothing. */
  #result(node: AnyNode): Statement[] {
    if (node.type === 'CallExpression') return this.#callStatement(node);
    if (node.type === 'AssignmentExpression')
      return this.#report.fail(node, 'this gives back a value: write it in braces, { … }');
    return this.#leave(node, node);
  }

  #parameter(node: Pattern | undefined, is: 'hit' | 'scope'): Statement[] {
    if (node === undefined) return [];
    if (node.type === 'Identifier') {
      this.#names.declare(node.name, { is });
      return [];
    }
    if (node.type !== 'ObjectPattern')
      return this.#report.fail(node, 'write (hit, scope), or { … } with names of them');
    return this.#unpack(node, is);
  }

  /** `{ regs, pid: process }` of the hit or the scope. */
  #unpack(node: Extract<Pattern, { type: 'ObjectPattern' }>, is: 'hit' | 'scope' | 'regs'): Statement[] {
    return node.properties.flatMap((property) => {
      if (property.type !== 'Property' || property.computed || property.key.type !== 'Identifier')
        return this.#report.fail(property, 'name what is wanted: { pid, regs }');
      if (property.value.type !== 'Identifier')
        return this.#report.fail(property.value, 'write a name here, without a default');
      const [from, name] = [property.key.name, property.value.name];
      this.#working();
      const thing =
        is === 'hit'
          ? this.#expressions.ofHit(from, property)
          : is === 'scope'
            ? this.#expressions.ofScope(from, property)
            : this.#expressions.register(from, property);
      if (thing.is === 'method')
        return this.#report.fail(property, `a method needs its hit: write hit.${from}(…)`);
      if (thing.is === 'value') return this.#keep(property.value, name, { ...thing, node: property }, false);
      this.#names.declare(name, thing);
      return [];
    });
  }

  // Statements

  #block(statements: readonly AnyNode[]): Statement[] {
    return this.#names.block(() => {
      for (const s of statements)
        if (s.type === 'VariableDeclaration') for (const { id } of s.declarations) this.#announce(id);
      return statements.flatMap((s) => (this.#facts === undefined ? [] : this.#statement(s)));
    });
  }

  /** JavaScript knows a name in all of its block, and its value only from its declaration on. */
  #announce(id: Pattern): void {
    if (id.type === 'Identifier') this.#names.declare(id.name, { is: 'later' });
    if (id.type === 'ObjectPattern')
      for (const p of id.properties) if (p.type === 'Property') this.#announce(p.value);
  }

  /** Hands what is known to the expressions. */
  #working(): HandlerExpressions {
    this.#expressions.facts = this.#facts ?? new Map();
    this.#expressions.final = this.#last && this.#exploring === 0;
    return this.#expressions;
  }

  #statement(node: AnyNode): Statement[] {
    switch (node.type) {
      case 'ExpressionStatement':
        return this.#expression(node.expression);
      case 'VariableDeclaration':
        return this.#declaration(node);
      case 'BlockStatement':
        return this.#block(node.body);
      case 'EmptyStatement':
        return [];
      case 'IfStatement':
        return this.#if(node.test, node.consequent, node.alternate ?? undefined, node);
      case 'ForStatement':
        return this.#names.block(() => this.#for(node));
      case 'ReturnStatement':
        return this.#leave(node.argument ?? undefined, node);
      case 'BreakStatement':
      case 'ContinueStatement':
        return this.#jump(node.type === 'BreakStatement' ? 'break' : 'continue', node.label, node);
      default:
        return this.#report.fail(node, FOREIGN[node.type] ?? 'this is not part of compiled handlers');
    }
  }

  #expression(node: AnyNode): Statement[] {
    switch (node.type) {
      case 'CallExpression':
        return this.#callStatement(node);
      case 'AssignmentExpression':
        return this.#assignment(node);
      case 'UpdateExpression':
        return this.#update(node);
      case 'Literal':
        // 'use strict'
        if (typeof node.value === 'string') return [];
        break;
      case 'LogicalExpression':
        return this.#report.fail(node, 'write if (…) … in place of a condition that stands alone');
      case 'ConditionalExpression':
        return this.#report.fail(node, 'write if (…) … else … in place of a choice that stands alone');
      default:
        this.#working().thing(node);
    }
    return this.#report.fail(node, 'this does nothing');
  }

  #callStatement(node: CallExpression): Statement[] {
    this.#working();
    const written = this.#writes.call(node);
    if (written !== undefined) return [written];
    this.#expressions.thing(node);
    return this.#report.fail(node, 'this does nothing: its value is not used');
  }

  #if(test: AnyNode, yes: AnyNode, no: AnyNode | undefined, at: AnyNode): Statement[] {
    return this.#branch(
      test,
      () => this.#block([yes]),
      () => (no === undefined ? [] : this.#block([no])),
      at,
    );
  }

  #branch(test: AnyNode, yes: () => Statement[], no: () => Statement[], at: AnyNode): Statement[] {
    const { expr: condition, yes: whenTrue, no: whenFalse } = this.#working().condition(test);
    const taken = (facts: Facts | undefined, side: () => Statement[]): [Statement[], Facts | undefined] => {
      this.#facts = facts;
      return [facts === undefined ? [] : side(), this.#facts];
    };
    const [a, afterYes] = taken(whenTrue, yes);
    const [b, afterNo] = taken(whenFalse, no);
    this.#facts = either(afterYes, afterNo);
    if (condition.op === 'truth') return condition.value ? a : b;
    return [{ at: spanOf(at), do: 'if', condition, yes: a, no: b }];
  }

  #leave(argument: AnyNode | undefined, at: AnyNode): Statement[] {
    if (argument?.type === 'ConditionalExpression')
      return this.#branch(
        argument.test,
        () => this.#leave(argument.consequent, at),
        () => this.#leave(argument.alternate, at),
        at,
      );
    const verdict = argument === undefined ? undefined : this.#verdict(argument);
    this.#facts = undefined;
    return [{ at: spanOf(at), do: 'leave', verdict }];
  }

  #verdict(node: AnyNode): 'skip' | 'remove' | undefined {
    const thing = this.#working().thing(node);
    if (thing.is === 'undefined') return undefined;
    const word = thing.is === 'value' && thing.expr.op === 'text' ? thing.expr.value : undefined;
    if (word === 'skip' && this.#moment === 'return')
      this.#report.failHere(node, 'where a function returns there is no instruction to skip');
    if (word === 'skip' || word === 'remove') return word;
    return this.#report.fail(node, "a handler returns nothing, 'skip' or 'remove'");
  }

  #jump(which: 'break' | 'continue', label: unknown, at: AnyNode): Statement[] {
    if (label != null) this.#report.fail(at, FOREIGN['LabeledStatement']!);
    const loop = this.#loops.at(-1)!;
    if (which === 'break') loop.out = either(loop.out, this.#facts);
    else loop.next = either(loop.next, this.#facts);
    this.#facts = undefined;
    return [{ at: spanOf(at), do: which }];
  }

  // Variables

  #declaration(node: VariableDeclaration): Statement[] {
    if (node.kind !== 'const' && node.kind !== 'let') this.#report.fail(node, 'write let or const');
    return node.declarations.flatMap((d) => this.#declarator(d, node.kind === 'let'));
  }

  #declarator(node: VariableDeclarator, mutable: boolean): Statement[] {
    const { id, init } = node;
    if (init == null) return this.#report.fail(node, 'a variable needs a value: let x = 0n');
    const thing = this.#working().thing(init);
    if (id.type === 'ObjectPattern') {
      if (thing.is === 'hit' || thing.is === 'scope' || thing.is === 'regs')
        return this.#unpack(id, thing.is);
      return this.#report.fail(id, 'only the hit, its regs and the scope can be taken apart');
    }
    if (id.type !== 'Identifier') return this.#report.fail(id, 'write a name');
    if (thing.is === 'value') return this.#keep(id, id.name, thing, mutable);
    if (mutable || thing.is === 'undefined') this.#working().value(init);
    if (thing.is === 'method') this.#report.fail(init, `a method needs its hit: write hit.${thing.name}(…)`);
    this.#names.declare(id.name, thing);
    return [];
  }

  /** A new variable. What is known when the handler is compiled, and does not change, needs no place. */
  #keep(node: AnyNode, name: string, value: Value, mutable: boolean): Statement[] {
    const { op } = value.expr;
    if (!mutable && !value.optional && (op === 'int' || op === 'text' || op === 'truth')) {
      this.#names.declare(name, value);
      return [];
    }
    let local = this.#locals.get(node);
    if (local === undefined) {
      local = { index: this.#locals.size, name, kind: value.kind, mutable, range: value.range };
      this.#locals.set(node, local);
    }
    this.#names.declare(name, { is: 'local', local });
    return [this.#set(local, value, value.node)];
  }

  #set(local: Local, value: Value, at: AnyNode): Statement {
    if (value.kind !== local.kind)
      this.#report.fail(at, `${local.name} is ${KINDS[local.kind]}, and this is ${described(value)}`);
    let { expr } = value;
    if (isInteger(value)) {
      const all = joined(local.range, value.range);
      if (typeFor(all) === undefined)
        this.#report.fail(
          at,
          `${local.name} would be ${shown(local.range)} and ${shown(value.range)}, which no 64 bits hold: write u64(…) or i64(…)`,
        );
      local.range = all;
      expr = as(expr, this.#expressions.typeOf(local));
    }
    this.#learn(local, value);
    return { at: spanOf(at), do: 'set', local: local.index, value: expr };
  }

  #learn(
    local: Local,
    { range: all, nonzero, optional }: Pick<Value, 'range' | 'nonzero' | 'optional'>,
  ): void {
    if (this.#facts !== undefined)
      this.#facts = having(this.#facts, `local${local.index}`, { range: all, nonzero, optional });
  }

  #assignment(node: AssignmentExpression): Statement[] {
    const { left, right, operator } = node;
    const target = this.#target(left);
    const value = this.#assigned(target, left, right, operator, node);
    if ('local' in target) return [this.#set(target.local, value, node)];
    if (target.place === 'call' && this.#moment === 'return')
      this.#report.failHere(node, 'the return handler reads hit.call; the pre handler writes it');
    const statement = this.#writes.write(target.place, value, node);
    if (target.place !== 'call' && this.#facts !== undefined) this.#facts = without(this.#facts, ofRegisters);
    return [statement];
  }

  #target(node: AnyNode): Target {
    this.#working();
    if (node.type === 'MemberExpression') return { place: this.#writes.place(node) };
    if (node.type !== 'Identifier') return this.#report.fail(node, 'write one name');
    const binding = this.#names.find(node.name);
    if (binding?.is === 'local' && binding.local.mutable) return { local: binding.local };
    if (binding === undefined || binding.is === 'later') this.#expressions.thing(node);
    return this.#report.fail(node, `${node.name} cannot be assigned to: declare it with let`);
  }

  #assigned(target: Target, left: AnyNode, right: AnyNode, operator: string, node: AnyNode): Value {
    const expressions = this.#working();
    // What is written to a register is cut off to its 64 bits.
    const wraps = 'place' in target && target.place !== 'call';
    if (operator === '=') return expressions.value(right, wraps);
    if (operator === '??=') {
      const value = expressions.value(left);
      return value.optional ? expressions.otherwise(value, expressions.value(right), node) : value;
    }
    if (!OPERATORS.includes(operator))
      return this.#report.fail(node, `${operator} is not part of compiled handlers`);
    return expressions.binary(operator.slice(0, -1) as ArithmeticOperator, left, right, node, wraps);
  }

  /** `i++`. */
  #update(node: UpdateExpression): Statement[] {
    const target = this.#target(node.argument);
    const value = this.#working().value(node.argument);
    if (!isInteger(value))
      this.#report.fail(node, `${node.operator} needs a number, and this is ${described(value)}`);
    const one = whole(node, value.kind as 'bigint' | 'number', 1n, false);
    const wraps = 'place' in target;
    const operator = node.operator === '++' ? '+' : '-';
    const changed = this.#expressions.numbers.arithmetic(operator, value, one, node, wraps);
    if ('local' in target) return [this.#set(target.local, changed, node)];
    const statement = this.#writes.write(target.place, changed, node);
    if (this.#facts !== undefined) this.#facts = without(this.#facts, ofRegisters);
    return [statement];
  }

  // Loops

  #for(node: ForStatement): Statement[] {
    const { local, from, bound, inclusive, step } = this.#head(node);
    const to = (): Value => this.#bound(bound, inclusive, local, from);
    const run = (
      known: Facts,
    ): { body: Statement[]; end: Value; most: bigint; after: Facts | undefined; out: Facts | undefined } => {
      this.#facts = known;
      const end = to();
      const most = (end.range.hi - from.range.lo + step - 1n) / step;
      if (most > MOST_ROUNDS) this.#unbounded(bound, end, most);
      if (most <= 0n) return { body: [], end, most, after: undefined, out: undefined };
      // All that is compared is of one type.
      local.range = joined(joined(local.range, end.range), range(from.range.lo, end.range.hi - 1n + step));
      if (!within(local.range, local.kind === 'number' ? SAFE : typeFor(local.range) === 'i64' ? I64 : U64))
        this.#unbounded(bound, end, most);
      this.#learn(local, { range: range(from.range.lo, end.range.hi - 1n), nonzero: false, optional: false });
      const loop: Loop = { next: undefined, out: undefined };
      this.#loops.push(loop);
      const body = this.#block([node.body]);
      this.#loops.pop();
      return { body, end, most, after: either(this.#facts, loop.next), out: loop.out };
    };
    const head = this.#explored(this.#facts!, run);
    const { body, end, most, after, out } = run(head);
    const key = `local${local.index}`;
    const left = either(either(head, after), out);
    this.#facts = left && without(left, (k) => k === key);
    // Its end is looked at even so, and may throw.
    if (most <= 0n && !someExpr(end.expr, mayThrow)) return [];
    return [
      {
        at: spanOf(node),
        do: 'loop',
        local: local.index,
        from: as(from.expr, this.#expressions.typeOf(local)),
        to: as(end.expr, this.#expressions.typeOf(local)),
        step,
        most: Math.max(1, Number(most)),
        body,
      },
    ];
  }

  /** What holds at the beginning of every round. */
  #explored(
    entry: Facts,
    run: (known: Facts) => { readonly most: bigint; readonly after: Facts | undefined },
  ): Facts {
    this.#exploring++;
    let head = entry;
    for (let round = 1n; ; round++) {
      const { most, after } = run(head);
      const next = either(head, after)!;
      if (sameFacts(next, head) || round >= most) break;
      head = ++this.#followed > FOLLOWED ? widened(head, next) : next;
    }
    this.#exploring--;
    return head;
  }

  /** `for (let i = from; i < bound; i += step)`. */
  #head(node: ForStatement): {
    readonly local: Local;
    readonly from: Value;
    readonly bound: AnyNode;
    readonly inclusive: boolean;
    readonly step: bigint;
  } {
    const form = 'write for (let i = 0; i < 16; i++)';
    const { init, test, update } = node;
    if (init?.type !== 'VariableDeclaration' || init.kind !== 'let' || init.declarations.length !== 1)
      return this.#report.fail(init ?? node, form);
    const { id, init: start } = init.declarations[0]!;
    if (id.type !== 'Identifier' || start == null) return this.#report.fail(init, form);
    const from = this.#working().present(start);
    if (!isInteger(from)) this.#report.fail(start, `a loop counts, and this is ${described(from)}`);
    let local = this.#locals.get(id);
    if (local === undefined) {
      // The loop alone changes it.
      local = { index: this.#locals.size, name: id.name, kind: from.kind, mutable: false, range: from.range };
      this.#locals.set(id, local);
    }
    local.range = joined(local.range, from.range);
    this.#names.declare(id.name, { is: 'local', local });
    this.#learn(local, from);
    const counts = (of: AnyNode): boolean => of.type === 'Identifier' && of.name === id.name;
    if (
      test?.type !== 'BinaryExpression' ||
      !counts(test.left) ||
      (test.operator !== '<' && test.operator !== '<=')
    )
      return this.#report.fail(test ?? node, form);
    const step = update == null ? undefined : this.#step(update, counts, local);
    if (step === undefined) return this.#report.fail(update ?? node, form);
    return { local, from, bound: test.right, inclusive: test.operator === '<=', step };
  }

  #step(node: AnyNode, counts: (of: AnyNode) => boolean, local: Local): bigint | undefined {
    if (node.type === 'UpdateExpression')
      return node.operator === '++' && counts(node.argument) ? 1n : undefined;
    if (node.type !== 'AssignmentExpression' || node.operator !== '+=' || !counts(node.left))
      return undefined;
    const by = this.#working().present(node.right);
    if (by.kind !== local.kind)
      this.#report.fail(node.right, `${local.name} is ${KINDS[local.kind]}, and this is ${described(by)}`);
    return by.expr.op === 'int' && by.range.lo > 0n ? by.range.lo : undefined;
  }

  /** Where the loop ends: the first value that it does not reach. */
  #bound(node: AnyNode, inclusive: boolean, local: Local, from: Value): Value {
    const value = this.#working().present(node);
    if (!isInteger(value))
      this.#report.fail(node, `${local.name} is compared with a number, and this is ${described(value)}`);
    if (someExpr(value.expr, (e) => e.op === 'local' && e.local === local.index))
      this.#report.fail(node, `the end of a loop cannot depend on ${local.name}, which runs up to it`);
    if (value.range.hi - from.range.lo > 1n << 32n) this.#unbounded(node, value, undefined);
    if (!inclusive) return value;
    const one = whole(node, value.kind as 'bigint' | 'number', 1n, false);
    return this.#expressions.numbers.arithmetic('+', value, one, node, false);
  }

  #unbounded(node: AnyNode, end: Value, most: bigint | undefined): never {
    const source = this.#report.source(node);
    const rounds = most === undefined ? 'as often as that' : `${most} times`;
    const limit = end.kind === 'bigint' ? '64n' : '64';
    return this.#report.fail(
      node,
      `a loop goes round at most ${MOST_ROUNDS} times, and ${source} may be ${shown(end.range)}, so this may go ${rounds}: write ${source} < ${limit} ? ${source} : ${limit}`,
    );
  }
}

/** `hit.arg` of an argument on the stack. */
const mayThrow = (expr: Expr): boolean => expr.op === 'arg' && expr.index >= 6;

const KINDS = {
  bigint: 'a bigint',
  number: 'a number',
  string: 'a string',
  boolean: 'true or false',
} as const;
