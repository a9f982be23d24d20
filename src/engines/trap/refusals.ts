/** What the trap engine will not do, decided without touching a process. */
import type { Refusal } from '../../base/errors.js';
import type { ArmableSite, Consumer, ProcessSet } from '../engine.js';

/** Whether it can serve these processes at all: asked before any file is opened. */
export function refuseProcesses(processes: ProcessSet): Refusal | undefined {
  return processes === 'all' ? NEEDS_PROCESSES : undefined;
}

/** Whether it can serve a site: it does when the instruction runs out of line. */
export function refusalFor(site: ArmableSite, consumers: readonly Consumer[]): Refusal | undefined {
  if (consumers.some((c) => c.return)) return NO_RETURNS;
  if (consumers.some((c) => c.fault)) return NO_FAULTS;
  return site.refusal;
}

const NO_RETURNS: Refusal = {
  code: 'return-handlers-not-supported',
  reason: 'handlers that run when a function returns are not supported by any engine here',
  remedy: "Probe the function's ret instructions, or its entry",
};
const NO_FAULTS: Refusal = {
  code: 'fault-handlers-not-supported',
  reason: 'handlers that run when the probed instruction faults are not supported by any engine here',
  remedy: 'A handler that throws is reported to onError',
};

const NEEDS_PROCESSES: Refusal = {
  code: 'needs-processes',
  reason: 'the trap engine attaches to processes one by one and cannot find those that start elsewhere',
  remedy:
    'Name the processes (processes: pid, or { tree: pid } with all its descendants), or start the program from here (spawnTarget)',
};
