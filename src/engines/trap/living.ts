/** Which of the processes that somebody wants live: as long as there is one, hits can come. */
import type { ArmReport, Consumer } from '../engine.js';
import { pidsOf, treeOf } from './wants.js';

export class Living {
  /** How many uprobes want a process, and a tree. */
  readonly #pids = new Map<number, number>();
  readonly #roots = new Map<number, number>();
  /** Those that have not ended, each with the trees it is in. */
  readonly #living = new Map<number, readonly number[]>();

  get size(): number {
    return this.#living.size;
  }

  /** Uprobes come (1) or go (-1). */
  count(consumers: readonly Consumer[], change: 1 | -1): void {
    let isFewer = false;
    for (const { processes } of consumers) {
      for (const pid of pidsOf(processes)) if (add(this.#pids, pid, change) === 0) isFewer = true;
      const root = treeOf(processes);
      if (root !== undefined && add(this.#roots, root, change) === 0) isFewer = true;
    }
    if (isFewer)
      for (const [pid, trees] of this.#living) if (!this.#isWanted(pid, trees)) this.#living.delete(pid);
  }

  report({ pid, trees = [], state }: ArmReport): void {
    if (state === 'gone') this.#living.delete(pid);
    else this.add(pid, trees);
  }

  add(pid: number, trees: readonly number[]): void {
    if (this.#isWanted(pid, trees)) this.#living.set(pid, trees);
  }

  delete(pid: number): void {
    this.#living.delete(pid);
  }

  #isWanted(pid: number, trees: readonly number[]): boolean {
    return this.#pids.has(pid) || trees.some((root) => this.#roots.has(root));
  }
}

function add(counts: Map<number, number>, key: number, change: number): number {
  const count = (counts.get(key) ?? 0) + change;
  if (count > 0) counts.set(key, count);
  else counts.delete(key);
  return Math.max(0, count);
}
