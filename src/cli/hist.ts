/** `uprobe hist`: how often an expression had which values. */
import { histogram, linearHistogram } from '../index.js';
import type { Histogram, LinearHistogram } from '../index.js';
import { escapeText, jsonText } from '../base/escape.js';
import { histogramLines } from '../outputs/histogram.js';
import { missedText } from './arm.js';
import type { ArmedPlace } from './arm.js';
import { exprsOf } from './counting.js';
import { Keys, groupsOf } from './groups.js';
import type { Group } from './groups.js';
import { measure, overflowText, placeJson } from './measure.js';
import type { MeasureOptions } from './measure.js';
import type { LinearRange } from './options.js';
import { parseProbe } from './probe-spec.js';
import { addingHandlers, groupedTable } from './programs.js';
import { parseValue, parseWhen } from './when.js';
import type { WhenOptions } from './when.js';

export interface HistOptions extends MeasureOptions, WhenOptions {
  readonly linear?: LinearRange;
}

/** How many histograms there may be; one takes half a KiB, in the kernel for each CPU. */
export const MOST_HISTOGRAMS = 4096;

export const histogramMaker = (range: LinearRange | undefined): (() => Histogram | LinearHistogram) =>
  range === undefined ? histogram : () => linearHistogram(range);

export async function hist(
  probe: string,
  expression: string,
  options: HistOptions,
  command: readonly string[] | undefined,
): Promise<number> {
  const spec = parseProbe(probe);
  const moment = spec.isReturn ? 'return' : 'entry';
  const value = parseValue(expression, moment);
  const when = parseWhen(options, moment);
  const values = groupedTable(when.parts, histogramMaker(options.linear), MOST_HISTOGRAMS);
  const handlers = addingHandlers(spec.isReturn ? 'return' : 'pre', when, [{ to: values, value }]);
  return measure({
    specs: [spec],
    options,
    command,
    exprs: [value, ...exprsOf(when)],
    handlers: () => handlers,
    *result(places, { columns }) {
      const groups = ranked(groupsOf(values, places));
      const keys = new Keys(when.parts, groups);
      if (options.json === true) for (const group of groups) yield jsonLine(group, keys);
      else yield* groups.flatMap((g) => ['', header(g, keys), ...histogramLines(g.value.buckets(), columns)]);
    },
    remarks: (places) => [
      options.json !== true && values.size === 0 ? noValues(places) : undefined,
      overflowText(values.overflow, MOST_HISTOGRAMS),
      missedText(places),
    ],
  });
}

/** As bpftrace's: the greatest last, where a terminal shows it. */
export const ranked = <G extends { readonly value: { readonly count: number } }>(groups: readonly G[]): G[] =>
  groups.toSorted((a, b) => a.value.count - b.value.count);

type Histograms = Group<Histogram | LinearHistogram>;

export const header = ({ place, key }: Omit<Histograms, 'value'>, keys: Keys): string =>
  `@[${[escapeText(place.wanted.probe), ...keys.texts(key)].join(', ')}]:`;

const jsonLine = ({ place, key, value }: Histograms, keys: Keys): string =>
  jsonText({ ...placeJson(place), ...keys.jsonBy(key), ...value.toJSON() });

/** Nothing was shown: because nothing happened, or because none of it counted. */
export function noValues(places: readonly ArmedPlace[]): string {
  const hits = places.flatMap((p) => p.uprobes).reduce((sum, u) => sum + u.nhits, 0n);
  return hits === 0n ? 'no hits' : `no values of ${hits} hit${hits === 1n ? '' : 's'}`;
}
