/**
 * The checked form of an expression: small, typed, plain data. Whatever runs expressions (the evaluator here, a
 * compiler to machine code elsewhere) works from this tree and never from text.
 */

export const INT_TYPES = ['u8', 'u16', 'u32', 'u64', 'i8', 'i16', 'i32', 'i64'] as const;
export type IntType = (typeof INT_TYPES)[number];
/** `bytes` and `hex` are ways to show a value; nothing can be computed from them. */
export type Type = IntType | 'f64' | 'bool' | 'string' | 'bytes' | 'hex';

/** The registers, by the kernel's names for x86-64 (struct pt_regs). */
// prettier-ignore
export const REGISTERS = [
  'ax', 'bx', 'cx', 'dx', 'si', 'di', 'bp', 'sp', 'r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15', 'ip', 'flags',
  'origAx', 'cs', 'ss', 'ds', 'es', 'fs', 'gs', 'fsBase', 'gsBase',
] as const;
export type Register = (typeof REGISTERS)[number];

export type ArithmeticOperator = '+' | '-' | '*' | '/' | '%' | '<<' | '>>' | '&' | '|' | '^';
export type ComparisonOperator = '==' | '!=' | '<' | '<=' | '>' | '>=';

export type Expr =
  | { readonly op: 'int'; readonly type: IntType; readonly value: bigint }
  | { readonly op: 'float'; readonly type: 'f64'; readonly value: number }
  | { readonly op: 'text'; readonly type: 'string'; readonly value: string }
  | { readonly op: 'truth'; readonly type: 'bool'; readonly value: boolean }
  | { readonly op: 'arg'; readonly type: 'u64'; readonly index: number }
  /** `single`: the register holds a float, not a double. */
  | { readonly op: 'farg'; readonly type: 'f64'; readonly index: number; readonly single: boolean }
  | { readonly op: 'reg'; readonly type: 'u64'; readonly name: Register }
  /** Where a function returns: its argument as it was at the entry. */
  | { readonly op: 'entryArg'; readonly type: 'u64'; readonly index: number }
  | { readonly op: 'retval' | 'duration'; readonly type: 'u64' }
  | { readonly op: 'of'; readonly type: 'u32'; readonly what: 'pid' | 'tid' | 'cpu' }
  | { readonly op: 'time'; readonly type: 'u64' }
  | { readonly op: 'comm'; readonly type: 'string' }
  | { readonly op: 'convert'; readonly type: IntType | 'f64'; readonly of: Expr }
  | { readonly op: 'negate' | 'complement'; readonly type: 'u64' | 'i64' | 'f64'; readonly of: Expr }
  | { readonly op: 'not'; readonly type: 'bool'; readonly of: Expr }
  | {
      readonly op: 'arithmetic';
      readonly type: 'u64' | 'i64' | 'f64';
      readonly operator: ArithmeticOperator;
      readonly left: Expr;
      readonly right: Expr;
    }
  | {
      readonly op: 'compare';
      readonly type: 'bool';
      readonly operator: ComparisonOperator;
      readonly left: Expr;
      readonly right: Expr;
    }
  | { readonly op: 'both' | 'either'; readonly type: 'bool'; readonly left: Expr; readonly right: Expr }
  | {
      readonly op: 'choose';
      readonly type: Type;
      readonly condition: Expr;
      readonly yes: Expr;
      readonly no: Expr;
    }
  | { readonly op: 'read'; readonly type: IntType; readonly address: Expr }
  | { readonly op: 'str'; readonly type: 'string'; readonly address: Expr; readonly max: Expr }
  | { readonly op: 'buf'; readonly type: 'bytes'; readonly address: Expr; readonly length: Expr }
  | { readonly op: 'hex'; readonly type: 'hex'; readonly of: Expr };

export const isInt = (type: Type): type is IntType => (INT_TYPES as readonly string[]).includes(type);
export const isSigned = (type: IntType): boolean => type.startsWith('i');
export const bitsOf = (type: IntType): number => Number(type.slice(1));

/** The least and the greatest value of a type. */
export const rangeOf = (type: IntType): readonly [bigint, bigint] => {
  const bits = BigInt(bitsOf(type));
  return isSigned(type) ? [-(1n << (bits - 1n)), (1n << (bits - 1n)) - 1n] : [0n, (1n << bits) - 1n];
};

/** The value a type's bits hold when more bits are cut off, as a processor's narrow registers do. */
export const wrap = (type: IntType, value: bigint): bigint =>
  isSigned(type) ? BigInt.asIntN(bitsOf(type), value) : BigInt.asUintN(bitsOf(type), value);

/** The parts of an expression, for walks over the tree. */
export function partsOf(expr: Expr): readonly Expr[] {
  switch (expr.op) {
    case 'convert':
    case 'negate':
    case 'complement':
    case 'not':
    case 'hex':
      return [expr.of];
    case 'arithmetic':
    case 'compare':
    case 'both':
    case 'either':
      return [expr.left, expr.right];
    case 'choose':
      return [expr.condition, expr.yes, expr.no];
    case 'read':
      return [expr.address];
    case 'str':
      return [expr.address, expr.max];
    case 'buf':
      return [expr.address, expr.length];
    default:
      return [];
  }
}

/** Whether the expression, or any part of it, is one that `wanted` accepts. */
export const someExpr = (expr: Expr, wanted: (part: Expr) => boolean): boolean =>
  wanted(expr) || partsOf(expr).some((part) => someExpr(part, wanted));
