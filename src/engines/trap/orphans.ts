/**
 * New processes that nobody has announced. Whoever makes one reports it, but not if it is killed in that moment (SIGKILL, or
 * another thread's exit or exec): the child is traced and stopped all the same, with a copy of our breakpoints. So a stop of
 * a stranger waits a moment for the report, and a process that may owe one is remembered for as long after its end.
 */
import { shareMemory } from '../../linux/kcmp.js';
import { SIG } from '../../linux/numbers.js';
import { statusField } from '../../linux/proc-status.js';
import { ProcessMemory } from '../../linux/process-memory.js';
import { BREAKPOINT, type AddressSpace } from './address-space.js';
import type { Process } from './thread.js';

/** How long a report or a first stop may take to come, ms: who makes it runs already. */
const PATIENCE_MS = 50;

/** Who may have made a process without saying so, in the memory that it had then. */
export interface Parent {
  readonly process: Process;
  readonly space: AddressSpace;
}

interface Remembered extends Parent {
  readonly until: number;
  /** It is time to forget it. */
  readonly forgotten: (() => void) | undefined;
}

export class Orphans {
  /** Stops of threads whose creation has not been reported. */
  readonly #early = new Map<number, { readonly status: number; readonly until: number }>();
  readonly #remembered: Remembered[] = [];

  stopped(tid: number, status: number): void {
    this.#early.set(tid, { status, until: performance.now() + PATIENCE_MS });
  }

  ended(tid: number): void {
    this.#early.delete(tid);
  }

  /** Its creation has been reported: the stop it is in, if that came first. */
  announced(tid: number): number | undefined {
    const status = this.#early.get(tid)?.status;
    this.#early.delete(tid);
    return status;
  }

  remember(parent: Parent, forgotten?: () => void): void {
    this.#remembered.push({ ...parent, until: performance.now() + PATIENCE_MS, forgotten });
  }

  get isEmpty(): boolean {
    return this.#early.size === 0 && this.#remembered.length === 0;
  }

  /** How long to wait for events, ms, when `timeout` is how long one would otherwise. */
  wait(timeout: number | undefined): number | undefined {
    if (this.isEmpty) return timeout;
    const times = [...this.#early.values(), ...this.#remembered].map((x) => x.until);
    return Math.max(0, Math.min(timeout ?? PATIENCE_MS, Math.min(...times) - performance.now() + 1));
  }

  /** Those that have waited for their parents long enough, each with the stop it is in. Threads end with their process. */
  takeLost(): [tid: number, status: number][] {
    const now = performance.now();
    const lost: [number, number][] = [];
    for (const [tid, { status, until }] of [...this.#early]) {
      if (until > now) continue;
      this.#early.delete(tid);
      if (isLeader(tid)) lost.push([tid, status]);
      else this.stopped(tid, status);
    }
    return lost;
  }

  /** Of these, and of those that we remember: whose memory a process has a copy of. */
  parentOf(tid: number, living: Iterable<Parent>): Parent | undefined {
    let best: Parent | undefined;
    let most = 0;
    const memory = new ProcessMemory(tid);
    for (const parent of [...this.#remembered, ...living]) {
      const count = breakpointsIn(memory, parent.space);
      if (count > most) [best, most] = [parent, count];
    }
    memory.close();
    return best;
  }

  /** After `takeLost`: nobody can be a child of these any more. */
  forget(): void {
    const now = performance.now();
    while (this.#remembered.length > 0 && this.#remembered[0]!.until < now)
      this.#remembered.shift()!.forgotten?.();
  }
}

/** Whether a process may have made another one in the moment it was ended in. */
export const mayOweReport = (process: Process, status: number): boolean =>
  process.hadThreads || (status & 0x7f) === SIG.kill;

/** What is in the memory of a child by CLONE_VM is no copy. */
export const sharerOf = (tid: number, processes: Iterable<Process>): Process | undefined => {
  for (const process of processes) if (shareMemory(tid, process.space.shownBy)) return process;
  return undefined;
};

const isLeader = (tid: number): boolean => statusField(tid, 'Tgid') === String(tid);

function breakpointsIn(memory: ProcessMemory, space: AddressSpace): number {
  let count = 0;
  for (const { address } of space.arms.values()) if (memory.read(address, 1)?.[0] === BREAKPOINT) count++;
  return count;
}
