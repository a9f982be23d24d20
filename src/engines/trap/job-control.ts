/**
 * The stops of job control. A process that is stopped is in "group-stop": every thread of it has a stop of its own (ptrace(2)),
 * and is to stay there until SIGCONT.
 */
import { SIG } from '../../linux/numbers.js';
import { isCaught, isIgnored } from '../../linux/signal-set.js';
import { EVENT } from '../../linux/ptrace.js';
import { stopEvent, stopSignal } from '../../linux/wait-status.js';

const STOPS: ReadonlySet<number> = new Set([SIG.stop, SIG.tstp, SIG.ttin, SIG.ttou]);

export const isGroupStop = (status: number): boolean =>
  stopEvent(status) === EVENT.stop && STOPS.has(stopSignal(status));

/**
 * A signal that runs nothing in the program. It must not be held: SIGCONT takes one back that has not stopped the process yet,
 * and of one that we keep the kernel knows nothing.
 */
export const onlyStops = (tid: number, signal: number): boolean =>
  signal === SIG.stop || (STOPS.has(signal) && !isCaught(tid, signal) && !isIgnored(tid, signal));
