/**
 * A program as a closure: what the statements of the intermediate representation mean. Expressions are `expression-evaluate.ts`'s.
 */
import { UprobeError } from '../base/errors.js';
import type { Compiled } from './compiled-handler.js';
import { withProgram } from './compiled-handler.js';
import type { ExpressionHit, Frame, Value } from './expression-evaluate.js';
import { evaluator } from './expression-evaluate.js';
import type { Expr, Program, Register, Statement, Verdict } from './ir.js';
import { wrap } from './ir.js';
import type { Aggregate } from './shapes.js';

/** What a program reads and writes of a hit. A handler's hit fits. */
export interface ProgramHit extends ExpressionHit {
  regs: { [R in Register]: bigint };
  call?: unknown;
}

/** The methods of aggregates, whichever they are. */
interface Target extends Aggregate {
  add(value: unknown): void;
  at(...key: readonly unknown[]): { add(value: unknown): void };
  emit(fields: Readonly<Record<string, unknown>>): void;
}

/** How a statement ends where the next one is not what follows. */
type Exit = 'break' | 'continue' | { readonly verdict: Verdict | undefined };
type Step = (hit: ProgramHit, frame: Frame) => Exit | undefined;

export type Interpreted = (hit: ProgramHit) => Verdict | undefined;

/** The program as a function of a hit, which adds to the program's own aggregates. */
export function interpreter(program: Program): Interpreted {
  const run = new Interpreter(program).block(program.body);
  const throws = program.absent === 'error';
  return (hit) => {
    const exit = run(hit, { locals: [], throws });
    return typeof exit === 'object' ? exit.verdict : undefined;
  };
}

/**
 * A handler that was never a function of somebody's: it runs its program, and engines that can run it themselves find it. `V`: the
 * verdicts that its statements have.
 */
export const handlerOf = <V extends Verdict = 'remove'>(
  program: Program,
): Compiled<(hit: ProgramHit) => V | undefined> =>
  withProgram(interpreter(program) as (hit: ProgramHit) => V | undefined, () => program);

class Interpreter {
  readonly #program: Program;
  readonly #aggregates: readonly Target[];
  constructor(program: Program) {
    this.#program = program;
    this.#aggregates = program.aggregates as readonly Target[];
  }

  block(statements: readonly Statement[]): Step {
    const steps = statements.map((s) => this.#step(s));
    return (hit, frame) => {
      for (const step of steps) {
        const exit = step(hit, frame);
        if (exit !== undefined) return exit;
      }
      return undefined;
    };
  }

  #step(s: Statement): Step {
    switch (s.do) {
      case 'set': {
        const value = evaluator(s.value);
        return (hit, frame) => void (frame.locals[s.local] = value(hit, frame));
      }
      case 'if': {
        const condition = evaluator(s.condition);
        const [yes, no] = [this.block(s.yes), this.block(s.no)];
        return (hit, frame) => {
          const chosen = condition(hit, frame);
          if (chosen === undefined) return undefined;
          return chosen === true ? yes(hit, frame) : no(hit, frame);
        };
      }
      case 'loop':
        return this.#loop(s);
      case 'break':
      case 'continue':
        return () => s.do;
      case 'leave': {
        const exit = { verdict: s.verdict };
        return () => exit;
      }
      case 'setRegister':
        return this.#with([s.value], s, (hit, [value]) => {
          hit.regs[s.name] = wrap('u64', value as bigint);
        });
      case 'setCall':
        return this.#with([s.value], s, (hit, [value]) => {
          hit.call = wrap('u64', value as bigint);
        });
      case 'add': {
        const target = this.#aggregates[s.aggregate]!;
        if (s.key.length === 0) return this.#with([s.value], s, (_hit, [value]) => target.add(value));
        return this.#with([...s.key, s.value], s, (_hit, key) => {
          const value = key.pop();
          target.at(...key).add(value);
        });
      }
      case 'emit':
        return this.#emit(s);
    }
  }

  /** Do something with values that must be there. */
  #with(exprs: readonly Expr[], s: Statement, act: (hit: ProgramHit, values: Value[]) => void): Step {
    const parts = exprs.map((e) => evaluator(e));
    const { absent, text } = this.#program;
    return (hit, frame) => {
      const values = parts.map((part) => part(hit, frame));
      if (!values.includes(undefined)) act(hit, values);
      else if (absent === 'error') {
        throw new UprobeError('no-value', `there is no value for ${text.slice(s.at.start, s.at.end)}`);
      }
      return undefined;
    };
  }

  #emit(s: Extract<Statement, { do: 'emit' }>): Step {
    const target = this.#aggregates[s.aggregate]!;
    if (target.shape.kind !== 'events') throw new TypeError('events alone are emitted');
    const names = target.shape.fields.map((f) => f.name);
    const parts = s.fields.map((e) => evaluator(e));
    return (hit, frame) => {
      target.emit(Object.fromEntries(parts.map((part, i) => [names[i]!, part(hit, frame)])));
      return undefined;
    };
  }

  #loop(s: Extract<Statement, { do: 'loop' }>): Step {
    const from = evaluator(s.from);
    const to = evaluator(s.to);
    const body = this.block(s.body);
    return (hit, frame) => {
      const first = from(hit, frame);
      if (first === undefined) return undefined;
      let at = first as bigint;
      for (let round = 0; round < s.most; round++, at += s.step) {
        frame.locals[s.local] = at;
        const end = to(hit, frame);
        if (end === undefined || at >= (end as bigint)) return undefined;
        const exit = body(hit, frame);
        if (exit === 'break') return undefined;
        if (exit !== undefined && exit !== 'continue') return exit;
      }
      return undefined;
    };
  }
}
