/** How often each place was hit: for `count` and `top --counts`. */
import { counter } from '../index.js';
import type { Counter } from '../index.js';
import type { Expr } from '../handler/ir.js';
import type { ShownValue } from '../outputs/trace-line.js';
import type { ArmedPlace } from './arm.js';
import { Keys, groupsOf } from './groups.js';
import { overflowText } from './measure.js';
import type { Handlers } from './places.js';
import type { ProbeSpec } from './probe-spec.js';
import { ALWAYS, ONE, addingHandlers, doingNothing, groupedTable } from './programs.js';
import type { Grouped, When } from './programs.js';
import type { WhenOptions, Whens } from './when.js';

/** How many keys --by may have; one takes some hundred bytes. */
const MOST_KEYS = 65_536;

export interface Counted {
  readonly place: ArmedPlace;
  readonly key: readonly ShownValue[];
  readonly hits: bigint;
}

export interface Counting {
  readonly exprs: readonly Expr[];
  handlers(isReturn: boolean): Handlers;
  /** With --by a row for each key that was there, else for each place. */
  rows(places: readonly ArmedPlace[]): Counted[];
  /** The titles of the keys' columns. */
  readonly titles: readonly string[];
  keys(rows: readonly Counted[]): Keys;
  /** What was lost. */
  remark(): string | undefined;
}

export async function countingOf(options: WhenOptions, specs: readonly ProbeSpec[]): Promise<Counting> {
  if (options.if === undefined && options.by === undefined) return new ByPlace();
  // The parser costs more time than the rest of a start: only who needs it loads it.
  const { parseWhens } = await import('./when.js');
  return new ByKey(parseWhens(options, specs), options.by !== undefined);
}

const NONE: Handlers = {};

/** The engine counts arrivals by itself, at the lowest cost; returns are shown to it. */
class ByPlace implements Counting {
  readonly exprs = [];
  readonly titles = [];
  #returns: Handlers | undefined;

  handlers(isReturn: boolean): Handlers {
    return isReturn ? (this.#returns ??= doingNothing('return')) : NONE;
  }
  rows(places: readonly ArmedPlace[]): Counted[] {
    return places.map((place) => ({ place, key: [], hits: hitsOf(place) }));
  }
  keys(): Keys {
    return new Keys([], []);
  }
  remark(): undefined {}
}

/** What an ifunc may stand for is one probe, and so is one place in several trees of processes: all together. */
const hitsOf = ({ uprobes }: ArmedPlace): bigint => uprobes.reduce((sum, u) => sum + u.nhits, 0n);

class ByKey implements Counting {
  readonly exprs: readonly Expr[];
  readonly titles: readonly string[];
  readonly #whens: Whens;
  readonly #isGrouped: boolean;
  readonly #table: Grouped<Counter>;
  readonly #handlers: { readonly here: Handlers; readonly atReturn: Handlers };

  constructor(whens: Whens, isGrouped: boolean) {
    const { here = ALWAYS, atReturn = ALWAYS, parts } = whens;
    this.#whens = whens;
    this.#isGrouped = isGrouped;
    this.titles = parts.map((p) => p.name.toUpperCase());
    this.exprs = [here, atReturn].flatMap(exprsOf);
    this.#table = groupedTable(parts, counter, MOST_KEYS);
    const adding = [{ to: this.#table, value: ONE }];
    this.#handlers = {
      here: addingHandlers('pre', here, adding),
      atReturn: addingHandlers('return', atReturn, adding),
    };
  }

  handlers(isReturn: boolean): Handlers {
    return isReturn ? this.#handlers.atReturn : this.#handlers.here;
  }
  rows(places: readonly ArmedPlace[]): Counted[] {
    const groups = groupsOf(this.#table, places);
    const rows = groups.map(({ place, key, value }) => ({ place, key, hits: value.value }));
    if (this.#isGrouped) return rows;
    const hits = new Map(rows.map((r) => [r.place, r.hits]));
    return places.map((place) => ({ place, key: [], hits: hits.get(place) ?? 0n }));
  }
  keys(rows: readonly Counted[]): Keys {
    return new Keys(this.#whens.parts, rows);
  }
  remark(): string | undefined {
    return overflowText(this.#table.overflow, MOST_KEYS);
  }
}

export const exprsOf = ({ condition, keys }: When): Expr[] => [
  ...(condition === undefined ? [] : [condition]),
  ...keys,
];
