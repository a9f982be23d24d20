/** `uprobe count`: how often each place is hit; live on a terminal, at the end a table or JSON lines. */
import { isatty } from 'node:tty';
import type { EngineName, Uprobe, UprobeSpec } from '../index.js';
import { jsonText } from '../base/escape.js';
import { LineWriter } from '../outputs/line-writer.js';
import { LiveLines } from '../outputs/live.js';
import { table } from '../outputs/table.js';
import { abandonedIn, armPlaces, describeAbandoned } from './arm.js';
import type { ArmedPlace } from './arm.js';
import { Ending } from './ending.js';
import { note, openOutput } from './output.js';
import { checkNamed, findPlaces } from './places.js';
import type { WantedPlace } from './places.js';
import { parseProbe } from './probe-spec.js';
import { run } from './run.js';
import { chooseTargets } from './targets.js';
import type { TargetOptions, Targets } from './targets.js';

export interface CountOptions extends TargetOptions {
  readonly json?: boolean;
  /** Milliseconds. */
  readonly duration?: number;
  readonly output?: string;
  readonly engine: 'auto' | EngineName;
  readonly trustPlace?: boolean;
}

const REDRAW_MS = 250;
const COLUMNS = [
  { title: 'HITS', align: 'right' },
  { title: 'MISSED', align: 'right' },
  { title: 'PROBE' },
] as const;

export async function count(
  probes: readonly string[],
  options: CountOptions,
  command: readonly string[] | undefined,
): Promise<number> {
  const specs = probes.map(parseProbe);
  const targets = chooseTargets(options, command);
  const ending = new Ending();
  const { trustPlace = false, engine, output } = options;
  let fd = -1;
  const plan = { trustPlace, preHandler: false, postHandler: false };
  checkNamed(specs, targets, { engine, plan });
  return run({
    targets,
    duration: options.duration,
    ending,
    arm: async (whom) => {
      const { pids } = whom;
      const found = findPlaces(specs, { pids, engine, plan: { ...plan, processes: pids } });
      fd = openOutput(output, targets.kind === 'command' ? 'command' : 'nothing');
      return armPlaces(found, { whom, engine, trustPlace, ending, handlers });
    },
    started: (places) => live(places, fd, targets, options),
    finished: (places) => {
      const lines = new LineWriter(fd, (error) => ending.end({ why: 'output', error }));
      for (const line of options.json === true ? jsonLines(places) : tableLines(places)) lines.line(line);
      lines.flush();
      const abandoned = describeAbandoned(places);
      if (abandoned !== undefined && options.json !== true) note(abandoned);
    },
  });
}

const NOTHING = { returnHandler: (): undefined => undefined };

/** The engine counts arrivals by itself; of returns it tells. */
const handlers = ({ isReturn }: WantedPlace): Pick<UprobeSpec, 'returnHandler'> => (isReturn ? NOTHING : {});

/** What an ifunc may stand for is one probe, and so is one place in several trees of processes: all together. */
const hitsOf = ({ uprobes }: ArmedPlace): bigint => uprobes.reduce((sum, u) => sum + u.nhits, 0n);
const missedOf = ({ uprobes }: ArmedPlace): bigint => uprobes.reduce((sum, u) => sum + u.nmissed, 0n);

/** Most hits first; what was never hit in the order of the probes. */
function ranked(places: readonly ArmedPlace[]): Row[] {
  const rows = places.map((place) => ({ place, hits: hitsOf(place), missed: missedOf(place) }));
  return rows.sort((a, b) => Number(b.hits - a.hits));
}

interface Row {
  readonly place: ArmedPlace;
  readonly hits: bigint;
  readonly missed: bigint;
}

/** What a glob matched and nobody ran is only counted: it may be thousands of places. */
function tableLines(places: readonly ArmedPlace[]): string[] {
  const shown = ranked(places).filter((r) => r.place.wanted.isNamed || r.hits > 0n || r.missed > 0n);
  const rows = shown.map(({ place, hits, missed }) => [String(hits), String(missed), place.wanted.probe]);
  const idle = places.length - shown.length;
  return idle === 0 ? table(COLUMNS, rows) : [...table(COLUMNS, rows), `${idle} more places were not hit`];
}

function* jsonLines(places: readonly ArmedPlace[]): Iterable<string> {
  for (const place of places) {
    const { uprobes, wanted } = place;
    // Of an ifunc's functions the one that was called.
    const [uprobe] = [...uprobes].sort((a, b) => Number(b.nhits - a.nhits));
    if (uprobe === undefined) continue;
    const symbol = wanted.symbol ?? uprobe.symbol;
    yield jsonText({
      probe: wanted.probe,
      path: uprobe.module.path,
      symbol: symbol ?? null,
      symbolOffset: symbol === undefined ? null : uprobe.symbolOffset,
      offset: uprobe.offset,
      // Below 2^53: at a microsecond a hit that is 285 years.
      hits: Number(hitsOf(place)),
      missed: Number(missedOf(place)),
      ...(wanted.isReturn && { abandoned: Number(abandonedIn([place])) }),
      ...implementationsOf(uprobes),
    });
  }
}

/** Where a name stands for several functions: each of them, over all processes. */
function implementationsOf(uprobes: readonly Uprobe[]): object {
  const byOffset = new Map<number, { offset: number; hits: number; missed: number }>();
  for (const { offset, nhits, nmissed } of uprobes) {
    const { hits = 0, missed = 0 } = byOffset.get(offset) ?? {};
    byOffset.set(offset, { offset, hits: hits + Number(nhits), missed: missed + Number(nmissed) });
  }
  return byOffset.size > 1 ? { implementations: [...byOffset.values()] } : {};
}

/**
 * The table while the run lasts. Not where a command writes to the same terminal: drawing in place would take its
 * lines away.
 */
function live(
  places: readonly ArmedPlace[],
  fd: number,
  targets: Targets,
  options: CountOptions,
): (() => void) | undefined {
  const shared = targets.kind === 'command' && (isatty(1) || fd !== 2);
  if (options.json === true || options.output !== undefined || !isatty(fd) || shared) return undefined;
  const stream = fd === 2 ? process.stderr : process.stdout;
  const lines = new LiveLines(fd, () => ({ rows: stream.rows || 24, columns: stream.columns || 80 }));
  const draw = (): void => {
    const all = tableLines(places);
    const fits = all.length <= lines.height;
    lines.draw(
      fits ? all : [...all.slice(0, lines.height - 1), `… and ${all.length - lines.height + 1} more`],
    );
  };
  draw();
  const timer = setInterval(draw, REDRAW_MS);
  return () => {
    clearInterval(timer);
    lines.clear();
  };
}
