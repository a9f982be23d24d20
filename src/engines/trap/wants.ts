/** What all consumers of one site together want in one process. */
import type { Consumer, ProcessSet, SiteFacts } from '../engine.js';
import type { TracerConsumer } from './protocol.js';
import type { Process } from './thread.js';

export interface Want {
  readonly site: SiteFacts;
  /** Somebody wants it of just this process, whose children are then not concerned. */
  readonly byPid: boolean;
  /** Consumers without handlers: the tracer counts their hits itself. */
  readonly counters: readonly number[];
  /** Which handlers somebody has. */
  readonly pre: boolean;
  readonly post: boolean;
  readonly fault: boolean;
  readonly return: boolean;
  /** The newest consumer: those with greater ids have not seen what happened before. */
  readonly lastConsumer: number;
  /** How long a hit may wait, ms: the most patient consumer decides. */
  readonly deadline: number;
}

/** undefined: nobody wants this site in this process. */
export function wantFor(
  site: SiteFacts,
  consumers: readonly TracerConsumer[],
  process: Process,
): Want | undefined {
  const mine = consumers.filter((c) => concerns(c.processes, process));
  if (mine.length === 0) return undefined;
  const withHandlers = mine.filter(hasHandlers);
  return {
    site,
    byPid: mine.some((c) => treeOf(c.processes) === undefined),
    counters: mine.filter((c) => !hasHandlers(c)).map((c) => c.counter),
    pre: mine.some((c) => c.pre),
    post: mine.some((c) => c.post),
    fault: mine.some((c) => c.fault),
    return: mine.some((c) => c.return),
    lastConsumer: Math.max(...mine.map((c) => c.id)),
    deadline: Math.max(0, ...withHandlers.map((c) => c.deadline)),
  };
}

export const hasHandlers = (c: Consumer): boolean => c.pre || c.post || c.fault || c.return;

/** A pid means the process that had it when it was named, not one that gets it later. */
function concerns(processes: ProcessSet, process: Process): boolean {
  const root = treeOf(processes);
  if (root !== undefined) return process.trees.includes(root);
  return process.isNamed && pidsOf(processes).includes(process.pid);
}

/** The processes that are named one by one. */
export const pidsOf = (processes: ProcessSet): readonly number[] =>
  processes === 'all' || 'tree' in processes ? [] : processes;

/** The root of the tree that is meant, where one is. */
export const treeOf = (processes: ProcessSet): number | undefined =>
  processes !== 'all' && 'tree' in processes ? processes.tree : undefined;
