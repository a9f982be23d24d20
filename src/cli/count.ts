/** `uprobe count`: how often each place is hit; live on a terminal, at the end a table or JSON lines. */
import type { Uprobe } from '../index.js';
import { jsonText } from '../base/escape.js';
import { table } from '../outputs/table.js';
import type { Column } from '../outputs/table.js';
import { abandonedIn, missedIn, missedText } from './arm.js';
import type { ArmedPlace } from './arm.js';
import { countingOf } from './counting.js';
import type { Counted, Counting } from './counting.js';
import { measure, placeJson, redraw } from './measure.js';
import type { MeasureOptions } from './measure.js';
import { parseProbe } from './probe-spec.js';
import type { WhenOptions } from './when.js';

export interface CountOptions extends MeasureOptions, WhenOptions {}

const REDRAW_MS = 250;

export async function count(
  probes: readonly string[],
  options: CountOptions,
  command: readonly string[] | undefined,
): Promise<number> {
  const specs = probes.map(parseProbe);
  const counting = await countingOf(options, specs);
  const isGrouped = options.by !== undefined;
  const lines = isGrouped ? keyLines : placeLines;
  return measure({
    specs,
    options,
    command,
    exprs: counting.exprs,
    handlers: (isReturn) => counting.handlers(isReturn),
    started: (places, output) => {
      const live = output.live();
      return live && redraw(live, REDRAW_MS, () => lines(counting, places));
    },
    result: (places) =>
      options.json === true ? jsonLines(counting, places, isGrouped) : lines(counting, places),
    remarks: (places) => [counting.remark(), isGrouped ? missedText(places) : undefined],
  });
}

/** Most hits first; what was never hit in the order of the probes. */
const ranked = (counting: Counting, places: readonly ArmedPlace[]): Counted[] =>
  counting.rows(places).toSorted((a, b) => Number(b.hits - a.hits));

/** What a glob matched and nobody ran is only counted: it may be thousands of places. */
function placeLines(counting: Counting, places: readonly ArmedPlace[]): string[] {
  const columns: Column[] = [
    { title: 'HITS', align: 'right' },
    { title: 'MISSED', align: 'right' },
    { title: 'PROBE' },
  ];
  const rows = ranked(counting, places).map((r) => ({ ...r, missed: missedIn([r.place]) }));
  const shown = rows.filter((r) => r.place.wanted.isNamed || r.hits > 0n || r.missed > 0n);
  const cells = shown.map(({ place, hits, missed }) => [String(hits), String(missed), place.wanted.probe]);
  const idle = places.length - shown.length;
  return idle === 0 ? table(columns, cells) : [...table(columns, cells), `${idle} more places were not hit`];
}

function keyLines(counting: Counting, places: readonly ArmedPlace[]): string[] {
  const rows = ranked(counting, places);
  const keys = counting.keys(rows);
  const columns: Column[] = [
    { title: 'HITS', align: 'right' },
    ...counting.titles.map((title) => ({ title })),
    { title: 'PROBE' },
  ];
  const cells = rows.map(({ place, key, hits }) => [String(hits), ...keys.texts(key), place.wanted.probe]);
  const idle = places.length - new Set(rows.map((r) => r.place)).size;
  const words = idle === 1 ? '1 place was not hit' : `${idle} places were not hit`;
  return [...(rows.length > 0 ? table(columns, cells) : []), ...(idle > 0 ? [words] : [])];
}

function* jsonLines(counting: Counting, places: readonly ArmedPlace[], isGrouped: boolean): Iterable<string> {
  const rows = isGrouped ? ranked(counting, places) : counting.rows(places);
  const keys = counting.keys(rows);
  for (const { place, key, hits } of rows) {
    const named = placeJson(place);
    if (named === undefined) continue;
    // Below 2^53: at a microsecond a hit that is 285 years.
    if (isGrouped) yield jsonText({ ...named, by: keys.json(key), hits: Number(hits) });
    else yield jsonText({ ...named, hits: Number(hits), ...othersOf(place) });
  }
}

const othersOf = (place: ArmedPlace): object => ({
  missed: Number(missedIn([place])),
  ...(place.wanted.isReturn && { abandoned: Number(abandonedIn([place])) }),
  ...implementationsOf(place.uprobes),
});

/** Where a name stands for several functions: each of them, over all processes. */
function implementationsOf(uprobes: readonly Uprobe[]): object {
  const byOffset = new Map<number, { offset: number; hits: number; missed: number }>();
  for (const { offset, nhits, nmissed } of uprobes) {
    const { hits = 0, missed = 0 } = byOffset.get(offset) ?? {};
    byOffset.set(offset, { offset, hits: hits + Number(nhits), missed: missed + Number(nmissed) });
  }
  return byOffset.size > 1 ? { implementations: [...byOffset.values()] } : {};
}
