/**
 * One hit through all uprobes of its site, in registration order, each seeing the registers its predecessor left. On
 * the hot path: no closures, nothing computed that no handler asks for.
 */
import type { Phase, RawHit, Verdict } from '../engines/engine.js';
import { FaultView, HitView, PreView, ReturnView, endHit } from './hit.js';
import { PtRegs, beginChanges, endRegs, haveChanged, undoChanges } from './regs.js';
import type { Registration } from './registration.js';
import { reportError } from './report.js';
import type { Site } from './site.js';
import type { CheckedSpec } from './spec.js';
import type { Fault } from './types.js';

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
  const { phase } = raw;
  const regs = new PtRegs(raw.regs);
  let skip = false;
  let changed = false;
  handled.length = 0;
  // `registrations` is replaced, not changed, when uprobes come and go.
  for (const registration of site.registrations) {
    if (!concerns(registration, raw, phase)) continue;
    if (!raw.alive()) break;
    const verdict = call(registration, raw, regs, phase);
    if (countsAt(registration.spec, phase)) handled.push(registration);
    if (haveChanged(regs)) changed = true;
    if (verdict === 'skip') skip = true;
    else if (verdict === 'handled') {
      skip = true;
      break;
    } else if (verdict === 'remove') {
      registration.live = false;
      leave(registration);
    }
  }
  endRegs(regs);
  if (raw.alive()) for (const registration of handled) registration.handled++;
  if (skip) return SKIP;
  return changed ? RUN_CHANGED : RUN;
}

/** Whether a handler of this uprobe is to be called now. */
function concerns(registration: Registration, raw: RawHit, phase: Phase): boolean {
  if (handlerFor(registration.spec, phase) === undefined) return false;
  if (!registration.live || !registration.wants(raw.pid, raw.trees)) return false;
  return phase !== 'return' || registration.id <= raw.entry.lastConsumer;
}

function handlerFor(spec: CheckedSpec, phase: Phase): unknown {
  switch (phase) {
    case 'pre':
      return spec.preHandler;
    case 'post':
      return spec.postHandler;
    case 'fault':
      return spec.faultHandler;
    case 'return':
      return spec.returnHandler;
  }
}

/** A hit is counted once: at the first handler of the uprobe that it can reach. */
function countsAt(spec: CheckedSpec, phase: Phase): boolean {
  if (phase === 'pre' || spec.preHandler !== undefined) return phase === 'pre';
  if (phase === 'post' || spec.postHandler !== undefined) return phase === 'post';
  return phase === 'return' || spec.returnHandler === undefined;
}

/** The handler's answer; undefined when it threw. */
function call(registration: Registration, raw: RawHit, regs: PtRegs, phase: Phase): unknown {
  beginChanges(regs);
  try {
    const verdict = callHandler(registration, raw, regs, phase);
    if (typeof verdict === 'object' && verdict !== null) refusePromise(verdict);
    else if (typeof verdict === 'string') checkWord(verdict, phase);
    // what a fault handler does counts only where it says so
    if (phase === 'fault' && verdict !== 'handled') undoChanges(regs);
    return verdict;
  } catch (error) {
    undoChanges(regs);
    registration.errors++;
    if (phase === 'fault' || !repaired(registration, raw, regs, phase, error))
      reportError(registration, phase, raw.pid, raw.tid, error);
    return undefined;
  }
}

function callHandler(registration: Registration, raw: RawHit, regs: PtRegs, phase: Phase): unknown {
  const { spec, view, calls } = registration;
  switch (phase) {
    case 'pre': {
      const hit = new PreView(raw, view, regs);
      try {
        return spec.preHandler!(hit);
      } finally {
        if (raw.call !== 0 && spec.returnHandler !== undefined && hit.call !== undefined)
          calls.set(raw.call, hit.call);
        endHit(hit);
      }
    }
    case 'post':
      return during(new HitView(raw, view, regs), spec.postHandler!);
    case 'fault':
      return during(new FaultView(raw, view, regs, undefined), spec.faultHandler!);
    case 'return': {
      const value = calls.get(raw.call);
      calls.delete(raw.call);
      return during(new ReturnView(raw, view, regs, value), spec.returnHandler!);
    }
  }
}

function during<H extends HitView>(hit: H, handler: (hit: H) => unknown): unknown {
  try {
    return handler(hit);
  } finally {
    endHit(hit);
  }
}

/** A handler threw: the uprobe's fault handler may deal with it, and what that writes to registers then holds. */
function repaired(
  registration: Registration,
  raw: RawHit,
  regs: PtRegs,
  handler: 'pre' | 'post' | 'return',
  error: unknown,
): boolean {
  const { faultHandler } = registration.spec;
  if (faultHandler === undefined) return false;
  const fault: Fault = { origin: 'handler', handler, error };
  beginChanges(regs);
  try {
    const verdict: unknown = during(new FaultView(raw, registration.view, regs, fault), faultHandler);
    if (typeof verdict === 'object' && verdict !== null) refusePromise(verdict);
    else if (typeof verdict === 'string') checkWord(verdict, 'fault');
    if (verdict === 'handled') return true;
    undoChanges(regs);
  } catch (e) {
    undoChanges(regs);
    registration.errors++;
    reportError(registration, 'fault', raw.pid, raw.tid, e);
  }
  return false;
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

/** What each kind of handler may say. */
const VERDICTS: Readonly<Record<Phase, readonly string[]>> = {
  pre: ['skip', 'remove'],
  post: ['remove'],
  fault: ['handled'],
  return: ['remove'],
};

/** Any other value is a by-product (`() => n++`); a word was meant to be one of ours, and must not be ignored in silence. */
function checkWord(word: string, phase: Phase): void {
  const words = VERDICTS[phase];
  if (words.includes(word)) return;
  const what = phase === 'pre' ? '' : `${phase} `;
  throw new TypeError(
    `the ${what}handler returned ${JSON.stringify(word.slice(0, 60))}: it may return ` +
      `${words.map((w) => `'${w}'`).join(' or ')}, or nothing`,
  );
}

/**
 * The handlers of one phase of a hit could not run, or ran beyond their deadline. A post handler that is missed counts
 * also where the pre handler of the same uprobe had run: what did not happen is never silent.
 */
export function countMissed(site: Site, pid: number, trees: readonly number[], phase: Phase): void {
  for (const registration of site.registrations)
    if (
      handlerFor(registration.spec, phase) !== undefined &&
      registration.live &&
      registration.wants(pid, trees)
    )
      registration.missed++;
}

/** Calls that will not return. */
export function countAbandoned(
  site: Site,
  pid: number,
  trees: readonly number[],
  calls: readonly number[],
): void {
  for (const registration of site.registrations) {
    if (registration.spec.returnHandler === undefined || !registration.wants(pid, trees)) continue;
    registration.abandoned += calls.length;
    for (const id of calls) registration.calls.delete(id);
  }
}
