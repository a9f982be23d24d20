/** Random expressions of the intermediate representation, as front ends make them: of one type on both sides. */
import { INT_TYPES, rangeOf, wrap, type Expr, type IntType, type Register } from '#uprobe/handler/ir.js';
import { BASE } from './chosen-calls.js';
import type { Random } from './random.js';

type Type = IntType | 'bool';

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
    this.locals = ['u64', 'i64', 'bool', 'u8', 'i32'];
  }

  type(): Type {
    return this.r.pick<Type>([...INT_TYPES, 'u64', 'i64', 'bool']);
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
        if (type === 'bool') return { op: 'present', type, of: part(this.type()) };
        return { op: 'read', type, address: r.below(4) ? this.#address() : part('u64') };
      default:
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

  #truth(part: (of: Type) => Expr): Expr {
    const { r } = this;
    switch (r.below(4)) {
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
