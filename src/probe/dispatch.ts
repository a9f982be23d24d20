/**
 * One hit through all uprobes of its site, in registration order, each seeing the registers its predecessor left. On
 * the hot path: no closures, nothing computed that no handler asks for.
 */
import type { RawHit, Verdict } from '../engines/engine.js';
import { HitView, endHit } from './hit.js';
import { PtRegs, REGISTER_WORDS, endRegs } from './regs.js';
import type { Registration } from './registration.js';
import { reportError } from './report.js';
import type { Site } from './site.js';

const RUN: Verdict = { skip: false };
const SKIP: Verdict = { skip: true };

/** The registers before a handler: one that throws leaves none of its changes behind. */
const before = new BigUint64Array(REGISTER_WORDS);

/** Unregister after this hit. */
export type Leave = (registration: Registration) => void;

export function dispatch(site: Site, raw: RawHit, leave: Leave): Verdict {
  const isPre = raw.phase === 'pre';
  const regs = new PtRegs(raw.regs);
  let skip = false;
  // `registrations` is replaced, not changed, when uprobes come and go.
  for (const registration of site.registrations) {
    const { preHandler, postHandler } = registration.spec;
    const handler = isPre ? preHandler : postHandler;
    if (handler === undefined || !registration.live || !registration.wants(raw.pid)) continue;
    // A hit is counted once: at the first handler it can reach.
    const counts = isPre || preHandler === undefined;
    const verdict = call(registration, handler, raw, regs, counts);
    if (verdict === 'skip' && isPre) skip = true;
    else if (verdict === 'remove') {
      registration.live = false;
      leave(registration);
    }
  }
  endRegs(regs);
  return skip ? SKIP : RUN;
}

type AnyHandler = (hit: HitView) => unknown;

/** The handler's answer; undefined also when it threw, or when the thread did not wait for it. */
function call(registration: Registration, handler: AnyHandler, raw: RawHit, regs: PtRegs, counts: boolean): unknown {
  if (!raw.alive()) {
    if (counts) registration.missed++;
    return undefined;
  }
  const hit = new HitView(raw, registration.view, regs);
  before.set(raw.regs);
  let verdict: unknown;
  try {
    verdict = handler(hit);
    if (typeof verdict === 'object' && verdict !== null) refusePromise(verdict);
  } catch (error) {
    raw.regs.set(before);
    registration.errors++;
    reportError(registration, raw.phase, raw.pid, raw.tid, error);
    verdict = undefined;
  } finally {
    endHit(hit);
  }
  if (raw.alive()) {
    if (counts) registration.handled++;
    return verdict;
  }
  // Its deadline passed while it ran: the thread went on as if there had been no handler.
  if (counts) registration.missed++;
  return verdict === 'remove' ? verdict : undefined;
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

/** Hits of which handlers could not run. */
export function countMissed(site: Site, pid: number, phase: 'pre' | 'post'): void {
  for (const registration of site.registrations) {
    const { preHandler, postHandler } = registration.spec;
    const handler = phase === 'pre' ? preHandler : postHandler;
    if (handler !== undefined && registration.live && registration.wants(pid)) registration.missed++;
  }
}
