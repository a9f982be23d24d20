/** From syntax to the typed tree: names, calls and everything that is not arithmetic. */
import type {
  ConditionalExpression,
  CallExpression,
  Identifier,
  Literal,
  MemberExpression,
  Node,
} from 'acorn';
import { nearest } from '../base/nearest.js';
import { shortened } from './expression-error.js';
import type { ArithmeticOperator, ComparisonOperator, Expr, IntType, Register } from './ir.js';
import { INT_TYPES, MOST_BYTES, REGISTERS, isInt, isSigned } from './ir.js';
import type { Checked, Operand, Report } from './expression-numbers.js';
import { Numbers, commonType, describe, settle } from './expression-numbers.js';

/** Where the expression is evaluated: what is known, and what `arg0` means, depends on it. */
export type Moment = 'entry' | 'after' | 'return';

const DEFAULT_STRING = 256n;

const ARITHMETIC: readonly string[] = ['+', '-', '*', '/', '%', '<<', '>>', '&', '|', '^'];
const COMPARISON: Readonly<Record<string, ComparisonOperator>> = {
  '==': '==',
  '===': '==',
  '!=': '!=',
  '!==': '!=',
  '<': '<',
  '<=': '<=',
  '>': '>',
  '>=': '>=',
};

const VALUES: Readonly<Record<string, Expr>> = {
  pid: { op: 'of', type: 'u32', what: 'pid' },
  tid: { op: 'of', type: 'u32', what: 'tid' },
  cpu: { op: 'of', type: 'u32', what: 'cpu' },
  comm: { op: 'comm', type: 'string' },
  time: { op: 'time', type: 'u64' },
  cgroup: { op: 'cgroup', type: 'u64' },
};
const FUNCTIONS = ['str', 'buf', 'hex', 'read', 'f64', ...INT_TYPES];
const RETURNS: Readonly<Record<string, Expr>> = {
  retval: { op: 'retval', type: 'u64' },
  // System V psABI 3.2.3: a floating-point value is returned in xmm0, where the first argument had been.
  fretval: { op: 'farg', type: 'f64', index: 0, single: false },
  f32retval: { op: 'farg', type: 'f64', index: 0, single: true },
  duration: { op: 'duration', type: 'u64' },
};
const NAMES = [
  ...Object.keys(VALUES),
  ...FUNCTIONS,
  ...Object.keys(RETURNS),
  'regs',
  'arg0',
  'farg0',
  'f32arg0',
];
/** What other tools call these things. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  ret: 'retval',
  returnValue: 'retval',
  durationNs: 'duration',
  elapsed: 'duration',
  nsecs: 'time',
  args: 'arg0, arg1, …',
  arg: 'arg0, arg1, …',
  hit: 'arg0, regs.ax, pid, …',
  int8: 'i8(…)',
  int16: 'i16(…)',
  int32: 'i32(…)',
  int64: 'i64(…)',
  uint8: 'u8(…)',
  uint16: 'u16(…)',
  uint32: 'u32(…)',
  uint64: 'u64(…)',
  readString: 'str(…)',
  string: 'str(…)',
};

/** Words for syntax that is JavaScript but not part of the language. */
const FOREIGN: Readonly<Record<string, string>> = {
  AssignmentExpression: '= does not compare: write ==',
  TemplateLiteral: 'write a string in quotes',
  TaggedTemplateExpression: 'write a string in quotes',
  ArrowFunctionExpression: 'functions cannot be written here',
  FunctionExpression: 'functions cannot be written here',
  SequenceExpression: 'one value is needed here, not several',
  ChainExpression: 'write a plain dot',
  ArrayExpression: 'arrays are not part of the expression language',
  ObjectExpression: 'objects are not part of the expression language',
  ThisExpression: 'there is no this here',
  UpdateExpression: '++ and -- change a value; expressions only read',
};

export class Checker {
  readonly #report: Report;
  readonly #moment: Moment;
  readonly #numbers: Numbers;
  constructor(report: Report, moment: Moment) {
    this.#report = report;
    this.#moment = moment;
    this.#numbers = new Numbers(report);
  }

  /** The whole expression. Here, and only here, `hex` and `buf` may stand. */
  whole(node: Node): Expr {
    return settle({ node, is: this.#check(node) }, this.#report);
  }

  /** A part of an expression, with a type that can be computed with. */
  #part(node: Node): Operand {
    const is = this.#check(node);
    if (is.op !== 'constant' && (is.type === 'hex' || is.type === 'bytes')) {
      this.#report.fail(node, `${is.op}() is for showing a value: it must stand alone`);
    }
    return { node, is };
  }

  #check(node: Node): Checked {
    switch (node.type) {
      case 'Literal':
        return this.#literal(node as Literal);
      case 'Identifier':
        return this.#identifier(node as Identifier);
      case 'MemberExpression':
        return this.#member(node as MemberExpression);
      case 'CallExpression':
        return this.#call(node as CallExpression);
      case 'UnaryExpression':
        return this.#unary(node as Node & { operator: string; argument: Node });
      case 'BinaryExpression':
        return this.#binary(node as Node & { operator: string; left: Node; right: Node });
      case 'LogicalExpression':
        return this.#logical(node as Node & { operator: string; left: Node; right: Node });
      case 'ConditionalExpression':
        return this.#conditional(node as ConditionalExpression);
      default:
        return this.#report.fail(node, FOREIGN[node.type] ?? 'this is not part of the expression language');
    }
  }

  #literal(node: Literal): Checked {
    const raw = (node.raw ?? '').replaceAll('_', '');
    if (typeof node.value === 'string') return { op: 'text', type: 'string', value: node.value };
    if (typeof node.value === 'boolean') return { op: 'truth', type: 'bool', value: node.value };
    if (node.bigint != null) return this.#numbers.constant(BigInt(raw.slice(0, -1)), node);
    if (typeof node.value !== 'number') {
      return this.#report.fail(
        node,
        node.regex != null
          ? 'regular expressions are not part of the expression language'
          : 'there is no null here: write 0',
      );
    }
    if (!/^(?:0[xob][0-9a-f]+|[0-9]+)$/i.test(raw)) return { op: 'float', type: 'f64', value: node.value };
    if (!Number.isSafeInteger(node.value)) {
      return this.#report.fail(node, `JavaScript would round this number: write ${shortened(raw)}n`);
    }
    return this.#numbers.constant(BigInt(raw), node);
  }

  #identifier(node: Identifier): Checked {
    const { name } = node;
    const value = Object.hasOwn(VALUES, name) ? VALUES[name] : undefined;
    if (value !== undefined) return value;
    if (Object.hasOwn(RETURNS, name)) return this.#ofReturn(node);
    const argument = /^(arg|farg|f32arg)(\d{1,3})$/.exec(name);
    if (argument !== null) return this.#argument(node, argument[1] ?? '', Number(argument[2]));
    return this.#unknown(node);
  }

  #ofReturn(node: Identifier): Checked {
    const { name } = node;
    if (this.#moment === 'return') return RETURNS[name]!;
    const instead = name === 'retval' ? '; for the register write regs.ax' : '';
    return this.#report.fail(node, `${name} is known only where a function returns (PROBE%return)${instead}`);
  }

  #argument(node: Node, kind: string, index: number): Checked {
    const isReturn = this.#moment === 'return';
    if (kind === 'arg') {
      if (index > 9) this.#report.fail(node, 'arg0 to arg9 can be read');
      if (!isReturn) return { op: 'arg', type: 'u64', index };
      if (index > 5) this.#report.fail(node, 'of a call that returns, arg0 to arg5 have been kept');
      return { op: 'entryArg', type: 'u64', index };
    }
    // System V psABI 3.2.3: xmm0 to xmm7 carry floating-point arguments.
    if (index > 7) this.#report.fail(node, `${kind}0 to ${kind}7 can be read`);
    if (isReturn) {
      const value = kind === 'farg' ? 'fretval' : 'f32retval';
      this.#report.fail(node, `${kind}${index} is gone when a function returns; what it returns is ${value}`);
    }
    return { op: 'farg', type: 'f64', index, single: kind === 'f32arg' };
  }

  #unknown(node: Identifier): never {
    const { name } = node;
    if (FUNCTIONS.includes(name)) this.#report.fail(node, `${name} is a function: write ${name}(…)`);
    if (name === 'regs') this.#report.fail(node, 'name a register: regs.di');
    const register = registerNamed(name);
    if (register !== undefined) this.#report.fail(node, `unknown name ${name}: write regs.${register}`);
    const elsewhere = Object.hasOwn(ELSEWHERE, name) ? ELSEWHERE[name] : undefined;
    if (elsewhere !== undefined) this.#report.fail(node, `unknown name ${name}: write ${elsewhere}`);
    const near = nearest(name, NAMES, 1)[0];
    return this.#report.fail(
      node,
      near === undefined
        ? 'unknown name; there are arg0…arg9, farg0…farg7, regs.NAME, retval, duration, pid, tid, comm, cpu, time and cgroup'
        : `unknown name: did you mean ${near}?`,
    );
  }

  #member(node: MemberExpression): Checked {
    const { object, property } = node;
    if (object.type !== 'Identifier' || object.name !== 'regs') {
      return this.#report.fail(
        node,
        'only regs has members; memory is read with read(address, "u32") and str(address)',
      );
    }
    if (node.computed || property.type !== 'Identifier')
      return this.#report.fail(property, 'write regs.NAME, as in regs.di');
    const { name } = property;
    if ((REGISTERS as readonly string[]).includes(name))
      return { op: 'reg', type: 'u64', name: name as Register };
    const register = registerNamed(name);
    return this.#report.fail(
      property,
      `no such register: ${register === undefined ? `there are ${REGISTERS.join(' ')}` : `write regs.${register}`}`,
    );
  }

  #call(node: CallExpression): Checked {
    const { callee } = node;
    if (callee.type !== 'Identifier') {
      return this.#report.fail(callee, `only these can be called: ${FUNCTIONS.join(' ')}`);
    }
    const { name } = callee;
    for (const given of node.arguments) {
      if (given.type === 'SpreadElement')
        this.#report.fail(given, '... is not part of the expression language');
    }
    if (name === 'str') return this.#str(node);
    if (name === 'buf') return this.#buf(node);
    if (name === 'hex') return this.#hex(node);
    if (name === 'read') return this.#read(node);
    if (name === 'f64' || (INT_TYPES as readonly string[]).includes(name)) {
      return this.#convert(node, name as IntType | 'f64');
    }
    const near = nearest(name, FUNCTIONS, 1)[0];
    const known = near === undefined ? `there are ${FUNCTIONS.join(' ')}` : `did you mean ${near}(…)?`;
    return this.#report.fail(callee, `no such function: ${known}`);
  }

  /** The arguments of a call, checked for their number. */
  #given(node: CallExpression, least: number, most: number, form: string): [Node, Node | undefined] {
    const [first, second] = node.arguments;
    if (first === undefined || node.arguments.length < least || node.arguments.length > most) {
      return this.#report.fail(node, `write ${form}`);
    }
    return [first, second];
  }

  #str(node: CallExpression): Expr {
    const [address, max] = this.#given(node, 1, 2, 'str(address) or str(address, most bytes)');
    const most: Expr =
      max === undefined ? { op: 'int', type: 'i64', value: DEFAULT_STRING } : this.#length(max);
    return { op: 'str', type: 'string', address: this.#address(address), max: most };
  }

  #buf(node: CallExpression): Expr {
    const [address, length] = this.#given(node, 2, 2, 'buf(address, bytes)');
    return {
      op: 'buf',
      type: 'bytes',
      address: this.#address(address),
      length: this.#length(length ?? node),
    };
  }

  #hex(node: CallExpression): Expr {
    const [argument] = this.#given(node, 1, 1, 'hex(value)');
    const of = settle(this.#part(argument), this.#report);
    if (!isInt(of.type))
      this.#report.fail(argument, `hex() shows whole numbers, and this is ${describe(of)}`);
    return { op: 'hex', type: 'hex', of };
  }

  #read(node: CallExpression): Expr {
    const [address, type] = this.#given(
      node,
      2,
      2,
      `read(address, "u32"); the types are ${INT_TYPES.join(' ')}`,
    );
    const word = type?.type === 'Literal' ? (type as Literal).value : undefined;
    const known = INT_TYPES.find((t) => t === word);
    if (known === undefined)
      return this.#report.fail(type ?? node, `name a type: ${INT_TYPES.map((t) => `"${t}"`).join(' ')}`);
    return { op: 'read', type: known, address: this.#address(address) };
  }

  #convert(node: CallExpression, type: IntType | 'f64'): Checked {
    const [argument] = this.#given(node, 1, 1, `${type}(value)`);
    const operand = this.#part(argument);
    const of = settle(operand, this.#report);
    if (of.type === type) return of;
    if (!isInt(of.type) && of.type !== 'f64' && of.type !== 'bool') {
      this.#report.fail(argument, `${type}() converts numbers, and this is ${describe(of)}`);
    }
    return { op: 'convert', type, of };
  }

  /** Addresses are unsigned: user memory ends far below the first negative one. */
  #address(node: Node): Expr {
    const operand = this.#part(node);
    const of = settle(operand, this.#report, operand.is.op === 'constant' ? 'u64' : undefined);
    if (!isInt(of.type)) return this.#report.fail(node, `an address is needed, and this is ${describe(of)}`);
    if (isSigned(of.type)) {
      const source = this.#report.source(node);
      this.#report.fail(node, `an address is unsigned, and this is signed: write u64(${source})`);
    }
    return of;
  }

  #length(node: Node): Expr {
    const operand = this.#part(node);
    const of = settle(operand, this.#report);
    if (!isInt(of.type))
      return this.#report.fail(node, `a number of bytes is needed, and this is ${describe(of)}`);
    if (operand.is.op === 'constant' && (operand.is.value < 1n || operand.is.value > MOST_BYTES)) {
      this.#report.fail(node, `from 1 to ${MOST_BYTES} bytes can be read`);
    }
    return of;
  }

  #unary(node: Node & { operator: string; argument: Node }): Checked {
    const operand = this.#part(node.argument);
    if (node.operator === '-') return this.#numbers.negate(operand);
    if (node.operator === '~') return this.#numbers.complement(operand);
    if (node.operator === '!') return { op: 'not', type: 'bool', of: this.#truth(operand) };
    return this.#report.fail(node, `${node.operator} is not part of the expression language`);
  }

  #binary(node: Node & { operator: string; left: Node; right: Node }): Checked {
    const { operator } = node;
    const comparison = Object.hasOwn(COMPARISON, operator) ? COMPARISON[operator] : undefined;
    if (comparison === undefined && !ARITHMETIC.includes(operator)) {
      const instead = operator === '>>>' ? ': write u64(…) >> n' : '';
      return this.#report.fail(node, `${operator} is not part of the expression language${instead}`);
    }
    const left = this.#part(node.left);
    const right = this.#part(node.right);
    if (comparison !== undefined) return this.#numbers.compare(comparison, left, right, node);
    return this.#numbers.arithmetic(operator as ArithmeticOperator, left, right, node);
  }

  #logical(node: Node & { operator: string; left: Node; right: Node }): Checked {
    if (node.operator === '??') return this.#report.fail(node, '?? is not part of the expression language');
    const [left, right] = [node.left, node.right].map((side) => {
      const operand = this.#part(side);
      if (operand.is.op !== 'constant' && operand.is.type === 'bool') return operand.is;
      return this.#report.fail(
        side,
        `${node.operator} joins conditions, and this is ${describe(operand.is)}: write ${this.#report.source(side)} != 0`,
      );
    }) as [Expr, Expr];
    return { op: node.operator === '&&' ? 'both' : 'either', type: 'bool', left, right };
  }

  /** A condition: true or false, or a whole number that is not 0. */
  #truth({ node, is }: Operand): Expr {
    const condition = settle({ node, is }, this.#report);
    if (condition.type === 'bool') return condition;
    if (!isInt(condition.type))
      this.#report.fail(node, `a condition is needed here, and this is ${describe(is)}`);
    const zero: Expr = { op: 'int', type: condition.type === 'u64' ? 'u64' : 'i64', value: 0n };
    return { op: 'compare', type: 'bool', operator: '!=', left: condition, right: zero };
  }

  #conditional(node: ConditionalExpression): Checked {
    const condition = this.#truth(this.#part(node.test));
    const yes = this.#part(node.consequent);
    const no = this.#part(node.alternate);
    const [a, b] = this.#alternatives(yes, no, node);
    return { op: 'choose', type: a.type, condition, yes: a, no: b };
  }

  /** Both alternatives as one type. */
  #alternatives(yes: Operand, no: Operand, node: Node): [Expr, Expr] {
    const typeFor = (other: Checked): IntType | undefined =>
      other.op !== 'constant' && isInt(other.type) ? (other.type === 'u64' ? 'u64' : 'i64') : undefined;
    const a = settle(yes, this.#report, yes.is.op === 'constant' ? typeFor(no.is) : undefined);
    const b = settle(no, this.#report, no.is.op === 'constant' ? typeFor(yes.is) : undefined);
    if (a.type === b.type) return [a, b];
    const type = isInt(a.type) && isInt(b.type) ? commonType(a.type, b.type) : undefined;
    if (type === undefined) {
      const source = (operand: Operand): string => this.#report.source(operand.node);
      return this.#report.fail(
        node,
        `both alternatives must be of one kind: ${source(yes)} is ${describe(a)} and ${source(no)} is ${describe(b)}`,
      );
    }
    const as = (expr: Expr): Expr => (expr.type === type ? expr : { op: 'convert', type, of: expr });
    return [as(a), as(b)];
  }
}

/** The kernel's name of a register somebody calls by the processor's: rax, edi, r10d. */
function registerNamed(name: string): Register | undefined {
  const lower = name.toLowerCase();
  const short = lower
    .replace(/^[re](?=[abcd]x$|[sd]i$|[bs]p$|ip$|flags$)/, '')
    .replace(/^(r\d+)[dwb]$/, '$1');
  return REGISTERS.find((register) => register === short);
}
