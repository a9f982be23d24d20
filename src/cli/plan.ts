/** `uprobe plan`: how places would be probed, or why not. Arms nothing, touches no process. */
import type {
  EngineName,
  IfuncChoice,
  PlanOptions as LibraryOptions,
  ModuleView,
  Place,
  PlacePlan,
} from '../index.js';
import { PlaceError } from '../base/errors.js';
import { escapeText, jsonText } from '../base/escape.js';
import { hex } from '../base/address.js';
import { LineWriter } from '../outputs/line-writer.js';
import { placeName } from '../outputs/trace-line.js';
import { filesOf, matchesOf, namedPlace, refusedBy } from './places.js';
import { parseProbe, probeText } from './probe-spec.js';
import type { ProbeSpec } from './probe-spec.js';
import { doingNothing } from './programs.js';
import { refusalSaid, said } from './words.js';

export interface PlanOptions {
  readonly json?: boolean;
  readonly engine: 'auto' | EngineName;
  readonly post?: boolean;
  readonly trustPlace?: boolean;
}

/** One place, or why there is none. */
type Answer =
  | { readonly probe: string; readonly plan: PlacePlan }
  | {
      readonly probe: string;
      readonly path: string;
      readonly refusal: { readonly code: string; readonly reason: string };
    };

export async function plan(probes: readonly string[], options: PlanOptions): Promise<number> {
  let broken: NodeJS.ErrnoException | undefined;
  const lines = new LineWriter(1, (error) => {
    broken = error;
  });
  let status = 0;
  for (const spec of probes.map(parseProbe)) {
    const isNamed = spec.place.kind !== 'glob' && spec.place.kind !== 'every';
    for (const answer of answersTo(spec, options)) {
      if (isNamed && !isPossible(answer, options)) status = 2;
      for (const line of options.json === true ? [jsonLine(answer, options)] : textLines(answer, options))
        lines.line(line);
      if (broken !== undefined) break;
    }
  }
  lines.flush();
  if (broken !== undefined && broken.code !== 'EPIPE') throw broken;
  return status;
}

function* answersTo(spec: ProbeSpec, options: PlanOptions): Iterable<Answer> {
  for (const { view } of filesOf(spec.pathname, [])) {
    try {
      const { place } = spec;
      if (place.kind === 'glob' || place.kind === 'every') {
        const refused: Answer[] = [];
        const refuse = (name: string, refusal: { code: string; reason: string }): void =>
          void refused.push({
            probe: probeText(spec.pathname, name, spec.isReturn),
            path: view.path,
            refusal,
          });
        for (const match of matchesOf(spec, view, {}, refuse))
          yield* answersFor(
            view,
            spec,
            probeText(spec.pathname, match.name, spec.isReturn),
            match.place,
            options,
          );
        yield* refused;
      } else {
        yield* answersFor(view, spec, spec.text, namedPlace(place), options);
      }
    } finally {
      view.close();
    }
  }
}

/** One, but where a name may stand for several functions. */
function answersFor(
  view: ModuleView,
  { isReturn }: ProbeSpec,
  probe: string,
  place: Place,
  options: PlanOptions,
): Answer[] {
  const { post = false, trustPlace = false } = options;
  try {
    const plans = view.plans(place, { trustPlace, postHandler: post, ...handlersFor(post, isReturn) });
    return plans.map((found) => ({ probe, plan: found }));
  } catch (e) {
    if (e instanceof PlaceError)
      return [{ probe, path: view.path, refusal: { code: e.code, reason: said(e) } }];
    throw e;
  }
}

/** Compiled ones: what only those can have counts, too. */
function handlersFor(post: boolean, isReturn: boolean): Pick<LibraryOptions, 'preHandler' | 'returnHandler'> {
  if (isReturn) return { preHandler: false, ...doingNothing('return') };
  return post ? { preHandler: false } : doingNothing('pre');
}

const isPossible = (a: Answer, options: PlanOptions): boolean =>
  'plan' in a && refusedBy(a.plan, options.engine) === undefined;

/** `engine`: what would be taken. */
function engineOf(found: PlacePlan, options: PlanOptions): EngineName | undefined {
  if (options.engine === 'auto') return found.chosen;
  return refusedBy(found, options.engine) === undefined ? options.engine : undefined;
}

function textLines(a: Answer, options: PlanOptions): string[] {
  if ('refusal' in a)
    return [escapeText(a.probe), `  cannot be probed: ${escapeText(a.refusal.reason)} (${a.refusal.code})`];
  const { path, symbol, symbolOffset, offset, address, instruction, engines, ifunc } = a.plan;
  const bytes = Buffer.from(instruction.bytes)
    .toString('hex')
    .replace(/..(?=.)/g, '$& ');
  const name = placeName(symbol, symbolOffset, offset);
  const taken = engineOf(a.plan, options);
  return [
    escapeText(a.probe),
    `  place        ${escapeText(path)}:${escapeText(name)}  offset ${hex(offset)}  address ${hex(address)}`,
    ...(ifunc === undefined ? [] : [ifuncLine(ifunc)]),
    `  instruction  ${instruction.text}  (${bytes})`,
    ...engines.map(({ engine, refusal, note }) => {
      if (refusal === undefined) {
        const how = note === undefined ? '' : `: ${note}`;
        return `  ${engine.padEnd(11)}  yes${engine === taken ? ', and it would be taken' : ''}${how}`;
      }
      const { code, reason, remedy } = refusalSaid(refusal);
      const advice = remedy === undefined ? '' : `. ${remedy}`;
      return `  ${engine.padEnd(11)}  no: ${escapeText(reason)}${escapeText(advice)} (${code})`;
    }),
  ];
}

function ifuncLine({ name, count }: IfuncChoice): string {
  const own = name === undefined ? '' : `${escapeText(name)}, `;
  return `  ifunc        ${own}${count === 1 ? 'all that' : `one of ${count} functions that`} the program may choose when it starts`;
}

function jsonLine(a: Answer, options: PlanOptions): string {
  if ('refusal' in a) return jsonText({ probe: a.probe, path: a.path, refusal: a.refusal });
  const { path, symbol, symbolOffset, offset, address, instruction, engines, ifunc } = a.plan;
  return jsonText({
    probe: a.probe,
    path,
    symbol: symbol ?? null,
    symbolOffset: symbolOffset ?? null,
    offset,
    address: hex(address),
    instruction: { bytes: Buffer.from(instruction.bytes).toString('hex'), text: instruction.text },
    engines: engines.map(({ engine, refusal, note }) => ({
      engine,
      refusal: refusal ? refusalSaid(refusal) : null,
      ...(note !== undefined && { note }),
    })),
    chosen: engineOf(a.plan, options) ?? null,
    ...(ifunc && { ifunc: { name: ifunc.name ?? null, count: ifunc.count } }),
  });
}
