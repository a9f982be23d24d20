import { excerpt } from '../base/excerpt.js';
import { SpecError } from '../base/errors.js';

/** The width of a terminal of which nothing is known. */
const COLUMNS = 100;

/** What cannot be compiled of a handler, and what to write; with the line, a caret line, and where the handler is. */
export class CompileError extends SpecError {
  /** What is wrong and what to write, without the picture. */
  readonly problem: string;
  /** Where in the handler's text, in UTF-16 code units. */
  readonly start: number;
  readonly end: number;
  /** The line of the handler's text, from 1. */
  readonly line: number;
  /** It means something that is not there where the handler would run; elsewhere it may be. */
  readonly ofMoment: boolean;
  constructor(
    problem: string,
    text: string,
    start: number,
    end: number,
    { where, ofMoment = false }: { where?: string | undefined; ofMoment?: boolean } = {},
  ) {
    const before = text.slice(0, start).split('\n');
    const line = before.length;
    super('bad-handler', `${problem}\n${picture(text, start, end, line)}${placed(line, where)}`);
    this.problem = problem;
    this.start = start;
    this.end = end;
    this.line = line;
    this.ofMoment = ofMoment;
  }
}

function picture(text: string, start: number, end: number, line: number): string {
  const begin = text.lastIndexOf('\n', start - 1) + 1;
  const stop = text.indexOf('\n', start);
  const whole = text.slice(begin, stop < 0 ? text.length : stop);
  const indent = whole.length - whole.trimStart().length;
  const margin = `${line} | `;
  const from = Math.max(0, start - begin - indent);
  const [shown, carets] = excerpt(
    whole.trim(),
    from,
    Math.max(from + 1, end - begin - indent),
    COLUMNS - margin.length - 2,
  );
  return `  ${margin}${shown}\n  ${' '.repeat(margin.length)}${carets}`;
}

const placed = (line: number, where: string | undefined): string =>
  where === undefined ? '' : `\n  line ${line} of the handler that is compiled at ${where}`;
