/** What can be said of a handler before code is made for it. */
import { encodeUtf8 } from '../../base/utf8.js';
import { COMM_BYTES, MOST_BYTES, partsOf, someExpr, type Expr, type Program, type Statement } from '../ir.js';

export interface Facts {
  /** Of each variable that is a string, the most bytes it can have. */
  readonly localBytes: readonly number[];
  /** Variables that may have no value. */
  readonly localAbsent: readonly boolean[];
  /** Whether any expression is one of these. */
  has(wanted: (expr: Expr) => boolean): boolean;
  stringBytes(expr: Expr): number;
  canBeAbsent(expr: Expr): boolean;
}

/** All statements, also those inside of others. */
export function* allStatements(body: readonly Statement[]): Generator<Statement> {
  for (const statement of body) {
    yield statement;
    if (statement.do === 'if') {
      yield* allStatements(statement.yes);
      yield* allStatements(statement.no);
    } else if (statement.do === 'loop') yield* allStatements(statement.body);
  }
}

export function expressionsOf(statement: Statement): readonly Expr[] {
  switch (statement.do) {
    case 'set':
    case 'setRegister':
    case 'setCall':
      return [statement.value];
    case 'if':
      return [statement.condition];
    case 'loop':
      return [statement.from, statement.to];
    case 'add':
      return [...statement.key, statement.value];
    case 'emit':
      return statement.fields;
    default:
      return [];
  }
}

/** `hidesPids`: a process may have no pid where ours are counted. */
export function factsOf(program: Program, hidesPids: boolean): Facts {
  const statements = [...allStatements(program.body)];
  const expressions = statements.flatMap(expressionsOf);
  const localBytes = program.locals.map(() => 0);
  const localAbsent = program.locals.map(() => false);
  const stringBytes = (expr: Expr): number => bytesIn(expr, localBytes);
  const canBeAbsent = (expr: Expr): boolean => isPerhapsAbsent(expr, localAbsent, hidesPids);
  // What goes into a variable may come from another one: until nothing changes. Both only ever grow.
  let isSettled = false;
  while (!isSettled) {
    isSettled = true;
    for (const statement of statements) {
      if (statement.do !== 'set') continue;
      const { local, value } = statement;
      const bytes = value.type === 'string' ? stringBytes(value) : 0;
      const absent = canBeAbsent(value);
      if (bytes <= localBytes[local]! && (!absent || localAbsent[local]!)) continue;
      localBytes[local] = Math.max(localBytes[local]!, bytes);
      localAbsent[local] ||= absent;
      isSettled = false;
    }
  }
  const has = (wanted: (expr: Expr) => boolean): boolean => expressions.some((e) => someExpr(e, wanted));
  return { localBytes, localAbsent, has, stringBytes, canBeAbsent };
}

/** The only statement that asks for the time, where it runs once at most; undefined: none or several do. */
export function onlyTimed({ body }: Program): Statement | undefined {
  const asks = (statement: Statement): boolean =>
    expressionsOf(statement).some((expr) => someExpr(expr, (part) => part.op === 'time'));
  const timed = [...allStatements(body)].filter(
    (statement) =>
      asks(statement) || (statement.do === 'loop' && [...allStatements(statement.body)].some(asks)),
  );
  return timed.length === 1 ? timed[0] : undefined;
}

function bytesIn(expr: Expr, localBytes: readonly number[]): number {
  switch (expr.op) {
    case 'text':
      return encodeUtf8(expr.value).length;
    case 'comm':
      return COMM_BYTES;
    case 'str': {
      const most = expr.max.op === 'int' ? expr.max.value : BigInt(MOST_BYTES);
      return most < 0n ? 0 : Number(most > MOST_BYTES ? MOST_BYTES : most);
    }
    case 'choose':
      return Math.max(bytesIn(expr.yes, localBytes), bytesIn(expr.no, localBytes));
    case 'otherwise':
      return Math.max(bytesIn(expr.of, localBytes), bytesIn(expr.instead, localBytes));
    case 'local':
      return localBytes[expr.local]!;
    default:
      throw new TypeError(`${expr.op} is no string`);
  }
}

function isPerhapsAbsent(expr: Expr, localAbsent: readonly boolean[], hidesPids: boolean): boolean {
  const of = (part: Expr): boolean => isPerhapsAbsent(part, localAbsent, hidesPids);
  switch (expr.op) {
    case 'read':
    case 'str':
    case 'buf':
    case 'call':
      return true;
    case 'arg':
      return isOnStack(expr);
    case 'of':
      return hidesPids && expr.what !== 'cpu';
    case 'local':
      return localAbsent[expr.local]!;
    case 'present':
      return false;
    case 'otherwise':
      return of(expr.instead);
    case 'arithmetic':
      return (isDivision(expr) && !isNonZero(expr.right)) || of(expr.left) || of(expr.right);
    default:
      return partsOf(expr).some(of);
  }
}

/** SysV psABI 3.2.3: six arguments are in registers. */
export const isOnStack = (expr: Extract<Expr, { op: 'arg' }>): boolean => expr.index >= 6;
export const isDivision = ({ operator }: Extract<Expr, { op: 'arithmetic' }>): boolean =>
  operator === '/' || operator === '%';
const isNonZero = (expr: Expr): boolean => expr.op === 'int' && expr.value !== 0n;

/** Whether it looks at the target's memory. */
export const readsMemory = (expr: Expr): boolean =>
  expr.op === 'read' || expr.op === 'str' || expr.op === 'buf' || (expr.op === 'arg' && isOnStack(expr));
