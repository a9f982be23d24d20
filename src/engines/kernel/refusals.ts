/** What the kernel engine will not do, decided without touching a process. */
import { makeRefusal, type Refusal } from '../../base/errors.js';
import type { ArmableSite, Consumer, ProcessSet } from '../engine.js';
import { refuseHandlers } from './compile.js';
import { refuseInstruction } from './instructions.js';
import { means } from './machine.js';
import { refuseSampledHandlers, refuseSampling } from './sample-refusals.js';

/** Whether it can serve these processes at all. */
export function refuseProcesses(processes: ProcessSet): Refusal | undefined {
  if (processes === 'all') return undefined;
  if ('tree' in processes) return NO_TREES;
  return means() === 'samples' ? refuseSampling(processes) : undefined;
}

export function refusalFor(site: ArmableSite, consumers: readonly Consumer[]): Refusal | undefined {
  for (const consumer of consumers) {
    const refusal = refuseProcesses(consumer.processes) ?? refuseConsumer(consumer);
    if (refusal !== undefined) return refusal;
  }
  return refuseInstruction(site);
}

function refuseConsumer({
  pre,
  post,
  fault,
  return: atReturn,
  programs = {},
}: Consumer): Refusal | undefined {
  if (post) return noPhase('post');
  if (fault) return noPhase('fault');
  if ((pre && programs.pre === undefined) || (atReturn && programs.return === undefined)) return PLAIN;
  return means() === 'samples' ? refuseSampledHandlers(programs) : refuseHandlers(programs);
}

const noPhase = (phase: string): Refusal =>
  makeRefusal(
    'no-such-phase',
    `the kernel's uprobes run nothing at the moment of a ${phase} handler`,
    (words) => `Use ${words.engine('trap')}, with processes that are named`,
  );

const PLAIN = makeRefusal(
  'plain-handler',
  'the kernel engine runs handlers inside the kernel, and this one is an ordinary function',
  () =>
    'Compile it (compiled(…) around the function), or name the processes: an ordinary function can be called for those that are traced',
);

const NO_TREES = makeRefusal(
  'no-trees',
  'the kernel engine serves all processes or those that are named, and cannot follow a tree of them',
  (words) => `Leave the processes out for all of them, or use ${words.engine('trap')}`,
);
