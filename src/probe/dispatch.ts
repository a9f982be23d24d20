/**
 * One hit through all uprobes of its site, in registration order, each seeing the registers its predecessor left. On
 * the hot path: no closures, nothing computed that no handler asks for.
 */
import type { RawHit, Verdict } from '../engines/engine.js';
import { HitView, endHit } from './hit.js';
import { PtRegs, beginChanges, endRegs, haveChanged, undoChanges } from './regs.js';
import type { Registration } from './registration.js';
import { reportError } from './report.js';
import type { Site } from './site.js';

const RUN: Verdict = { skip: false, changed: false };
const RUN_CHANGED: Verdict = { skip: false, changed: true };
const SKIP: Verdict = { skip: true, changed: true };

/** Whose handlers ran at this hit and have it counted. One list for all hits: they are handled one at a time. */
const handled: Registration[] = [];

/** Unregister after this hit. */
export type Leave = (registration: Registration) => void;

/**
 * When the deadline passes meanwhile, the thread goes on as if there had been no handlers, and the engine says so to
 * `countMissed`: such a hit is counted there and not here.
 */
export function dispatch(site: Site, raw: RawHit, leave: Leave): Verdict {
  const isPre = raw.phase === 'pre';
  const regs = new PtRegs(raw.regs);
  let skip = false;
  let changed = false;
  handled.length = 0;
  // `registrations` is replaced, not changed, when uprobes come and go.
  for (const registration of site.registrations) {
    const { preHandler, postHandler } = registration.spec;
    const handler = isPre ? preHandler : postHandler;
    if (handler === undefined || !registration.live || !registration.wants(raw.pid)) continue;
    if (!raw.alive()) break;
    const verdict = call(registration, handler, raw, regs);
    // A hit is counted once: at the first handler of the uprobe that it can reach.
    if (isPre || preHandler === undefined) handled.push(registration);
    if (haveChanged(regs)) changed = true;
    if (verdict === 'skip' && isPre) skip = true;
    else if (verdict === 'remove') {
      registration.live = false;
      leave(registration);
    }
  }
  endRegs(regs);
  if (raw.alive()) for (const registration of handled) registration.handled++;
  if (skip) return SKIP;
  return changed ? RUN_CHANGED : RUN;
}

type AnyHandler = (hit: HitView) => unknown;

/** The handler's answer; undefined when it threw. */
function call(registration: Registration, handler: AnyHandler, raw: RawHit, regs: PtRegs): unknown {
  const hit = new HitView(raw, registration.view, regs);
  beginChanges(regs);
  try {
    const verdict = handler(hit);
    if (typeof verdict === 'object' && verdict !== null) refusePromise(verdict);
    else if (typeof verdict === 'string') checkWord(verdict, raw.phase);
    return verdict;
  } catch (error) {
    undoChanges(regs);
    registration.errors++;
    reportError(registration, raw.phase, raw.pid, raw.tid, error);
    return undefined;
  } finally {
    endHit(hit);
  }
}

/** An async function in disguise. What it does later happens to nobody's hit, and must not end the process either. */
function refusePromise(value: object): void {
  if (!('then' in value) || typeof value.then !== 'function') return;
  const ignore = (): void => undefined;
  (value.then as (a: () => void, b: () => void) => void)(ignore, ignore);
  throw new TypeError(
    'the handler returned a promise; a handler must be synchronous: the thread it was called for has gone on',
  );
}

/** Any other value is a by-product (`() => n++`); a word was meant to be one of ours, and must not be ignored in silence. */
function checkWord(word: string, phase: RawHit['phase']): void {
  if (word === 'remove' || (word === 'skip' && phase === 'pre')) return;
  const [what, words] = phase === 'pre' ? ['', "'skip' or 'remove'"] : ['post ', "'remove'"];
  throw new TypeError(
    `the ${what}handler returned ${JSON.stringify(word.slice(0, 60))}: it may return ${words}, or nothing`,
  );
}

/**
 * The handlers of one phase of a hit could not run, or ran beyond their deadline. A post handler that is missed counts
 * also where the pre handler of the same uprobe had run: what did not happen is never silent.
 */
export function countMissed(site: Site, pid: number, phase: 'pre' | 'post'): void {
  for (const registration of site.registrations) {
    const { preHandler, postHandler } = registration.spec;
    const handler = phase === 'pre' ? preHandler : postHandler;
    if (handler !== undefined && registration.live && registration.wants(pid)) registration.missed++;
  }
}
