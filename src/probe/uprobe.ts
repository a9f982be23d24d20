/** What users hold: read-only views. */
import type { Registration } from './registration.js';
import { nameOf } from './report.js';
import type { ArmState } from './types.js';
import type { UprobeModule } from './uprobe-module.js';

export { UprobeModule } from './uprobe-module.js';

/** One registration: a file, a place, handlers. Made by `registerUprobe`. */
export class Uprobe implements AsyncDisposable {
  readonly #registration: Registration;
  /** @internal */
  constructor(registration: Registration) {
    this.#registration = registration;
  }

  /** Unique in this process, never reused. */
  get id(): number {
    return this.#registration.id;
  }
  get module(): UprobeModule {
    return this.#registration.site.module.view;
  }
  /** File offset of the probed instruction. */
  get offset(): number {
    return this.#registration.site.offset;
  }
  /** Link-time address of the probed instruction, as `nm` and `objdump -d` print it. */
  get address(): bigint {
    return BigInt(this.#registration.site.facts.instruction.address);
  }
  /** The function it is in: as given, else as it is best known; undefined where no symbol covers the place. */
  get symbol(): string | undefined {
    return this.#registration.symbol;
  }
  /** Bytes from the start of `symbol`. */
  get symbolOffset(): number {
    return this.#registration.symbolOffset;
  }
  /** Hits that were handled; without handlers, hits that were counted. */
  get nhits(): bigint {
    return this.#registration.nhits;
  }
  /** Hits at which the handlers could not run, or ran beyond their deadline. */
  get nmissed(): bigint {
    return this.#registration.nmissed;
  }
  /**
   * Calls of a function with a return handler that did not return: left by longjmp or an exception, or their thread has
   * ended. They are noticed when their stack is used again, at the latest when the process ends or the uprobe goes.
   */
  get nabandoned(): bigint {
    return BigInt(this.#registration.abandoned);
  }
  /** Handlers that threw. */
  get nerrors(): bigint {
    return this.#registration.nerrors;
  }
  /**
   * `armed` in at least one process; `pending`: in none yet, as long as none of them maps the file; `gone`: it can hit
   * no more: unregistered, all its processes have ended, or the file was changed.
   */
  get state(): 'pending' | 'armed' | 'gone' {
    return this.#registration.state;
  }
  /** How it stands in each process. */
  processes(): readonly ArmState[] {
    return this.#registration.states();
  }

  /**
   * Take it out. When this resolves no handler of it runs again and every byte is as it was. Idempotent; never rejects.
   * From its own handler: the promise resolves some time after the handler has returned.
   */
  unregister(): Promise<void> {
    return this.#registration.site.module.unregister([this.#registration]);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.unregister();
  }

  toString(): string {
    return nameOf(this.#registration);
  }

  toJSON(): object {
    const { id, offset, symbol, symbolOffset, state } = this;
    const counts = {
      nhits: String(this.nhits),
      nmissed: String(this.nmissed),
      nabandoned: String(this.nabandoned),
      nerrors: String(this.nerrors),
    };
    return { id, path: this.module.path, offset, symbol, symbolOffset, state, ...counts };
  }
}
