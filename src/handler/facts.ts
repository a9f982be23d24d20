/** What is known at one point of a handler: of its variables, and of what a hit says each time the same. */
import type { ComparisonOperator } from './ir.js';
import type { Range } from './ranges.js';
import { common, joined, range } from './ranges.js';

export interface Fact {
  /** Of a whole number. */
  readonly range: Range | undefined;
  /** It is not 0, although its range may have 0 in it. */
  readonly nonzero: boolean;
  /** It may be undefined. */
  readonly optional: boolean;
}

/** By the key of what they are about. Undefined in place of facts: this point is never reached. */
export type Facts = ReadonlyMap<string, Fact>;

export function having(facts: Facts, key: string, fact: Fact): Facts {
  return new Map(facts).set(key, fact);
}

export function without(facts: Facts, dropped: (key: string) => boolean): Facts {
  return new Map([...facts].filter(([key]) => !dropped(key)));
}

/** What holds whichever of two ways was taken. */
export function either(a: Facts | undefined, b: Facts | undefined): Facts | undefined {
  if (a === undefined || b === undefined) return a ?? b;
  const both = new Map<string, Fact>();
  for (const [key, one] of a) {
    const other = b.get(key);
    if (other !== undefined) both.set(key, eitherFact(one, other));
  }
  return both;
}

function eitherFact(a: Fact, b: Fact): Fact {
  return {
    range: a.range && b.range ? joined(a.range, b.range) : undefined,
    nonzero: isNonzero(a) && isNonzero(b),
    optional: a.optional || b.optional,
  };
}

export function sameFacts(a: Facts | undefined, b: Facts | undefined): boolean {
  if (a === undefined || b === undefined || a.size !== b.size) return a === b;
  return [...a].every(([key, one]) => {
    const other = b.get(key);
    return (
      other !== undefined &&
      one.range?.lo === other.range?.lo &&
      one.range?.hi === other.range?.hi &&
      one.nonzero === other.nonzero &&
      one.optional === other.optional
    );
  });
}

/** More than any operation on 64 bits gives: nothing is known any more. */
const ANYTHING = range(-(1n << 200n), 1n << 200n);

/** After too many rounds to follow one by one: what has changed in the last round may become anything. */
export function widened(before: Facts, after: Facts): Facts {
  return new Map(
    [...after].map(([key, fact]) => {
      const old = before.get(key);
      const stays = old?.range?.lo === fact.range?.lo && old?.range?.hi === fact.range?.hi;
      return [key, stays ? fact : { ...fact, range: fact.range && ANYTHING, nonzero: false }];
    }),
  );
}

export const isNonzero = (fact: { readonly range: Range | undefined; readonly nonzero: boolean }): boolean =>
  fact.nonzero || (fact.range !== undefined && (fact.range.lo > 0n || fact.range.hi < 0n));

const NEGATED = { '==': '!=', '!=': '==', '<': '>=', '<=': '>', '>': '<=', '>=': '<' } as const;
const MIRRORED = { '==': '==', '!=': '!=', '<': '>', '<=': '>=', '>': '<', '>=': '<=' } as const;
export const negated = (operator: ComparisonOperator): ComparisonOperator => NEGATED[operator];
export const mirrored = (operator: ComparisonOperator): ComparisonOperator => MIRRORED[operator];

/** What is left of a number's range when the comparison with another holds; undefined: it cannot. */
export function narrowed(
  operator: ComparisonOperator,
  of: { readonly range: Range; readonly nonzero: boolean },
  other: Range,
): { readonly range: Range; readonly nonzero: boolean } | undefined {
  const { lo, hi } = of.range;
  switch (operator) {
    case '==':
      return trimmed(common(of.range, other), of.nonzero);
    case '<':
      return trimmed(common(of.range, range(lo, other.hi - 1n)), of.nonzero);
    case '<=':
      return trimmed(common(of.range, range(lo, other.hi)), of.nonzero);
    case '>':
      return trimmed(common(of.range, range(other.lo + 1n, hi)), of.nonzero);
    case '>=':
      return trimmed(common(of.range, range(other.lo, hi)), of.nonzero);
    case '!=': {
      if (other.lo !== other.hi) return of;
      const from = lo === other.lo ? lo + 1n : lo;
      const to = hi === other.lo ? hi - 1n : hi;
      return from > to ? undefined : trimmed(range(from, to), of.nonzero || other.lo === 0n);
    }
  }
}

/** A number that is not 0 does not begin or end there. */
function trimmed(
  of: Range | undefined,
  nonzero: boolean,
): { readonly range: Range; readonly nonzero: boolean } | undefined {
  if (of === undefined || !nonzero) return of && { range: of, nonzero };
  const from = of.lo === 0n ? 1n : of.lo;
  const to = of.hi === 0n ? -1n : of.hi;
  return from > to ? undefined : { range: range(from, to), nonzero };
}
