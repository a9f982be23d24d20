/** Which engine serves a site: the first in the list that can, or the one the user forces. */
import type { Refusal } from '../base/errors.js';
import type { ArmableSite, Consumer, Engine, EngineName } from '../engines/engine.js';
import type { WantedProcesses } from './spec.js';

/** One engine, made only when it is needed, or the reason why there is none. In the order of preference. */
export interface EngineOffer {
  readonly name: EngineName;
  /** There is no such engine in this version. */
  readonly missing?: Refusal;
  /** Whether it can serve these processes at all. */
  refuseProcesses?(processes: WantedProcesses): Refusal | undefined;
  /** As `Engine.canArm`, without making the engine. */
  canArm?: Engine['canArm'];
  /** How it would take a site that it can arm: what is worth knowing, for people. */
  describe?(site: ArmableSite): string;
  /** Why it can serve nobody here: what this machine or user lacks. */
  unavailable?(): Refusal | undefined;
  /** The engine, made at the first call. */
  engine?(): Engine;
}

/** What a site asks of an engine. */
export interface Need {
  readonly site: ArmableSite;
  readonly consumers: readonly Consumer[];
  /** Those of all consumers. None: not asked, where only the place matters. */
  readonly processes: readonly WantedProcesses[];
}

export interface EngineVerdict {
  readonly offer: EngineOffer;
  readonly refusal?: Refusal;
  readonly note?: string;
}

/** How much a refusal tells: of several, the greatest is shown. */
const SAYS = { missing: 0, processes: 1, machine: 2, place: 3 } as const;
type Found = { readonly refusal: Refusal; readonly says: number } | undefined;

/** Every engine's answer, in the order of preference. */
export const verdicts = (offers: readonly EngineOffer[], need: Need): EngineVerdict[] =>
  offers.map((offer) => {
    const refusal = refusalOf(offer, need)?.refusal;
    if (refusal !== undefined) return { offer, refusal };
    const note = offer.describe?.(need.site);
    return { offer, ...(note !== undefined && { note }) };
  });

/** The engine to take, or the refusal to show: that of the forced engine, else the one that tells most. */
export function chooseEngine(
  wanted: 'auto' | EngineName,
  offers: readonly EngineOffer[],
  need: Need,
): { readonly engine: Engine } | { readonly refusal: Refusal } {
  const found: Found[] = [];
  for (const offer of allowed(wanted, offers)) {
    const refusal = refusalOf(offer, need);
    if (refusal === undefined) return { engine: offer.engine!() };
    found.push(refusal);
  }
  return { refusal: mostTelling(found, wanted) };
}

/** Of equals the most preferred engine's. */
function mostTelling(found: readonly Found[], wanted: 'auto' | EngineName): Refusal {
  let most: Found;
  for (const one of found) if (one !== undefined && (most === undefined || one.says > most.says)) most = one;
  return most?.refusal ?? { code: 'engine-not-available', reason: `there is no ${wanted} engine` };
}

const allowed = (wanted: 'auto' | EngineName, offers: readonly EngineOffer[]): EngineOffer[] =>
  offers.filter((o) => wanted === 'auto' || o.name === wanted);

function refusalOf(offer: EngineOffer, { site, consumers, processes }: Need): Found {
  const refusal = processes.map((p) => refusalOfProcesses(offer, p)).find((r) => r !== undefined);
  return (
    missing(offer) ??
    refusal ??
    said(offer.canArm?.(site, consumers), SAYS.place) ??
    said(offer.unavailable?.(), SAYS.machine)
  );
}

const missing = (offer: EngineOffer): Found => said(offer.missing, SAYS.missing);
const refusalOfProcesses = (offer: EngineOffer, processes: WantedProcesses): Found =>
  missing(offer) ?? said(offer.refuseProcesses?.(processes), SAYS.processes);
const said = (refusal: Refusal | undefined, says: number): Found => refusal && { refusal, says };

/** The first engine that may be taken and can serve these processes, whatever the place. */
export const preferredEngine = (
  wanted: 'auto' | EngineName,
  offers: readonly EngineOffer[],
  processes: WantedProcesses,
): EngineOffer | undefined =>
  allowed(wanted, offers).find((o) => refusalOfProcesses(o, processes) === undefined);

/** Before any file is looked at: why no engine that may be taken can serve these processes. */
export function refuseProcesses(
  wanted: 'auto' | EngineName,
  offers: readonly EngineOffer[],
  processes: WantedProcesses,
): Refusal | undefined {
  if (preferredEngine(wanted, offers, processes) !== undefined) return undefined;
  return mostTelling(
    allowed(wanted, offers).map((o) => refusalOfProcesses(o, processes)),
    wanted,
  );
}
