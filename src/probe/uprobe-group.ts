import type { Registration } from './registration.js';
import { groupBy } from '../base/multimap.js';
import type { CheckedSpec } from './spec.js';
import type { Uprobe } from './uprobe.js';

/** Uprobes that were registered together. Iterable, in the order of the specs. */
export class UprobeGroup implements AsyncDisposable, Iterable<Uprobe> {
  readonly #registrations: readonly Registration[];
  readonly #specs: readonly CheckedSpec[];
  #bySpec: ReadonlyMap<CheckedSpec, readonly Registration[]> | undefined;
  /** @internal */
  constructor(registrations: readonly Registration[], specs: readonly CheckedSpec[]) {
    this.#registrations = registrations;
    this.#specs = specs;
  }

  /** How many there are: at least one for each spec, more where a name means several files or functions. */
  get size(): number {
    return this.#registrations.length;
  }

  /** The nth, 0 first. */
  at(index: number): Uprobe | undefined {
    return this.#registrations.at(index)?.view;
  }

  /** Those that the nth spec has become, 0 first: one, but where a name means several files or functions. */
  of(index: number): readonly Uprobe[] {
    const spec = this.#specs.at(index);
    this.#bySpec ??= groupBy(this.#registrations, (r) => r.spec);
    return (spec === undefined ? undefined : this.#bySpec.get(spec))?.map((r) => r.view) ?? [];
  }

  *[Symbol.iterator](): Iterator<Uprobe> {
    for (const registration of this.#registrations) yield registration.view;
  }

  /** Take all of them out, in reverse order. Idempotent; never rejects. */
  async unregister(): Promise<void> {
    await unregisterAll(this.#registrations);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.unregister();
  }
}

/** Each module once, all modules at the same time. */
export async function unregisterAll(registrations: readonly Registration[]): Promise<void> {
  const byModule = groupBy([...registrations].reverse(), (r) => r.site.module);
  await Promise.all([...byModule].map(([module, own]) => module.unregister(own)));
}
