/** Which engine serves a site: the first in the list that can, or the one the user forces. */
import type { Refusal } from '../base/errors.js';
import type { Displaced, Instruction } from '../arch/arch.js';
import type { Consumer, Engine, EngineName } from '../engines/engine.js';
import type { WantedProcesses } from './spec.js';

/** One engine, made only when it is needed, or the reason why there is none. In the order of preference. */
export interface EngineOffer {
  readonly name: EngineName;
  /** Why it can serve nobody here. */
  readonly unavailable?: Refusal;
  /** Whether it can serve these processes at all. */
  refuseProcesses?(processes: WantedProcesses): Refusal | undefined;
  /** As `Engine.canArm`, without making the engine. */
  canArm?: Engine['canArm'];
  /** The engine, made at the first call. */
  engine?(): Engine;
}

/** What a site asks of an engine. */
export interface Need {
  readonly instruction: Instruction;
  readonly displaced: Displaced;
  readonly consumers: readonly Consumer[];
  /** Undefined: not asked, where only the place matters. */
  readonly processes: WantedProcesses | undefined;
}

export interface EngineVerdict {
  readonly offer: EngineOffer;
  readonly refusal?: Refusal;
}

/** Every engine's answer, in the order of preference. */
export const verdicts = (offers: readonly EngineOffer[], need: Need): EngineVerdict[] =>
  offers.map((offer) => {
    const refusal = refusalOf(offer, need);
    return { offer, ...(refusal && { refusal }) };
  });

/** The engine to take, or the refusal to show: that of the forced engine, else that of the most preferred one. */
export function chooseEngine(
  wanted: 'auto' | EngineName,
  offers: readonly EngineOffer[],
  need: Need,
): { readonly engine: Engine } | { readonly refusal: Refusal } {
  let first: Refusal | undefined;
  for (const offer of offers) {
    if (wanted !== 'auto' && offer.name !== wanted) continue;
    const refusal = refusalOf(offer, need);
    if (refusal === undefined) return { engine: offer.engine!() };
    // One that exists says more than one that does not.
    if (first === undefined || offer.unavailable === undefined) first = refusal;
  }
  return { refusal: first ?? { code: 'engine-not-available', reason: `there is no ${wanted} engine` } };
}

function refusalOf(offer: EngineOffer, need: Need): Refusal | undefined {
  if (offer.unavailable !== undefined) return offer.unavailable;
  const processes = need.processes && offer.refuseProcesses?.(need.processes);
  if (processes !== undefined) return processes;
  const { instruction, displaced, consumers } = need;
  const site = displaced.ok
    ? { template: displaced.template }
    : { template: undefined, refusal: displaced.refusal };
  return offer.canArm?.({ instruction, ...site }, consumers);
}

/** The first engine that may be taken and can serve these processes, whatever the place. */
export const preferredEngine = (
  wanted: 'auto' | EngineName,
  offers: readonly EngineOffer[],
  processes: WantedProcesses,
): EngineOffer | undefined =>
  offers.find(
    (o) =>
      (wanted === 'auto' || o.name === wanted) &&
      o.unavailable === undefined &&
      o.refuseProcesses?.(processes) === undefined,
  );

/** Before any file is looked at: why no engine that may be taken can serve these processes. */
export function refuseProcesses(
  wanted: 'auto' | EngineName,
  offers: readonly EngineOffer[],
  processes: WantedProcesses,
): Refusal | undefined {
  if (preferredEngine(wanted, offers, processes) !== undefined) return undefined;
  const refusals = offers
    .filter((o) => wanted === 'auto' || o.name === wanted)
    .map((o) => ({
      exists: o.unavailable === undefined,
      refusal: o.unavailable ?? o.refuseProcesses?.(processes),
    }));
  // What an engine that exists says is worth more than that another does not.
  const { refusal } = refusals.find((r) => r.exists) ?? refusals[0] ?? {};
  return refusal ?? { code: 'engine-not-available', reason: `there is no ${wanted} engine` };
}
