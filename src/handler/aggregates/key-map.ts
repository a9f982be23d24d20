/** A map whose keys are lists of values, all of one length: maps in maps. A string of all fields would have to be made at every hit. */
import type { AnyFieldValue, Normalize } from './fields.js';

export type Key = readonly AnyFieldValue[];
/** The values where the last field of the key leads to, maps everywhere else. */
type Level<V> = Map<AnyFieldValue, Level<V> | V>;

export class KeyMap<V extends object> {
  readonly #root: Level<V> = new Map();
  #size = 0;

  get size(): number {
    return this.#size;
  }

  get(key: Key): V | undefined {
    let found: Level<V> | V | undefined = this.#root;
    for (let i = 0; i < key.length && found !== undefined; i++) found = (found as Level<V>).get(key[i]!);
    return found as V | undefined;
  }

  /** The same for a key as somebody has given it. */
  find(given: readonly unknown[], normalize: readonly Normalize[]): V | undefined {
    let found: Level<V> | V | undefined = this.#root;
    for (let i = 0; i < normalize.length && found !== undefined; i++)
      found = (found as Level<V>).get(normalize[i]!(given[i]));
    return found as V | undefined;
  }

  /** For a key that is not there yet. */
  add(key: Key, value: V): void {
    let level = this.#root;
    for (const field of key.slice(0, -1)) {
      let next = level.get(field) as Level<V> | undefined;
      if (next === undefined) level.set(field, (next = new Map()));
      level = next;
    }
    level.set(key.at(-1)!, value);
    this.#size++;
  }

  clear(): void {
    this.#root.clear();
    this.#size = 0;
  }
}
