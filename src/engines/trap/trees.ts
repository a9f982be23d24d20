/**
 * Which processes are in which tree. A tree is what somebody has asked for: a process, the descendants that it has at
 * that moment, and every one that any of them makes later. It is known by the pid of its root, and outlives it.
 */
import { MOST_TREES } from '../engine.js';
import type { Process } from './thread.js';

export class Trees {
  readonly #members = new Map<number, Set<Process>>();

  /** Whether there is a process in it. */
  has(root: number): boolean {
    return this.#members.has(root);
  }

  members(root: number): Process[] {
    return [...(this.#members.get(root) ?? [])];
  }

  /** False: it is in as many trees as it can be. */
  add(root: number, process: Process): boolean {
    if (process.trees.includes(root)) return true;
    if (process.trees.length >= MOST_TREES) return false;
    process.trees = [...process.trees, root];
    this.#enter(root, process);
    return true;
  }

  /** A new process is in the trees of the one that made it. */
  inherit(child: Process, parent: Process): void {
    child.trees = parent.trees;
    for (const root of child.trees) this.#enter(root, child);
  }

  #enter(root: number, process: Process): void {
    const members = this.#members.get(root);
    if (members) members.add(process);
    else this.#members.set(root, new Set([process]));
  }

  /** A process is no longer ours. Returns the trees of which it was the last. */
  leave(process: Process): number[] {
    const { trees } = process;
    process.trees = [];
    return trees.filter((root) => {
      const members = this.#members.get(root);
      members?.delete(process);
      return members?.size === 0 && this.#members.delete(root);
    });
  }

  /** Nobody asks for this tree any more. Returns who was in it. */
  drop(root: number): Process[] {
    const members = this.members(root);
    this.#members.delete(root);
    for (const process of members) process.trees = process.trees.filter((r) => r !== root);
    return members;
  }
}
