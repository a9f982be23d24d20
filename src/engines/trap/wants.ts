/** What all consumers of one site together want in one process. */
import type { SiteFacts } from '../engine.js';
import type { TracerConsumer } from './protocol.js';

export interface Want {
  readonly site: SiteFacts;
  /** Consumers without handlers: the tracer counts their hits itself. */
  readonly counters: readonly number[];
  /** Someone's handlers must be called. */
  readonly handlers: boolean;
  readonly post: boolean;
  /** How long a hit may wait, ms: the most patient consumer decides. */
  readonly deadline: number;
}

/** undefined: nobody wants this site in this process. */
export function wantFor(
  site: SiteFacts,
  consumers: readonly TracerConsumer[],
  pid: number,
): Want | undefined {
  const mine = consumers.filter((c) => c.processes !== 'all' && c.processes.includes(pid));
  if (mine.length === 0) return undefined;
  const withHandlers = mine.filter((c) => c.pre || c.post);
  return {
    site,
    counters: mine.filter((c) => !c.pre && !c.post).map((c) => c.counter),
    handlers: withHandlers.length > 0,
    post: withHandlers.some((c) => c.post),
    deadline: Math.max(0, ...withHandlers.map((c) => c.deadline)),
  };
}

/** Every pid that some consumer names. */
export function pidsOf(consumers: readonly TracerConsumer[]): Set<number> {
  return new Set(consumers.flatMap((c) => (c.processes === 'all' ? [] : c.processes)));
}
