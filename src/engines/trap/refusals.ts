/** What the trap engine will not do, decided without touching a process. */
import type { Refusal } from '../../base/errors.js';
import type { ArmableSite, Consumer } from '../engine.js';

export function refusalFor(site: ArmableSite, consumers: readonly Consumer[]): Refusal | undefined {
  if (consumers.some((c) => c.processes === 'all')) return NEEDS_PROCESSES;
  if (consumers.some((c) => c.fault)) return NO_FAULT;
  if (consumers.some((c) => c.return)) return NO_RETURN;
  if (site.template === undefined)
    return (
      site.refusal ?? {
        code: 'cannot-displace',
        reason: 'the instruction at this place cannot run out of line',
      }
    );
  return undefined;
}

export const NEEDS_PROCESSES: Refusal = {
  code: 'needs-processes',
  reason: 'the trap engine attaches to processes one by one and cannot find those that start elsewhere',
  remedy: 'Name the processes (processes: pid), or start the program from here (spawnTarget)',
};
const NO_FAULT: Refusal = { code: 'no-fault-handlers', reason: 'the trap engine has no fault handlers yet' };
const NO_RETURN: Refusal = {
  code: 'no-return-handlers',
  reason: 'the trap engine has no return handlers yet',
  remedy:
    "Probe the function's `ret` instructions instead (SYMBOL+0xOFFSET; `uprobe plan PATH:SYMBOL+*` shows them)",
};
