/** Random expressions of the intermediate representation, as front ends make them: of one type on both sides. */
import {
  INT_TYPES,
  rangeOf,
  wrap,
  type Expr,
  type IntType,
  type Register,
  type Statement,
} from '#uprobe/handler/ir.js';
import { BASE } from './chosen-calls.js';
import type { Random } from './random.js';

type Type = IntType | 'bool' | 'string';

/** Numbers at which something changes, small ones, addresses of the program's memory. */
export function interestingWord(r: Random): bigint {
  switch (r.below(6)) {
    case 0:
      return BigInt(r.below(10));
    case 1:
      return (1n << BigInt(r.below(64))) - BigInt(r.below(3)) + 1n;
    case 2:
      return -BigInt(r.below(300));
    case 3:
      return (BigInt(r.below(2 ** 32)) << 32n) | BigInt(r.below(2 ** 32));
    default:
      return BASE + BigInt(r.below(24_700));
  }
}

const REGISTERS: readonly Register[] = ['di', 'ax', 'bx', 'bp', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15'];

export class ExpressionMaker {
  readonly locals: readonly Type[];
  constructor(readonly r: Random) {
    this.locals = ['u64', 'i64', 'bool', 'u8', 'i32', 'string'];
  }

  /** Of what can be converted. */
  type(): IntType | 'bool' {
    return this.r.pick<IntType | 'bool'>([...INT_TYPES, 'u64', 'i64', 'bool']);
  }

  /** `before`: only variables of lower numbers have been set. */
  make(type: Type, depth: number, before = this.locals.length): Expr {
    const { r } = this;
    const part = (of: Type): Expr => this.make(of, depth - 1, before);
    if (depth <= 0 || r.below(8) === 0) return this.#leaf(type, before);
    switch (r.below(7)) {
      case 0:
        return { op: 'choose', type, condition: part('bool'), yes: part(type), no: part(type) };
      case 1:
        return { op: 'otherwise', type, of: part(type), instead: part(type) };
      case 2:
        if (type === 'bool') return { op: 'present', type, of: part(r.once(3) ? 'string' : this.type()) };
        if (type === 'string') return this.#string(part);
        return { op: 'read', type, address: r.below(4) ? this.#address() : part('u64') };
      default:
        if (type === 'string') return this.#string(part);
        return type === 'bool' ? this.#truth(part) : this.#number(type, part);
    }
  }

  #number(type: IntType, part: (of: Type) => Expr): Expr {
    const { r } = this;
    if (type !== 'u64' && type !== 'i64') return { op: 'convert', type, of: part(this.type()) };
    switch (r.below(6)) {
      case 0:
        return { op: 'convert', type, of: part(this.type()) };
      case 1:
        return {
          op: type === 'i64' ? r.pick(['negate', 'complement'] as const) : 'complement',
          type,
          of: part(type),
        };
      default: {
        const operator = r.pick(['+', '-', '*', '/', '%', '<<', '>>', '&', '|', '^'] as const);
        return { op: 'arithmetic', type, operator, left: part(type), right: part(type) };
      }
    }
  }

  #string(part: (of: Type) => Expr): Expr {
    const { r } = this;
    const max: Expr = r.once(12)
      ? part('u64')
      : { op: 'int', type: 'i64', value: BigInt(r.pick([0, 1, 7, 8, 16, 31, 64, 200])) };
    return { op: 'str', type: 'string', address: r.below(4) ? this.#address() : part('u64'), max };
  }

  #truth(part: (of: Type) => Expr): Expr {
    const { r } = this;
    switch (r.below(5)) {
      case 4:
        return {
          op: 'compare',
          type: 'bool',
          operator: r.pick(['==', '!='] as const),
          left: part('string'),
          right: part('string'),
        };
      case 0:
        return { op: 'not', type: 'bool', of: part('bool') };
      case 1:
        return {
          op: r.pick(['both', 'either'] as const),
          type: 'bool',
          left: part('bool'),
          right: part('bool'),
        };
      case 2:
        return {
          op: 'compare',
          type: 'bool',
          operator: r.pick(['==', '!='] as const),
          left: part('bool'),
          right: part('bool'),
        };
      default: {
        const type = r.pick(['u64', 'i64', 'i64', 'u8', 'i32'] as const);
        const operator = r.pick(['==', '!=', '<', '<=', '>', '>='] as const);
        return { op: 'compare', type: 'bool', operator, left: part(type), right: part(type) };
      }
    }
  }

  #leaf(type: Type, before: number): Expr {
    const { r } = this;
    const known = this.locals.flatMap((of, i) => (of === type && i < before ? [i] : []));
    if (known.length > 0 && r.below(3) === 0) return { op: 'local', type, local: r.pick(known) };
    if (type === 'string') {
      if (r.below(3) === 0) return { op: 'comm', type };
      return { op: 'text', type, value: r.pick(['', 'chosen-calls', 'ä', 'twelve chars and some more']) };
    }
    if (type === 'bool') return { op: 'truth', type, value: r.below(2) === 1 };
    if (type === 'u64' && r.below(4) > 0) return this.#register();
    if (type === 'u32' && r.below(3) === 0) return { op: 'of', type, what: r.pick(['pid', 'tid'] as const) };
    if (r.below(8) === 0) return { op: 'int', type, value: r.pick(rangeOf(type)) };
    return { op: 'int', type, value: wrap(type, interestingWord(r)) };
  }

  #register(): Expr {
    const { r } = this;
    switch (r.below(6)) {
      case 0:
        return { op: 'reg', type: 'u64', name: r.pick(REGISTERS) };
      case 1:
        return { op: 'uprobe', type: 'u64' };
      default:
        return { op: 'arg', type: 'u64', index: r.below(8) };
    }
  }

  #address(): Expr {
    return { op: 'int', type: 'u64', value: BASE + BigInt(this.r.below(24_600)) };
  }
}

/** A random handler over a counter, a histogram, stats, a table with keys of a u8 and a string, and events with a u64 and a string. */
export class HandlerMaker {
  readonly #expressions: ExpressionMaker;
  readonly locals: readonly Type[];

  constructor(readonly r: Random) {
    this.#expressions = new ExpressionMaker(r);
    // Two more, for loops.
    this.locals = [...this.#expressions.locals, 'i64', 'i64'];
  }

  body(): Statement[] {
    const { locals } = this.#expressions;
    const sets = locals.map((type, local): Statement => ({
      at,
      do: 'set',
      local,
      value: this.#expressions.make(type, 2, local),
    }));
    return [...sets, ...this.#block(3, 0)];
  }

  #block(depth: number, loops: number): Statement[] {
    return Array.from({ length: 1 + this.r.below(4) }, () => this.#statement(depth, loops));
  }

  #statement(depth: number, loops: number): Statement {
    const { r } = this;
    const make = (type: Type): Expr => this.#expressions.make(type, 2);
    switch (r.below(depth > 0 ? 10 : 7)) {
      case 0: {
        const local = r.below(this.#expressions.locals.length);
        return { at, do: 'set', local, value: make(this.#expressions.locals[local]!) };
      }
      case 1:
        return { at, do: 'emit', aggregate: 4, fields: [make('u64'), make('string')] };
      case 2:
        return { at, do: 'add', aggregate: 3, key: [make('u8'), make('string')], value: make('u64') };
      case 3:
        if (loops > 0) return { at, do: r.pick(['break', 'continue'] as const) };
        return r.once(8) ? { at, do: 'leave', verdict: undefined } : this.#add(make);
      case 4:
      case 5:
      case 6:
        return this.#add(make);
      default:
        if (loops < 2 && r.once(3)) return this.#loop(depth, loops, make);
        return {
          at,
          do: 'if',
          condition: make('bool'),
          yes: this.#block(depth - 1, loops),
          no: r.once(2) ? this.#block(depth - 1, loops) : [],
        };
    }
  }

  #add(make: (type: Type) => Expr): Statement {
    const value = make(this.r.pick<Type>(['u64', 'i64', 'u8', 'i32']));
    return { at, do: 'add', aggregate: this.r.below(3), key: [], value };
  }

  #loop(depth: number, loops: number, make: (type: Type) => Expr): Statement {
    const { r } = this;
    const local = this.#expressions.locals.length + loops;
    const most = 1 + r.below(6);
    const small = (of: Expr): Expr => ({
      op: 'arithmetic',
      type: 'i64',
      operator: '&',
      left: of,
      right: { op: 'int', type: 'i64', value: 7n },
    });
    const [from, to] = [small(make('i64')), small(make('i64'))];
    return {
      at,
      do: 'loop',
      local,
      from,
      to,
      step: BigInt(1 + r.below(3)),
      most,
      body: this.#block(depth - 1, loops + 1),
    };
  }
}

const at = { start: 0, end: 1 };
