import { escapeText } from '../base/escape.js';
import { SpecError } from '../base/errors.js';

/** More than this of a long expression is not repeated in a message. */
const SHOWN = 160;

/** What is wrong with an expression, with the expression and a caret line under the wrong spot. */
export class ExpressionError extends SpecError {
  /** What is wrong and what to write, without the picture. */
  readonly problem: string;
  /** Where in the text, in UTF-16 code units. */
  readonly start: number;
  readonly end: number;
  constructor(problem: string, text: string, start: number, end: number) {
    super('bad-expression', `${problem}\n${picture(text, start, end)}`);
    this.problem = problem;
    this.start = start;
    this.end = end;
  }
}

function picture(text: string, start: number, end: number): string {
  const from = Math.max(0, start - SHOWN / 2);
  const to = Math.min(text.length, from + SHOWN);
  const before = (from > 0 ? '…' : '') + escapeText(text.slice(from, start));
  const line = before + escapeText(text.slice(start, to)) + (to < text.length ? '…' : '');
  const length = Math.max(1, escapeText(text.slice(start, Math.min(end, to))).length);
  return `  ${line}\n  ${' '.repeat(before.length)}${'^'.repeat(length)}`;
}
