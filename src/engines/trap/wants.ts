/** What all consumers of one site together want in one process. */
import type { Consumer, ProcessSet, SiteFacts } from '../engine.js';
import type { TracerConsumer } from './protocol.js';

export interface Want {
  readonly site: SiteFacts;
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
  pid: number,
): Want | undefined {
  const mine = consumers.filter((c) => namedBy(c.processes).includes(pid));
  if (mine.length === 0) return undefined;
  const withHandlers = mine.filter(hasHandlers);
  return {
    site,
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

/** The processes that a consumer names. */
export const namedBy = (processes: ProcessSet): readonly number[] =>
  processes === 'all' ? [] : 'tree' in processes ? [processes.tree] : processes;

/** Every pid that some consumer names. */
export const pidsOf = (consumers: readonly TracerConsumer[]): Set<number> =>
  new Set(consumers.flatMap((c) => namedBy(c.processes)));
