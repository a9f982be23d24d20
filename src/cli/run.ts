/**
 * One run: start what shall be started, arm, wait for the end, take every probe away, and only then let go. What
 * `trace`, `count` and `run` have in common.
 */
import { readFileSync } from 'node:fs';
import type { Target } from '../index.js';
import { spawnTarget } from '../index.js';
import type { Armed, ArmedPlace } from './arm.js';
import type { Ending, Reason } from './ending.js';
import { exitAs } from './die.js';
import type { Status } from './die.js';
import { note } from './output.js';
import { whomOf } from './targets.js';
import type { Targets, Whom } from './targets.js';

/** A command that stops before its first instruction. */
export type Started = Pick<Target, 'pid' | 'exited' | 'resume' | 'kill'>;

export interface RunSteps {
  readonly targets: Targets;
  /** Milliseconds. */
  readonly duration: number | undefined;
  readonly ending: Ending;
  /** Who starts a command; left out, this thread, whose probes it is for. */
  readonly start?: (command: string, args: readonly string[]) => Promise<Started>;
  /** Register everything, in these processes. */
  arm(whom: Whom): Promise<Armed>;
  /** Just before the processes go on; what it returns is called when the run has ended. */
  started?(places: readonly ArmedPlace[]): (() => void) | undefined;
  /** All probes are gone. */
  finished(places: readonly ArmedPlace[]): void;
}

/** How often we look whether processes given by -p are still there. */
const LOOK_MS = 50;
/** setInterval takes a signed 32-bit number of milliseconds. */
const LONG_MS = 0x7fff_ffff;
/** How long a command that goes on may take to end before we leave it: its exit status may still become ours. */
const GRACE_MS = 200;

export async function run(steps: RunSteps): Promise<number> {
  const { targets, ending } = steps;
  ending.catchSignals();
  const target =
    targets.kind === 'command' ? await (steps.start ?? start)(targets.command, targets.args) : undefined;
  const whom = whomOf(targets, target?.pid);
  const armed = await armOrUndo(steps, whom, target);
  if (armed === undefined) return statusOfNothing(await ending.promise);
  const stop = steps.started?.(armed.places);
  const unwatch = watch(steps, whom, armed, target);
  await target?.resume();
  const reason = await ending.promise;
  unwatch();
  stop?.();
  await armed.unregister();
  steps.finished(armed.places);
  for (const sentence of armed.describeUnreached(targets)) note(sentence);
  const status = target === undefined ? undefined : await endOf(target, reason);
  return statusOf(reason, ending.outputError, status);
}

/** The command gets our own descriptors: its input and output are its own. */
const start = (command: string, args: readonly string[]): Promise<Started> =>
  spawnTarget(command, args, { stdio: 'inherit' });

/** Undefined: the end came before everything was armed. */
async function armOrUndo(
  steps: RunSteps,
  whom: Whom,
  target: Started | undefined,
): Promise<Armed | undefined> {
  try {
    const armed = await steps.arm(whom);
    if (steps.ending.reason === undefined) return armed;
    await armed.unregister();
  } catch (e) {
    abandon(target);
    if (steps.ending.reason === undefined) throw e;
    return undefined;
  }
  abandon(target);
  return undefined;
}

/** A command that has not run one instruction is nobody's loss. */
function abandon(target: Started | undefined): void {
  target?.kill('SIGKILL');
}

/** Whatever ends the run. Returns how to stop looking. */
function watch(steps: RunSteps, whom: Whom, armed: Armed, target: Started | undefined): () => void {
  const { targets, ending, duration } = steps;
  const timer =
    duration === undefined ? undefined : setTimeout(() => ending.end({ why: 'enough' }), duration);
  const end = (): void => ending.end({ why: 'ended' });
  let looking: NodeJS.Timeout | undefined;
  if (targets.kind === 'all') {
    // There is always a process that may still come. No engine keeps us alive for it: this does.
    looking = setInterval(() => undefined, LONG_MS);
  } else if (target !== undefined && whom.trees.size === 0) {
    void target.exited.then(end);
  } else {
    const isOver = whom.trees.size > 0 ? () => armed.isOver() : noneLeft(whom.pids);
    const look = (): void => void (isOver() && end());
    void target?.exited.then(look);
    looking = setInterval(look, LOOK_MS);
  }
  return () => {
    clearTimeout(timer);
    clearInterval(looking);
  };
}

/** Whether all of these have ended. */
export function noneLeft(pids: readonly number[]): () => boolean {
  const started = new Map(pids.map((pid) => [pid, startTime(pid)]));
  return () => {
    for (const [pid, time] of started) if (time === undefined || startTime(pid) !== time) started.delete(pid);
    return started.size === 0;
  };
}

/** When a process started (proc(5): field 22 of stat), undefined once it has ended: a pid alone may be another's. */
function startTime(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // The fields after the name, which is in parentheses and may hold any byte, begin with the third.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

/** How the command ended, if it has, or does within a moment. */
async function endOf(target: Started, reason: Reason): Promise<Status | undefined> {
  if (reason.why === 'ended') return target.exited;
  let timer: NodeJS.Timeout | undefined;
  const tooLong = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), GRACE_MS);
  });
  const status = await Promise.race([target.exited, tooLong]);
  clearTimeout(timer);
  if (status === undefined) note(`process ${target.pid} goes on`);
  return status;
}

/** The end came before the beginning. */
const statusOfNothing = (reason: Reason): number =>
  reason.why === 'signal'
    ? exitAs({ code: null, signal: reason.signal })
    : statusOf(reason, undefined, undefined);

/** The command's own end first; else whether we could do what we were asked. */
function statusOf(
  reason: Reason,
  outputError: NodeJS.ErrnoException | undefined,
  status: Status | undefined,
): number {
  if (reason.why === 'failed') {
    note(reason.error.message);
    return 1;
  }
  // EPIPE is how a reader says that it has seen enough: `| head`.
  if (outputError !== undefined && outputError.code !== 'EPIPE') {
    note(`cannot write: ${outputError.message}`);
    return 1;
  }
  return status === undefined ? 0 : exitAs(status);
}
