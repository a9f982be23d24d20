/** `uprobe latency`: how long calls of functions take, from entry to return. */
import { stats } from '../index.js';
import type { Histogram, LinearHistogram, Stats } from '../index.js';
import { jsonText } from '../base/escape.js';
import { histogramLines } from '../outputs/histogram.js';
import { statsLine } from '../outputs/stats-line.js';
import { durationText } from '../outputs/trace-line.js';
import { missedText } from './arm.js';
import { exprsOf } from './counting.js';
import { Keys, groupsOf } from './groups.js';
import type { Group } from './groups.js';
import { MOST_HISTOGRAMS, header, histogramMaker, noValues, ranked } from './hist.js';
import { measure, overflowText, placeJson } from './measure.js';
import type { MeasureOptions } from './measure.js';
import type { LinearRange } from './options.js';
import { parseReturn } from './probe-spec.js';
import { ALWAYS, DURATION, addingHandlers, groupedTable } from './programs.js';
import type { ParsedWhen, WhenOptions } from './when.js';

export interface LatencyOptions extends MeasureOptions, WhenOptions {
  readonly linear?: LinearRange;
}

export async function latency(
  probes: readonly string[],
  options: LatencyOptions,
  command: readonly string[] | undefined,
): Promise<number> {
  const specs = probes.map(parseReturn);
  const when = await whenAtReturn(options);
  const times = groupedTable(when.parts, histogramMaker(options.linear), MOST_HISTOGRAMS);
  const sums = groupedTable(when.parts, stats, MOST_HISTOGRAMS);
  const adding = [times, sums].map((to) => ({ to, value: DURATION }));
  const handlers = addingHandlers('return', when, adding);
  return measure({
    specs,
    options,
    command,
    exprs: exprsOf(when),
    handlers: () => handlers,
    *result(places, { columns }) {
      const groups = ranked(groupsOf(times, places));
      const keys = new Keys(when.parts, groups);
      const sumsOf = new Map(groupsOf(sums, places).map((g) => [g.id, g]));
      for (const group of groups) {
        const sum = sumsOf.get(group.id);
        if (options.json === true) yield jsonLine(group, sum, keys);
        else yield* textLines(group, sum, keys, columns);
      }
    },
    remarks: (places) => [
      options.json !== true && times.size === 0 ? noValues(places) : undefined,
      overflowText(times.overflow, MOST_HISTOGRAMS),
      missedText(places),
    ],
  });
}

/** What is asked of calls that have returned; with nothing asked, no parser is loaded. */
export async function whenAtReturn(options: WhenOptions): Promise<ParsedWhen> {
  if (options.if === undefined && options.by === undefined) return { ...ALWAYS, parts: [] };
  return (await import('./when.js')).parseWhen(options, 'return');
}

type Times = Group<Histogram | LinearHistogram>;
type Sums = Group<Stats>;

function textLines(times: Times, sums: Sums | undefined, keys: Keys, columns: number): string[] {
  const buckets = histogramLines(times.value.buckets(), columns, durationText);
  return [
    '',
    header(times, keys),
    ...buckets,
    ...(sums === undefined ? [] : [statsLine(sums.value, durationText)]),
  ];
}

function jsonLine({ place, key, value }: Times, sums: Sums | undefined, keys: Keys): string {
  const { count, sum, min, max, mean } = sums?.value.toJSON() ?? {};
  const ns = { sumNs: sum, minNs: min, maxNs: max, meanNs: mean };
  return jsonText({
    ...placeJson(place),
    ...keys.jsonBy(key),
    count,
    ...ns,
    buckets: value.toJSON().buckets,
  });
}
