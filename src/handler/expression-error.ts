import { excerpt } from '../base/excerpt.js';
import { SpecError } from '../base/errors.js';

/** The width of a terminal of which nothing is known. */
const COLUMNS = 80;
/** More of a long name or number is not repeated in a message. */
const LONGEST = 40;

/** What is wrong with an expression, with the expression and a caret line under the wrong spot. */
export class ExpressionError extends SpecError {
  /** What is wrong and what to write, without the picture. */
  readonly problem: string;
  /** Where in the text, in UTF-16 code units. */
  readonly start: number;
  readonly end: number;
  readonly #text: string;
  constructor(problem: string, text: string, start: number, end: number) {
    super('bad-expression', `${problem}\n${picture(text, start, end, COLUMNS)}`);
    this.problem = problem;
    this.start = start;
    this.end = end;
    this.#text = text;
  }

  /** The message for a terminal of so many columns. */
  messageFor(columns: number): string {
    return `${this.problem}\n${picture(this.#text, this.start, this.end, columns)}`;
  }
}

/** A piece of the user's text within a sentence. */
export const shortened = (text: string): string =>
  text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text;

const picture = (text: string, start: number, end: number, columns: number): string =>
  excerpt(text, start, end, columns - 2)
    .map((line) => `  ${line}`)
    .join('\n');
