/**
 * An instruction that can run nowhere but at its own place: the breakpoint is lifted for the one thread that steps over
 * it, and every other thread of the address space stands still until it is back. What came of the step is reported like
 * any other stop when they go on.
 */
import { PLAIN_STOP } from '../../linux/wait-status.js';
import type { Arm } from './address-space.js';
import type { Thread } from './thread.js';
import { type Tracees } from './tracees.js';

export function stepInPlace(tracees: Tracees, thread: Thread, arm: Arm): void {
  const { space } = thread.process;
  if (space.frozen > 0) {
    thread.pending = PLAIN_STOP; // the step is made when all go on
    return;
  }
  tracees.freeze(space); // one that does not stop is in uninterruptible sleep, and executes nothing
  try {
    if (!space.threads.has(thread)) return; // killed meanwhile
    space.lift(arm);
    tracees.stepAlone(thread);
    if (space.threads.size > 0) space.lower(arm);
  } finally {
    tracees.thaw(space);
  }
}
