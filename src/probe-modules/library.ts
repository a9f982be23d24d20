/**
 * The library as a module sees it: the one of this thread, with a book of what the module has registered, so that all of it
 * can be taken out when the module is unloaded.
 */
import * as library from '../index.js';
import type { HandlerError, Uprobe, UprobeGroup, UprobeSpec } from '../index.js';
import { SpecError } from '../base/errors.js';

/** What modules can import. */
export const LIBRARY_NAMES: readonly string[] = Object.keys(library);

/** What an uprobe has left behind. */
export interface Losses {
  /** Hits that no handler saw. */
  missed: bigint;
  /** Handlers that threw. */
  errors: bigint;
}

export interface Hears {
  /** A handler threw, or a uprobe is gone, and the module has not said who shall hear of it. */
  error(e: HandlerError): void;
  /** A registration failed; `stack`: where it was asked for. */
  failed(error: unknown, stack: string | undefined): void;
}

export class ModuleLibrary {
  /** The names of the library. */
  readonly exports: Readonly<Record<string, unknown>>;
  readonly losses: Losses = { missed: 0n, errors: 0n };
  readonly #hears: Hears;
  readonly #registered = new Set<Uprobe | UprobeGroup>();
  readonly #underWay = new Set<Promise<unknown>>();
  #pruneAt = 1024;
  #closed = false;

  constructor(hears: Hears) {
    this.#hears = hears;
    this.exports = {
      ...library,
      registerUprobe: (spec: UprobeSpec) => this.#register(() => library.registerUprobe(this.#heard(spec))),
      registerUprobes: (specs: Iterable<UprobeSpec>) =>
        this.#register(() => library.registerUprobes(this.#allHeard(specs))),
    };
  }

  /** Take out everything; what is still being registered as soon as it is. */
  async close(): Promise<void> {
    this.#closed = true;
    while (this.#underWay.size > 0) await Promise.allSettled(this.#underWay);
    await Promise.all([...this.#registered].reverse().map((registered) => registered.unregister()));
    this.#prune();
  }

  async #register<T extends Uprobe | UprobeGroup>(register: () => Promise<T>): Promise<T> {
    const { stack } = new Error();
    if (this.#closed)
      throw new SpecError(
        'module-unloaded',
        'this probe module has been unloaded: it cannot register any more',
      );
    const made = register();
    this.#underWay.add(made);
    try {
      const result = await made;
      this.#registered.add(result);
      if (this.#registered.size > this.#pruneAt) this.#prune();
      return result;
    } catch (e) {
      this.#hears.failed(e, stack);
      throw e;
    } finally {
      this.#underWay.delete(made);
    }
  }

  /** Forget what the module itself has unregistered: it may come and go for days. */
  #prune(): void {
    for (const registered of this.#registered) {
      const uprobes = registered instanceof library.Uprobe ? [registered] : [...registered];
      if (uprobes.some((uprobe) => uprobe.state !== 'gone')) continue;
      for (const uprobe of uprobes) {
        this.losses.missed += uprobe.nmissed;
        this.losses.errors += uprobe.nerrors;
      }
      this.#registered.delete(registered);
    }
    this.#pruneAt = 2 * this.#registered.size + 1024;
  }

  /** What is no spec is left for the library to refuse. */
  #heard(spec: UprobeSpec): UprobeSpec {
    if (typeof spec !== 'object' || spec === null || spec.onError !== undefined) return spec;
    return { ...spec, onError: (e: HandlerError) => this.#hears.error(e) };
  }

  #allHeard(specs: Iterable<UprobeSpec>): Iterable<UprobeSpec> {
    if (typeof specs !== 'object' || specs === null || !(Symbol.iterator in specs)) return specs;
    return this.#eachHeard(specs);
  }

  *#eachHeard(specs: Iterable<UprobeSpec>): Iterable<UprobeSpec> {
    for (const spec of specs) yield this.#heard(spec);
  }
}
