/**
 * The expression language of the whole tool: a small, typed subset of JavaScript over the registers, arguments and
 * memory of a hit. docs/expressions.md is its definition for people.
 */
import { parse } from 'acorn';
import type { Node } from 'acorn';
import { ExpressionError, shortened } from './expression-error.js';
import { Checker } from './expression-check.js';
import type { Moment } from './expression-check.js';
import { evaluator } from './expression-evaluate.js';
import type { Evaluate, ExpressionHit, Value } from './expression-evaluate.js';
import type { Report } from './expression-numbers.js';
import type { Expr } from './ir.js';

export { ExpressionError };
export type { Evaluate, Expr, ExpressionHit, Moment, Value };

/** One entry of an argument list. */
export interface NamedExpression {
  readonly name: string;
  readonly expr: Expr;
}

/** Far more than anybody types; keeps the parser's recursion and the tree bounded. */
const MAX_TEXT = 4000;

/** Parse and check one expression. Throws ExpressionError. */
export function parseExpression(text: string, moment: Moment = 'entry'): Expr {
  checkLength(text);
  return parsePiece(text, 0, text.length, moment);
}

/**
 * Parse a list such as `fd=arg0, path=str(arg1), arg2`. An entry without a name has its own text as name.
 * Throws ExpressionError.
 */
export function parseArgsList(text: string, moment: Moment = 'entry'): NamedExpression[] {
  checkLength(text);
  const named: NamedExpression[] = [];
  const names = new Set<string>();
  for (const [start, end] of pieces(text)) {
    const label = /^\s*([A-Za-z_$][\w$]*)\s*=(?![=])/.exec(text.slice(start, end));
    const from = start + (label?.[0].length ?? 0);
    const name = label?.[1] ?? text.slice(start, end).trim();
    if (text.slice(from, end).trim() === '') {
      throw new ExpressionError('an expression is missing here', text, from, Math.max(end, from + 1));
    }
    const expr = parsePiece(text, from, end, moment);
    if (names.has(name))
      throw new ExpressionError(`a second argument is called ${shortened(name)}`, text, start, end);
    names.add(name);
    named.push({ name, expr });
  }
  return named;
}

/** The checked expression as a closure; the fastest form there is here. */
export const compileExpression = (expr: Expr): Evaluate => evaluator(expr);

function checkLength(text: string): void {
  if (text.length <= MAX_TEXT) return;
  throw new ExpressionError(
    `an expression can have ${MAX_TEXT} characters, and this has ${text.length}`,
    text,
    0,
    1,
  );
}

/** The stretches between commas that stand outside brackets and strings. */
function pieces(text: string): [number, number][] {
  const found: [number, number][] = [];
  let depth = 0;
  let start = 0;
  for (let i = 0; i < text.length; i++) {
    const char = text.charAt(i);
    if (char === '"' || char === "'" || char === '`') i = endOfString(text, i);
    else if ('([{'.includes(char)) depth++;
    else if (')]}'.includes(char)) depth--;
    else if (char === ',' && depth === 0) {
      found.push([start, i]);
      start = i + 1;
    }
  }
  found.push([start, text.length]);
  return found;
}

/** Where the string that begins here ends; the end of the text when it does not. */
function endOfString(text: string, start: number): number {
  for (let i = start + 1; i < text.length; i++) {
    if (text.charAt(i) === '\\') i++;
    else if (text.charAt(i) === text.charAt(start)) return i;
  }
  return text.length;
}

function parsePiece(text: string, from: number, to: number, moment: Moment): Expr {
  const report: Report = {
    fail(node, problem) {
      throw new ExpressionError(problem, text, from + node.start, from + node.end);
    },
    source(node) {
      return shortened(text.slice(from + node.start, from + node.end));
    },
  };
  try {
    return new Checker(report, moment).whole(syntaxOf(text, from, to));
  } catch (e) {
    // Thousands of brackets: acorn and the checker go down one call for each.
    if (e instanceof RangeError) throw new ExpressionError('this is nested too deeply', text, from, to);
    throw e;
  }
}

function syntaxOf(text: string, from: number, to: number): Node {
  const source = text.slice(from, to);
  let body: readonly Node[];
  try {
    // A module: neither HTML comments nor octal numbers with a leading 0.
    body = parse(source, { ecmaVersion: 2022, sourceType: 'module' }).body;
  } catch (e) {
    throw syntaxError(e, text, from, to);
  }
  const [statement, another] = body;
  if (statement === undefined) throw new ExpressionError('an expression is missing here', text, from, to);
  if (statement.type !== 'ExpressionStatement' || source.charAt(statement.end - 1) === ';') {
    throw new ExpressionError(
      'an expression is needed here',
      text,
      from + statement.start,
      from + statement.end,
    );
  }
  if (another !== undefined) {
    throw new ExpressionError('this is a second expression', text, from + another.start, from + another.end);
  }
  return (statement as Node & { expression: Node }).expression;
}

/** acorn's own words, without its line and column; it says where by `pos`. */
function syntaxError(e: unknown, text: string, from: number, to: number): unknown {
  if (!(e instanceof SyntaxError)) return e;
  const { pos } = e as SyntaxError & { pos?: number };
  const at = Math.min(from + (pos ?? 0), to);
  const missing = at >= to || text.slice(at, to).trim() === '';
  const problem = missing
    ? 'the expression ends too early'
    : e.message.replace(/ \(\d+:\d+\)$/, '').toLowerCase();
  return new ExpressionError(problem, text, at, at + 1);
}
