/** `--args` to closures and to what the line formats need to know. Loaded only when it is given: it brings a parser. */
import { ExpressionError, compileExpression, parseArgsList } from '../handler/expression.js';
import type { Evaluate, Expr, Moment } from '../handler/expression.js';
import { bitsOf, isInt, someExpr } from '../handler/ir.js';
import type { ShownArgument, ValueKind } from '../outputs/trace-line.js';
import { terminalColumns } from './output.js';
import { UsageError } from './usage-error.js';

export interface TraceArgument extends ShownArgument {
  readonly evaluate: Evaluate;
}

export function parseTraceArgs(text: string, moment: Moment): TraceArgument[] {
  try {
    return parseArgsList(text, moment).map(({ name, expr }) => ({
      name,
      kind: kindOf(expr),
      absent: someExpr(expr, divides) ? '<no value>' : '<unreadable>',
      evaluate: compileExpression(expr),
    }));
  } catch (e) {
    if (e instanceof ExpressionError) throw new UsageError(`--args: ${e.messageFor(terminalColumns())}`);
    throw e;
  }
}

const divides = (part: Expr): boolean =>
  part.op === 'arithmetic' && part.type !== 'f64' && (part.operator === '/' || part.operator === '%');

function kindOf({ type }: Expr): ValueKind {
  if (isInt(type)) return bitsOf(type) === 64 ? 'wide' : 'narrow';
  if (type === 'f64') return 'real';
  if (type === 'bool') return 'truth';
  return type === 'string' ? 'string' : 'verbatim';
}
