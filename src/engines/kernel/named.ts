/** The processes that uprobes are meant for by name: how many want each, and when one has ended. */
import { closeFd } from '../../linux/fds.js';
import { hasEnded, openProcess } from '../../linux/pidfd.js';

export class NamedProcesses {
  readonly #named = new Map<number, { readonly pidfd: number | undefined; wanted: number }>();

  want(pid: number): void {
    const known = this.#named.get(pid);
    if (known === undefined) this.#named.set(pid, { pidfd: openProcess(pid), wanted: 1 });
    else known.wanted++;
  }

  drop(pid: number): void {
    const known = this.#named.get(pid);
    if (known === undefined || --known.wanted > 0) return;
    this.#named.delete(pid);
    if (known.pidfd !== undefined) closeFd(known.pidfd);
  }

  /** Those that have ended since it was last asked. */
  takeEnded(): number[] {
    const ended = [...this.#named].filter(([, { pidfd }]) => pidfd !== undefined && hasEnded(pidfd));
    for (const [pid, { pidfd, wanted }] of ended) {
      closeFd(pidfd!);
      this.#named.set(pid, { pidfd: undefined, wanted });
    }
    return ended.map(([pid]) => pid);
  }
}
