/** What starting a program under an engine takes and gives. Plain data in, one handle out. */

/** How a process ended: one of the two is null, as in node:child_process. */
export interface ExitStatus {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export type { Program as SpawnRequest } from '../linux/clone.js';

/** A process stopped before its first instruction. */
export interface Spawned {
  readonly pid: number;
  /** Let it run. Again: nothing. */
  resume(): Promise<void>;
  /** Send a signal by number; nothing when it has ended. */
  kill(signal: number): void;
  /** Never rejects. */
  readonly exited: Promise<ExitStatus>;
}
