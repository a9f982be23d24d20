/** The handlers of count, hist, latency and top: programs that add to tables, the same for every place. */
import { table } from '../index.js';
import type { Table, TableCell } from '../index.js';
import { handlerOf } from '../handler/interpret.js';
import type { Expr, Program, ProgramMoment, Span, Statement } from '../handler/ir.js';
import type { KeyPart } from './fields.js';
import type { Handlers } from './places.js';

/** Where no expression says when or by what. */
export interface When {
  readonly condition: Expr | undefined;
  readonly keys: readonly Expr[];
  /** What the condition and the keys were written as, for messages. */
  readonly text: string;
}
export const ALWAYS: When = { condition: undefined, keys: [], text: '' };

export const ONE: Expr = { op: 'int', type: 'u64', value: 1n };
export const DURATION: Expr = { op: 'duration', type: 'u64' };
const UPROBE: Expr = { op: 'uprobe', type: 'u64' };

/** Keys are a uprobe and the values of --by. */
export type Grouped<C extends TableCell = TableCell> = Table<readonly ['u64', ...KeyPart['type'][]], C>;

export const groupedTable = <C extends TableCell>(
  keys: readonly KeyPart[],
  value: () => C,
  capacity: number,
): Grouped<C> => table({ key: ['u64', ...keys.map((k) => k.type)] as const, value, capacity });

/** A table, and what is added to it. */
export interface Adding {
  readonly to: Grouped;
  readonly value: Expr;
}

/** Adds to tables at every hit for which the condition holds. */
export function addingHandlers(moment: ProgramMoment, when: When, adding: readonly Adding[]): Handlers {
  const at: Span = { start: 0, end: when.text.length };
  const body = adding.map<Statement>(({ value }, aggregate) => ({
    do: 'add',
    at,
    aggregate,
    key: [UPROBE, ...when.keys],
    value,
  }));
  const aggregates = adding.map((a) => a.to);
  return handlersAt(moment, { aggregates, body: conditional(when, body), text: when.text });
}

/** `body`, where the condition holds. */
export function conditional({ condition, text }: When, body: readonly Statement[]): readonly Statement[] {
  if (condition === undefined) return body;
  return [{ do: 'if', at: { start: 0, end: text.length }, condition, yes: body, no: [] }];
}

/** A whole program of ours: what cannot be read is left out. */
export const programAt = (
  moment: ProgramMoment,
  rest: Pick<Program, 'aggregates' | 'body' | 'text'>,
): Program => ({ moment, locals: [], absent: 'skip', ...rest });

function handlersAt(moment: ProgramMoment, rest: Pick<Program, 'aggregates' | 'body' | 'text'>): Handlers {
  const handler = handlerOf(programAt(moment, rest));
  if (moment === 'pre') return { preHandler: handler };
  return { returnHandler: handler };
}

/** To have hits seen, and no more: whoever runs it counts them. */
export const doingNothing = (moment: ProgramMoment): Handlers =>
  handlersAt(moment, { aggregates: [], body: [], text: '' });
