/** A handler with its text: a function like any other to call, and a program to compile. */
import type { Program, ProgramMoment } from './ir.js';

const PROGRAM = Symbol('uprobe.program');

/** What `compiled` returns. Called, it does what its text says; engines that can run its program instead do so. */
export type Compiled<F> = F & {
  /** Its program for one moment. Throws CompileError where the text means something that is not there then. */
  readonly [PROGRAM]: (moment: ProgramMoment) => Program;
};

/** Mark a function as compiled: `programOf` will return what `lower` makes, once for each moment. */
export function withProgram<F extends (...args: never[]) => unknown>(
  plain: F,
  lower: (moment: ProgramMoment) => Program,
): Compiled<F> {
  const known = new Map<ProgramMoment, Program>();
  const program = (moment: ProgramMoment): Program => {
    let made = known.get(moment);
    if (made === undefined) known.set(moment, (made = lower(moment)));
    return made;
  };
  return Object.defineProperty(plain, PROGRAM, { value: program }) as Compiled<F>;
}

/** The program of a handler, undefined where it is a plain one. */
export function programOf(handler: unknown, moment: ProgramMoment): Program | undefined {
  if (typeof handler !== 'function' || !(PROGRAM in handler)) return undefined;
  return (handler as Compiled<() => unknown>)[PROGRAM](moment);
}
