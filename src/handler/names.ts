/** The names of a handler's text, block within block. */
import type { Binding } from './lower-values.js';

export class Names {
  readonly #blocks: Map<string, Binding>[] = [];

  /** A block with names of its own, as long as `within` runs. */
  block<T>(within: () => T): T {
    this.#blocks.push(new Map());
    try {
      return within();
    } finally {
      this.#blocks.pop();
    }
  }

  declare(name: string, binding: Binding): void {
    this.#blocks.at(-1)!.set(name, binding);
  }

  find(name: string): Binding | undefined {
    return this.#blocks.findLast((block) => block.has(name))?.get(name);
  }

  all(): string[] {
    return this.#blocks.flatMap((block) => [...block.keys()]);
  }
}
