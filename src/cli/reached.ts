/** Which places came to be armed: where that is not so, no number of hits says anything. */
import type { ArmState } from '../index.js';
import type { ArmedPlace } from './arm.js';
import { describeRefused } from './places.js';
import type { RefusedPlace, WantedPlace } from './places.js';
import type { Targets } from './targets.js';

export class Reached {
  /** The places whose file was mapped once, in any process. */
  readonly #mapped = new Set<WantedPlace>();
  /** Places that some process refused, each with its first refusal. */
  readonly #refused = new Map<WantedPlace, RefusedPlace>();

  /** For `onState` of a place. */
  watch(wanted: WantedPlace): (state: ArmState) => void {
    return ({ pid, state, refusal }) => {
      if (state === 'armed' || state === 'refused') this.#mapped.add(wanted);
      const isLost = state === 'refused' || state === 'gone'; // with a refusal: it lives, and we were shown the door
      if (!isLost || refusal === undefined || this.#refused.has(wanted)) return;
      const { code, reason } = refusal;
      this.#refused.set(wanted, { probe: wanted.probe, code, reason: `process ${pid}: ${reason}` });
    };
  }

  /** A sentence for each file that nobody has mapped, and for each reason why places were refused. */
  describe(places: readonly ArmedPlace[], targets: Targets): string[] {
    const refused = places.map((p) => this.#refused.get(p.wanted)).filter((r) => r !== undefined);
    // That nobody maps a file is no news where all are meant: `uprobe ps` tells.
    const unmapped = targets.kind === 'all' ? [] : this.#unmapped(places, targets);
    return [...unmapped, ...describeRefused(refused)];
  }

  #unmapped(places: readonly ArmedPlace[], targets: Targets): string[] {
    const counts = new Map<string, number>();
    const mapped = new Set<string>();
    for (const { uprobes, wanted } of places) {
      const { path } = uprobes[0]!.module;
      counts.set(path, (counts.get(path) ?? 0) + 1);
      if (this.#mapped.has(wanted)) mapped.add(path);
    }
    return [...counts]
      .filter(([path]) => !mapped.has(path))
      .map(([path, count]) => {
        const probes = count === 1 ? 'its probe' : `its ${count} probes`;
        return `${path} was never mapped by ${nameOf(targets)}: ${probes} could not be hit`;
      });
  }
}

function nameOf(targets: Targets): string {
  if (targets.kind === 'command')
    return `'${targets.command}'${targets.follow ? ' or a process that it made' : ''}`;
  const plural = targets.pids.length === 1 ? '' : 'es';
  return `process${plural} ${targets.pids.join(', ')}${targets.trees.size === 0 ? '' : ' or a descendant'}`;
}
