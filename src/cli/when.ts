/** `--if`, `--by` and the value of `hist`, from text to expressions. Loaded only when one is given: it brings a parser. */
import { ExpressionError, parseArgsList, parseExpression } from '../handler/expression.js';
import type { Expr, Moment } from '../handler/expression.js';
import { isInt } from '../handler/ir.js';
import { fieldOf, kindOf } from './fields.js';
import type { KeyPart } from './fields.js';
import { terminalColumns } from './output.js';
import type { ProbeSpec } from './probe-spec.js';
import type { When } from './programs.js';
import { UsageError } from './usage-error.js';

export interface WhenOptions {
  readonly if?: string;
  readonly by?: string;
}

export interface ParsedWhen extends When {
  readonly parts: readonly KeyPart[];
}

export interface Whens {
  readonly here: When | undefined;
  readonly atReturn: When | undefined;
  /** How keys are shown, which is the same for both. */
  readonly parts: readonly KeyPart[];
}

/** Both options, where they are given. */
export function parseWhen(options: WhenOptions, moment: Moment): ParsedWhen {
  const condition = options.if === undefined ? undefined : parseCondition(options.if, moment);
  const parts = options.by === undefined ? [] : parseKeys(options.by, moment);
  const text = [options.if, options.by].filter((t) => t !== undefined).join('; ');
  return { condition, parts, keys: parts.map((p) => p.expr), text };
}

/** The same for places of both kinds: at an instruction, and where a function returns. */
export function parseWhens(options: WhenOptions, specs: readonly ProbeSpec[]): Whens {
  const places = specs.filter((s) => !s.isReturn);
  const here = places.length > 0 ? parseWhen(options, 'entry') : undefined;
  const atReturn = places.length < specs.length ? parseWhen(options, 'return') : undefined;
  return { here, atReturn, parts: (here ?? atReturn)?.parts ?? [] };
}

/** True or false, or a whole number that is not 0. */
export function parseCondition(text: string, moment: Moment): Expr {
  return inOption('--if', () => {
    const expr = parseExpression(text, moment);
    if (expr.type === 'bool') return expr;
    if (!isInt(expr.type))
      throw wrong('a condition is needed: compare with something, as in arg0 > 100', text);
    const zero: Expr = { op: 'int', type: expr.type === 'u64' ? 'u64' : 'i64', value: 0n };
    return { op: 'compare', type: 'bool', operator: '!=', left: expr, right: zero };
  });
}

function parseKeys(text: string, moment: Moment): KeyPart[] {
  return inOption('--by', () =>
    parseArgsList(text, moment).map(({ name, expr }) => {
      const field = fieldOf(expr);
      if (field === undefined)
        throw wrong(`results can be kept apart by whole numbers, conditions and strings: write i64(…)`, text);
      return { name, kind: kindOf(expr), isCgroup: expr.op === 'cgroup', ...field };
    }),
  );
}

/** What a histogram counts. */
export function parseValue(text: string, moment: Moment): Expr {
  return inOption('EXPR', () => {
    const expr = parseExpression(text, moment);
    if (isInt(expr.type)) return expr;
    const instead =
      expr.type === 'f64' ? ': write i64(…)' : expr.type === 'bool' ? '; for a condition there is --if' : '';
    throw wrong(`a histogram counts whole numbers${instead}`, text);
  });
}

const wrong = (problem: string, text: string): ExpressionError =>
  new ExpressionError(problem, text, 0, text.length);

export function inOption<T>(option: string, parse: () => T): T {
  try {
    return parse();
  } catch (e) {
    if (e instanceof ExpressionError) throw new UsageError(`${option}: ${e.messageFor(terminalColumns())}`);
    throw e;
  }
}
