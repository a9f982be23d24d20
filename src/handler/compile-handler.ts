/** From a function to its program. */
import type { AnyNode } from 'acorn';
import { SpecError } from '../base/errors.js';
import { CompileError } from './compile-error.js';
import type { Compiled } from './compiled-handler.js';
import { programOf, withProgram } from './compiled-handler.js';
import { shortened } from './expression-error.js';
import { syntaxOf } from './handler-text.js';
import type { HandlerSyntax } from './handler-text.js';
import type { Program, ProgramMoment } from './ir.js';
import type { Locals } from './lower-statements.js';
import { HandlerStatements } from './lower-statements.js';
import type { Report } from './lower-values.js';

const FORM = 'compiled({ scope: { … } }, (hit, scope) => { … })';

export type ScopeValues = Readonly<Record<string, unknown>>;

/**
 * The handler with its scope bound to it: a function of the hit, and a program. Throws CompileError where it could run at
 * no moment.
 * @param where the place of the call, for messages
 */
export function compileHandler<H, S extends ScopeValues, R>(
  handler: (hit: H, scope: S) => R,
  scope: S,
  where?: string,
): Compiled<(hit: H) => R> {
  if (typeof handler !== 'function')
    throw new SpecError('bad-handler', `compiled takes a function: ${FORM}, not ${typeof handler}`);
  if (typeof scope !== 'object' || scope === null)
    throw new SpecError('bad-handler', `the scope is an object: ${FORM}`);
  // A copy: what it is compiled with is what it runs with.
  const kept = Object.freeze({ ...scope });
  const text = Function.prototype.toString.call(handler);
  const syntax = syntaxOf(text, where);
  const made = withProgram(
    (hit: H) => handler(hit, kept),
    (moment) => lower(syntax, text, kept, moment, where),
  );
  requireSome(['pre', 'return'], (moment) => programOf(made, moment));
  return made;
}

/** At one of the moments it must be possible; else the error that they have in common tells most. */
function requireSome(moments: readonly ProgramMoment[], attempt: (moment: ProgramMoment) => unknown): void {
  const errors: unknown[] = [];
  for (const moment of moments) {
    try {
      attempt(moment);
      return;
    } catch (e) {
      errors.push(e);
    }
  }
  throw errors.find((e) => !(e instanceof CompileError && e.ofMoment)) ?? errors[0];
}

/** Compile a text. Throws CompileError. */
export const lowerText = (text: string, scope: ScopeValues, moment: ProgramMoment, where?: string): Program =>
  lower(syntaxOf(text, where), text, scope, moment, where);

function lower(
  { params, body }: HandlerSyntax,
  text: string,
  scope: ScopeValues,
  moment: ProgramMoment,
  where: string | undefined,
): Program {
  const report = reporter(text, where);
  const locals: Locals = new Map();
  // Twice: a variable's type is known when all that is put into it has been seen.
  new HandlerStatements(report, moment, scope, locals, false).whole(params, body);
  const last = new HandlerStatements(report, moment, scope, locals, true);
  const statements = last.whole(params, body);
  return { moment, locals: last.types, aggregates: last.aggregates, body: statements, absent: 'error', text };
}

function reporter(text: string, where: string | undefined): Report {
  const failed = (node: AnyNode, problem: string, ofMoment: boolean): CompileError =>
    new CompileError(problem, text, node.start, node.end, { where, ofMoment });
  return {
    fail(node, problem) {
      throw failed(node, problem, false);
    },
    failHere(node, problem) {
      throw failed(node, problem, true);
    },
    source: (node) => shortened(text.slice(node.start, node.end).replaceAll(/\s+/g, ' ')),
  };
}
