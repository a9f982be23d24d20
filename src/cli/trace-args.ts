/** `--args` and `--if` of `trace`. Loaded only when one is given: it brings a parser. */
import { compileExpression, parseArgsList } from '../handler/expression.js';
import type { Evaluate, Expr, Moment } from '../handler/expression.js';
import { someExpr } from '../handler/ir.js';
import type { ShownArgument } from '../outputs/trace-line.js';
import { kindOf } from './fields.js';
import { inOption, parseCondition } from './when.js';

export interface TraceArgument extends ShownArgument {
  readonly expr: Expr;
  readonly evaluate: Evaluate;
}

/** What a line shows, and which hits have one. */
export interface TraceWords {
  readonly args: readonly TraceArgument[];
  readonly condition: Expr | undefined;
  readonly isWanted: Evaluate | undefined;
  /** As they were written. */
  readonly text: string;
}

export interface TraceWordOptions {
  readonly args?: string;
  readonly if?: string;
}

export function parseTraceWords({ args, if: when }: TraceWordOptions, moment: Moment): TraceWords {
  const condition = when === undefined ? undefined : parseCondition(when, moment);
  return {
    args: args === undefined ? [] : parseTraceArgs(args, moment),
    condition,
    isWanted: condition && compileExpression(condition),
    text: [when, args].filter((t) => t !== undefined).join('; '),
  };
}

const parseTraceArgs = (text: string, moment: Moment): TraceArgument[] =>
  inOption('--args', () =>
    parseArgsList(text, moment).map(({ name, expr }) => ({
      name,
      kind: kindOf(expr),
      absent: someExpr(expr, divides) ? '<no value>' : '<unreadable>',
      expr,
      evaluate: compileExpression(expr),
    })),
  );

const divides = (part: Expr): boolean =>
  part.op === 'arithmetic' && part.type !== 'f64' && (part.operator === '/' || part.operator === '%');
