/** `trace` where hits are not handled here: as events, which an engine collects. Loaded only for that. */
import { events, string } from '../index.js';
import type { Events, FieldType } from '../index.js';
import type { Expr, Program } from '../handler/ir.js';
import { COMM_BYTES } from '../handler/ir.js';
import type { ShownHit, ShownValue } from '../outputs/trace-line.js';
import { fieldOf } from './fields.js';
import type { FieldExpr } from './fields.js';
import { checkForKernel } from './measure.js';
import { conditional, programAt } from './programs.js';
import type { TraceWords } from './trace-args.js';
import { UsageError } from './usage-error.js';

const WHO: readonly (readonly [string, FieldType, Expr])[] = [
  ['uprobe', 'u64', { op: 'uprobe', type: 'u64' }],
  ['time', 'u64', { op: 'time', type: 'u64' }],
  ['pid', 'u32', { op: 'of', type: 'u32', what: 'pid' }],
  ['tid', 'u32', { op: 'of', type: 'u32', what: 'tid' }],
  ['comm', string(COMM_BYTES), { op: 'comm', type: 'string' }],
];
const RETURNED: readonly (readonly [string, FieldType, Expr])[] = [
  ['returnValue', 'u64', { op: 'retval', type: 'u64' }],
  ['duration', 'u64', { op: 'duration', type: 'u64' }],
];
/** An event has 64 fields (`EventsShape`). */
const MOST_ARGS = 64 - WHO.length - RETURNED.length;

type Values = Readonly<Record<string, ShownValue>>;

/** One kind of line, whatever the place. */
export class TraceEvents {
  readonly program: Program;
  readonly #events: Events<Record<string, FieldType>>;
  readonly #fields: readonly FieldExpr[];

  constructor({ args, condition, text }: TraceWords, moment: 'pre' | 'return') {
    checkForKernel([...args.map((a) => a.expr), ...(condition === undefined ? [] : [condition])]);
    if (args.length > MOST_ARGS)
      throw new UsageError(`--args: the kernel engine takes ${MOST_ARGS}, and these are ${args.length}`);
    this.#fields = args.map(({ name, expr }) => fieldOf(expr) ?? notInKernel(name));
    const fields = [
      ...WHO,
      ...(moment === 'return' ? RETURNED : []),
      ...this.#fields.map(({ type, expr }, i) => [`arg${i}`, type, expr] as const),
    ];
    this.#events = events(Object.fromEntries(fields.map(([name, type]) => [name, type])));
    const at = { start: 0, end: text.length };
    const body = [{ do: 'emit', at, aggregate: 0, fields: fields.map(([, , expr]) => expr) }] as const;
    this.program = programAt(moment, {
      aggregates: [this.#events],
      body: conditional({ condition, keys: [], text }, body),
      text,
    });
  }

  /** From now on; those that were there before come at once. */
  listen(hit: (uprobe: bigint, hit: ShownHit, values: readonly ShownValue[]) => void): void {
    this.#events.listen((event: Values) => {
      const values = this.#fields.map((field, i) => field.shown(event[`arg${i}`]));
      hit(event['uprobe'] as bigint, event as unknown as ShownHit, values);
    });
  }

  /** Hits for which there was no room on the way. */
  get lost(): number {
    return this.#events.lost;
  }
}

function notInKernel(name: string): never {
  throw new UsageError(
    `--args: ${name} is shown as bytes, which the kernel engine does not read: use str(…) or read(…), or --engine trap ` +
      'with -p PID, --tree PID or a command after --',
  );
}
