import type { ProbedModule } from './module.js';
import type { Uprobe } from './uprobe.js';

/** A probed file, as long as it has uprobes. Read-only. */
export class UprobeModule {
  readonly #module: ProbedModule;
  /** @internal */
  constructor(module: ProbedModule) {
    this.#module = module;
  }

  /** The path it was opened by; what the file is, is `dev` and `ino`. */
  get path(): string {
    return this.#module.path;
  }
  get dev(): bigint {
    return this.#module.facts.dev;
  }
  get ino(): bigint {
    return this.#module.facts.ino;
  }
  /** Lower-case hexadecimal; undefined where the file has none. */
  get buildId(): string | undefined {
    return this.#module.code.image.buildId;
  }
  /** What is registered in it now, by place and then in registration order. */
  get uprobes(): readonly Uprobe[] {
    return this.#module.registrations().map((r) => r.view);
  }

  toJSON(): object {
    return { path: this.path, dev: String(this.dev), ino: String(this.ino), buildId: this.buildId };
  }
}
