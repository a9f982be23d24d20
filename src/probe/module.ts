/** One probed file from its first uprobe until its last is gone. Its identity is (device, inode), never the path. */
import { FileError, messageOf, type UprobeError } from '../base/errors.js';
import type { Engine, ModuleFacts, SiteChange } from '../engines/engine.js';
import type { FileStamp } from '../process/opened-file.js';
import type { CodeFile } from './code-file.js';
import { changeBetween, watchFile, type FileWatch } from './file-watch.js';
import { addTo } from '../base/multimap.js';
import { Mutex } from './mutex.js';
import type { Registration } from './registration.js';
import { reportError, reportState } from './report.js';
import type { Site } from './site.js';
import { UprobeModule } from './uprobe-module.js';

let lastId = 0;

/** What a module tells the table it is in. */
export interface ModuleHost {
  /** Nobody probes this place any more, and it is disarmed. */
  siteGone(site: Site): void;
  /** Nobody holds the module any more: its file is closed. */
  moduleGone(module: ProbedModule): void;
}

export class ProbedModule {
  readonly id = ++lastId;
  readonly code: CodeFile;
  readonly facts: ModuleFacts;
  readonly view: UprobeModule;
  /** By file offset. */
  readonly sites = new Map<number, Site>();
  /** Held by whoever changes what is armed in this module. */
  readonly mutex = new Mutex();
  /** Why it can be probed no more. */
  gone: FileError | undefined;
  readonly #host: ModuleHost;
  /** Uprobes, and registrations under way. */
  #holders = 0;
  #watch: FileWatch | undefined;
  /** The file as it was when last seen to be unchanged. */
  #stamp: FileStamp;
  #leaving: Registration[] = [];
  #flush: Promise<void> | undefined;

  /** Takes `code` over. */
  constructor(code: CodeFile, host: ModuleHost) {
    const { file } = code;
    this.code = code;
    this.facts = { id: this.id, dev: file.dev, ino: file.ino, path: file.path, fd: file.fd };
    this.#host = host;
    this.#stamp = file.openedAs;
    this.view = new UprobeModule(this);
  }

  get path(): string {
    return this.code.path;
  }

  hold(count = 1): void {
    this.#holders += count;
  }

  /** The last to let go closes the file. */
  release(count = 1): void {
    this.#holders -= count;
    if (this.#holders > 0) return;
    this.#watch?.close();
    this.#watch = undefined;
    this.#host.moduleGone(this);
    this.code.close();
  }

  registrations(): Registration[] {
    return [...this.sites.values()].flatMap((site) => site.registrations);
  }

  // Changes of the file

  /** To be called with the lock held and before anything is armed: throws FileError when the file was changed. */
  requireUnchanged(): void {
    this.#requireNotGone();
    this.#watch ??= watchFile(
      this.code.file,
      () => this.#changed(),
      () => this.#lookAgain(),
    );
    this.#lookAgain();
    this.#requireNotGone();
  }

  #requireNotGone(): void {
    if (this.gone !== undefined) throw this.gone;
  }

  #lookAgain(): void {
    if (this.gone !== undefined || this.#holders === 0) return;
    const now = this.code.file.stamp();
    const change = changeBetween(this.#stamp, now);
    if (change === 'bytes' || (change === 'name-or-mode' && !this.#sitesAreAsTheyWere())) this.#changed();
    else this.#stamp = now;
  }

  #sitesAreAsTheyWere(): boolean {
    return [...this.sites.values()].every(({ facts }) => {
      const { bytes } = facts.instruction;
      return Buffer.compare(this.code.file.read(facts.offset, bytes.length), bytes) === 0;
    });
  }

  /**
   * Disarm, tell, and only then give up the lease: its opener waits for that. The module stays in the table until it is
   * disarmed, so that nobody can arm the same bytes through a second one meanwhile.
   */
  #changed(): void {
    if (this.gone !== undefined) return;
    this.gone = new FileError(
      'file-changed',
      ({ again }) =>
        `${this.path} is being changed on disk while it is probed: its probes were taken out. ${again} when ` +
        'it is as it shall be (better: replace the file by a rename, which leaves running programs alone)',
    );
    this.hold();
    const ended = this.unregister(this.registrations(), this.gone);
    void ended.then(() => {
      this.#watch?.close();
      this.#watch = undefined;
      this.release();
    });
  }

  // Taking uprobes away

  /**
   * Take these uprobes out, together with all others that are asked for before the lock is free. Never rejects. From now
   * on none of their handlers begins.
   */
  unregister(registrations: readonly Registration[], because?: UprobeError): Promise<void> {
    const pending = new Set<Promise<void>>();
    for (const registration of registrations) {
      registration.live = false;
      if (registration.leaving === undefined) {
        registration.endedBecause = because;
        this.#leaving.push(registration);
        registration.leaving = this.#flush ??= this.mutex.run(() => this.#takeOut());
      }
      pending.add(registration.leaving);
    }
    return Promise.all(pending).then(() => undefined);
  }

  async #takeOut(): Promise<void> {
    const leaving = this.#leaving;
    this.#leaving = [];
    this.#flush = undefined;
    await this.removeLocked(leaving.filter((r) => !r.ended));
  }

  /** The same with the lock already held. */
  async removeLocked(leaving: readonly Registration[]): Promise<void> {
    if (leaving.length === 0) return;
    const gone = new Set(leaving);
    const sites = new Set(leaving.map((r) => r.site));
    for (const site of sites) site.remove(gone);
    for (const [engine, changes] of changesByEngine(sites)) await applyRemoval(engine, changes);
    for (const registration of leaving) {
      registration.end(registration.endedBecause);
      if (registration.endedBecause !== undefined) tellEnded(registration, registration.endedBecause);
    }
    for (const site of sites) if (site.registrations.length === 0) this.#dropSite(site);
    this.release(leaving.length);
  }

  #dropSite(site: Site): void {
    this.sites.delete(site.offset);
    this.#host.siteGone(site);
  }
}

/** What each engine must bring about at these sites. */
export function changesByEngine(sites: Iterable<Site>): Map<Engine, SiteChange[]> {
  const byEngine = new Map<Engine, SiteChange[]>();
  for (const site of sites) addTo(byEngine, site.engine, { site: site.facts, consumers: site.consumers() });
  return byEngine;
}

/** By contract this does not reject; an engine that does is broken, and what it armed goes when it is closed. */
async function applyRemoval(engine: Engine, changes: readonly SiteChange[]): Promise<void> {
  try {
    await engine.apply(changes);
  } catch (e) {
    process.emitWarning(
      `the ${engine.name} engine could not take probes out: ${messageOf(e)}`,
      'UprobeWarning',
    );
  }
}

function tellEnded(registration: Registration, because: UprobeError): void {
  for (const state of registration.states()) reportState(registration, state);
  reportError(registration, 'uprobe', 0, 0, because);
}
