/** What tables have, by place and key. */
import { cgroupPaths } from '../index.js';
import type { CellView, TableCell } from '../index.js';
import { mergeCell } from '../handler/aggregates/parts.js';
import { viewOf } from '../handler/aggregates/table.js';
import { WORDS } from '../handler/aggregates/views.js';
import type { ShownValue } from '../outputs/trace-line.js';
import type { ArmedPlace } from './arm.js';
import { keyJson, keyText } from './fields.js';
import type { KeyPart } from './fields.js';
import type { Grouped } from './programs.js';

export interface Group<C extends TableCell> {
  /** Of the place and the key together. */
  readonly id: string;
  readonly place: ArmedPlace;
  readonly key: readonly ShownValue[];
  readonly value: CellView<C>;
}

/** What an ifunc may stand for is one place, and so is one place in several trees of processes: all together. */
export function groupsOf<C extends TableCell>(table: Grouped<C>, places: readonly ArmedPlace[]): Group<C>[] {
  const byUprobe = new Map<bigint, number>();
  for (const [i, { uprobes }] of places.entries()) for (const u of uprobes) byUprobe.set(BigInt(u.id), i);
  const groups = new Map<string, Group<C>>();
  for (const { key, value } of table.entries()) {
    const [uprobe, ...rest] = key as readonly [bigint, ...ShownValue[]];
    const at = byUprobe.get(uprobe);
    if (at === undefined) continue;
    // No string of a key has a NUL.
    const id = [at, ...rest].join('\0');
    const known = groups.get(id);
    const merged = known === undefined ? value : merge(table, known.value, value);
    groups.set(id, { id, place: places[at]!, key: rest, value: merged });
  }
  return [...groups.values()];
}

function merge<C extends TableCell>(table: Grouped<C>, a: CellView<C>, b: CellView<C>): CellView<C> {
  const { cell } = table.shape;
  const words = a[WORDS]().slice();
  mergeCell(cell, words, b[WORDS]());
  return viewOf(cell, words) as CellView<C>;
}

/** Shows keys: of cgroups their paths, as far as they are there still. */
export class Keys {
  readonly #parts: readonly KeyPart[];
  #cgroups: ReadonlyMap<bigint, string> = new Map();

  constructor(parts: readonly KeyPart[], groups: readonly { readonly key: readonly ShownValue[] }[]) {
    this.#parts = parts;
    const ids = parts.flatMap((p, i) => (p.isCgroup ? groups.map((g) => g.key[i] as bigint) : []));
    if (ids.length > 0) this.#cgroups = cgroupPaths(ids);
  }

  texts(key: readonly ShownValue[]): string[] {
    return this.#parts.map((part, i) => keyText(part, this.#known(part, key[i])));
  }

  json(key: readonly ShownValue[]): Record<string, string | number | boolean> {
    return Object.fromEntries(
      this.#parts.map((part, i) => [part.name, keyJson(part, this.#known(part, key[i]))]),
    );
  }

  /** The same as a field of a line, where there is --by. */
  jsonBy(key: readonly ShownValue[]): object {
    return this.#parts.length === 0 ? {} : { by: this.json(key) };
  }

  #known(part: KeyPart, value: ShownValue): ShownValue {
    return part.isCgroup ? (this.#cgroups.get(value as bigint) ?? value) : value;
  }
}
