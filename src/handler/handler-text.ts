/** A function's own text, and its syntax tree. */
import { parseExpressionAt } from 'acorn';
import type { AnyNode, ArrowFunctionExpression, FunctionExpression } from 'acorn';
import { CompileError } from './compile-error.js';

/** Far more than a handler has; keeps the parser and what follows bounded. */
const MAX_TEXT = 100_000;

export type HandlerSyntax = ArrowFunctionExpression | FunctionExpression;

const ARROW = 'write an arrow function: (hit, scope) => { … }';

/** Parse a function's text. Throws CompileError. */
export function syntaxOf(text: string, where: string | undefined): HandlerSyntax {
  const fail = (problem: string, start: number, end: number): never => {
    throw new CompileError(problem, text, start, end, { where });
  };
  const head = Math.min(text.length, text.indexOf('\n') < 0 ? text.length : text.indexOf('\n'));
  if (/\{\s*\[native code\]\s*\}\s*$/.test(text))
    return fail(`a bound or native function has no text that could be compiled: ${ARROW}`, 0, head);
  if (text.length > MAX_TEXT)
    return fail(`a handler can have ${MAX_TEXT} characters, and this has ${text.length}`, 0, head);
  let node: AnyNode;
  try {
    node = parseExpressionAt(text, 0, { ecmaVersion: 'latest', sourceType: 'module' });
  } catch (e) {
    if (e instanceof RangeError) return fail('this is nested too deeply', 0, head);
    if (!(e instanceof SyntaxError)) throw e;
    // Methods are written so that they are no expressions.
    return fail(`this is a method, or no function: ${ARROW}`, 0, head);
  }
  if (node.type === 'ClassExpression') return fail(`a class is no handler: ${ARROW}`, 0, head);
  if (
    (node.type !== 'ArrowFunctionExpression' && node.type !== 'FunctionExpression') ||
    text.slice(node.end).trim() !== ''
  )
    return fail(`this is a method, or no function: ${ARROW}`, 0, head);
  if (node.async) return fail(`a handler is synchronous: leave async out`, 0, head);
  if (node.generator) return fail(`a generator is no handler: ${ARROW}`, 0, head);
  return node;
}
