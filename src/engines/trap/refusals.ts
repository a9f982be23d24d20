/** What the trap engine will not do, decided without touching a process. */
import type { Refusal } from '../../base/errors.js';
import type { ArmableSite, Consumer, ProcessSet } from '../engine.js';

/** Whether it can serve these processes at all: asked before any file is opened. */
export function refuseProcesses(processes: ProcessSet): Refusal | undefined {
  return processes === 'all' ? NEEDS_PROCESSES : undefined;
}

/** Whether it can serve a site: it does when the instruction runs out of line. */
export const refusalFor = (site: ArmableSite, _consumers: readonly Consumer[]): Refusal | undefined =>
  site.refusal;

const NEEDS_PROCESSES: Refusal = {
  code: 'needs-processes',
  reason: 'the trap engine attaches to processes one by one and cannot find those that start elsewhere',
  remedy:
    'Name the processes (processes: pid, or { tree: pid } with all its descendants), or start the program from here (spawnTarget)',
};
