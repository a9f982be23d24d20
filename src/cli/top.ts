/** `uprobe top`: which functions are called most, and how long they take; live on a terminal. */
import { stats } from '../index.js';
import type { Stats } from '../index.js';
import { jsonText } from '../base/escape.js';
import { table } from '../outputs/table.js';
import type { Column } from '../outputs/table.js';
import { durationText } from '../outputs/trace-line.js';
import type { ShownValue } from '../outputs/trace-line.js';
import { missedText } from './arm.js';
import type { ArmedPlace } from './arm.js';
import { countingOf, exprsOf } from './counting.js';
import type { Counting } from './counting.js';
import { Keys, groupsOf } from './groups.js';
import { whenAtReturn } from './latency.js';
import { measure, overflowText, placeJson, redraw } from './measure.js';
import type { MeasureOptions, Measurement } from './measure.js';
import { parseProbe, parseReturn } from './probe-spec.js';
import { DURATION, addingHandlers, groupedTable } from './programs.js';
import type { Grouped } from './programs.js';
import type { WhenOptions } from './when.js';

export interface TopOptions extends MeasureOptions, WhenOptions {
  /** Milliseconds. */
  readonly interval?: number;
  /** `--no-times`. */
  readonly times: boolean;
}

const REDRAW_MS = 1000;
/** A row for each function, and key of --by. */
const MOST_ROWS = 1 << 17;

interface Row {
  readonly place: ArmedPlace;
  readonly key: readonly ShownValue[];
  readonly count: bigint;
  /** Nanoseconds that have passed in its calls. */
  readonly total?: bigint;
}

type Source = Pick<Measurement, 'specs' | 'exprs' | 'handlers'> & {
  rows(places: readonly ArmedPlace[]): Row[];
  keys(rows: readonly Row[]): Keys;
  readonly titles: readonly string[];
  remark(): string | undefined;
};

export async function top(
  probes: readonly string[],
  options: TopOptions,
  command: readonly string[] | undefined,
): Promise<number> {
  const source = options.times ? await timesOf(probes, options) : await countsOf(probes, options);
  const { json = false, interval } = options;
  const view = new View(source, options.times);
  const { specs, exprs, handlers } = source;
  return measure({
    specs,
    options,
    command,
    exprs,
    handlers,
    started(places, output) {
      view.begin();
      const live = output.live();
      if (live !== undefined) return redraw(live, interval ?? REDRAW_MS, () => view.lines(places, true));
      if (interval === undefined) return undefined;
      const timer = setInterval(() => {
        for (const line of json ? view.json(places, true) : ['', ...view.lines(places, true)])
          output.lines.line(line);
      }, interval);
      return () => clearInterval(timer);
    },
    result: (places) => (json ? view.json(places, false) : view.lines(places, false)),
    remarks: (places) => [source.remark(), missedText(places)],
  });
}

async function timesOf(probes: readonly string[], options: TopOptions): Promise<Source> {
  const when = await whenAtReturn(options);
  const sums: Grouped<Stats> = groupedTable(when.parts, stats, MOST_ROWS);
  const handlers = addingHandlers('return', when, [{ to: sums, value: DURATION }]);
  return {
    specs: probes.map(parseReturn),
    exprs: exprsOf(when),
    handlers: () => handlers,
    rows: (places) =>
      groupsOf(sums, places).map(({ place, key, value }) => ({
        place,
        key,
        count: BigInt(value.count),
        total: value.sum,
      })),
    keys: (rows) => new Keys(when.parts, rows),
    titles: when.parts.map((p) => p.name.toUpperCase()),
    remark: () => overflowText(sums.overflow, MOST_ROWS),
  };
}

async function countsOf(probes: readonly string[], options: TopOptions): Promise<Source> {
  const specs = probes.map(parseProbe);
  const counting: Counting = await countingOf(options, specs);
  return {
    specs,
    exprs: counting.exprs,
    handlers: (isReturn) => counting.handlers(isReturn),
    rows: (places) => counting.rows(places).map(({ hits, ...rest }) => ({ ...rest, count: hits })),
    keys: (rows) => counting.keys(rows.map(({ count, ...rest }) => ({ ...rest, hits: count }))),
    titles: counting.titles,
    remark: () => counting.remark(),
  };
}

/** Rows with rates, since the last look or since the start. */
class View {
  readonly #source: Source;
  readonly #hasTimes: boolean;
  #start = 0;
  #looked = 0;
  #before = new Map<string, bigint>();

  constructor(source: Source, hasTimes: boolean) {
    this.#source = source;
    this.#hasTimes = hasTimes;
  }

  begin(): void {
    this.#start = this.#looked = performance.now();
  }

  /** @param isSince whether rates are since the last look */
  #look(places: readonly ArmedPlace[], isSince: boolean): (Row & { readonly rate: number })[] {
    const now = performance.now();
    // A look just after another one tells nothing.
    const seconds = Math.max(now - (isSince ? this.#looked : this.#start), 1) / 1000;
    const index = new Map(places.map((place, i) => [place, i]));
    const counts = new Map<string, bigint>();
    const rows = this.#source.rows(places).filter((r) => r.count > 0n);
    const rated = rows.map((row) => {
      const id = [index.get(row.place), ...row.key].join('\0');
      counts.set(id, row.count);
      const before = isSince ? (this.#before.get(id) ?? 0n) : 0n;
      return { ...row, rate: Number(row.count - before) / seconds };
    });
    if (isSince) [this.#looked, this.#before] = [now, counts];
    return rated.toSorted((a, b) => Number((b.total ?? b.count) - (a.total ?? a.count)));
  }

  lines(places: readonly ArmedPlace[], isSince: boolean): string[] {
    const rows = this.#look(places, isSince);
    const keys = this.#source.keys(rows);
    const times: Column[] = this.#hasTimes
      ? [
          { title: 'TOTAL', align: 'right' },
          { title: 'MEAN', align: 'right' },
        ]
      : [];
    const columns: Column[] = [
      { title: this.#hasTimes ? 'CALLS' : 'HITS', align: 'right' },
      { title: 'RATE/S', align: 'right' },
      ...times,
      ...this.#source.titles.map((title) => ({ title })),
      { title: 'PROBE' },
    ];
    const cells = rows.map(({ place, key, count, rate, total }) => [
      String(count),
      rateText(rate),
      ...(total === undefined ? [] : [durationText(total), durationText(total / count)]),
      ...keys.texts(key),
      place.wanted.probe,
    ]);
    const idle = places.length - new Set(rows.map((r) => r.place)).size;
    const words = idle === 1 ? '1 place was not hit' : `${idle} places were not hit`;
    return [...table(columns, cells), ...(idle > 0 ? [words] : [])];
  }

  *json(places: readonly ArmedPlace[], isSince: boolean): Iterable<string> {
    const rows = this.#look(places, isSince);
    const keys = this.#source.keys(rows);
    const seconds = Number(((performance.now() - this.#start) / 1000).toFixed(3));
    for (const { place, key, count, rate, total } of rows)
      yield jsonText({
        seconds,
        ...placeJson(place),
        ...keys.jsonBy(key),
        count: Number(count),
        rate: Number(rate.toFixed(3)),
        ...(total !== undefined && { sumNs: String(total), meanNs: Number(total) / Number(count) }),
      });
  }
}

/** Three digits that matter, as far as there are. */
const rateText = (rate: number): string => (rate >= 99.5 ? String(Math.round(rate)) : rate.toPrecision(3));
