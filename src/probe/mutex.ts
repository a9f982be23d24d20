/**
 * A fair lock for asynchronous sections. Whoever asks first is served first, and never synchronously: a handler that
 * asks while a hit is being dispatched waits until that dispatch has returned.
 */
export class Mutex {
  #last: Promise<void> = Promise.resolve();

  /** Run `section` when everybody before has finished; its outcome is the result. */
  run<T>(section: () => Promise<T>): Promise<T> {
    const result = this.#last.then(section);
    this.#last = result.then(
      () => undefined,
      () => undefined,
    );
    return result;
  }
}

/** Hold several locks at once. The caller passes them in the one agreed order; see table.ts. */
export function runWithAll<T>(mutexes: readonly Mutex[], section: () => Promise<T>): Promise<T> {
  const [first, ...rest] = mutexes;
  if (first === undefined) return Promise.resolve().then(section);
  return first.run(() => (rest.length === 0 ? section() : runWithAll(rest, section)));
}
