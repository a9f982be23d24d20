/** Aggregates that keep what handlers ask of them, call by call. */
import type { Aggregate } from '#uprobe/handler/shapes.js';

/** Numbers and bigints mean the same to aggregates. */
const plain = (value: unknown): unknown => (typeof value === 'number' ? BigInt(value) : value);

/** The shape of an aggregate, with methods that write down their arguments, behind its name if it has one. */
export function recorder(of: Aggregate, calls: unknown[], ...name: readonly string[]): Aggregate {
  const add =
    (key: unknown[]) =>
    (...values: unknown[]) =>
      calls.push([...name, ...key, ...(values.length === 0 ? [1n] : values.map(plain))]);
  return Object.assign(Object.create(of) as Aggregate, {
    add: add([]),
    at: (...key: unknown[]) => ({ add: add([key.map(plain)]) }),
    emit: (fields: Record<string, unknown>) => {
      const event = Object.entries(fields).map(([field, value]) => [field, plain(value)] as const);
      calls.push([...name, Object.fromEntries(event)]);
    },
  });
}
