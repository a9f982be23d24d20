/**
 * What the tracer tells of processes by itself. While it does what it was told to, news wait: the answer says how things
 * stand at its end, and what happened meanwhile must not be heard before it.
 */
import type { Answer } from './protocol.js';

export class News {
  #held: Answer[] | undefined;

  constructor(private readonly answer: (message: Answer) => void) {}

  tell(message: Answer): void {
    if (this.#held === undefined) this.answer(message);
    else this.#held.push(message);
  }

  hold(): void {
    this.#held ??= [];
  }

  release(): void {
    const held = this.#held ?? [];
    this.#held = undefined;
    for (const message of held) this.answer(message);
  }
}
