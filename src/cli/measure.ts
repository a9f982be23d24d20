/** What `count`, `hist`, `latency` and `top` have in common: handlers that add up, and a result at the end. */
import { isatty } from 'node:tty';
import type { EngineName } from '../index.js';
import type { Expr } from '../handler/ir.js';
import { LineWriter } from '../outputs/line-writer.js';
import { LiveLines } from '../outputs/live.js';
import type { TerminalSize } from '../outputs/live.js';
import { armPlaces, describeAbandoned } from './arm.js';
import type { ArmedPlace } from './arm.js';
import { Ending } from './ending.js';
import { needsFloats } from './fields.js';
import { note, openOutput } from './output.js';
import { checkNamed, findPlaces } from './places.js';
import type { Handlers } from './places.js';
import type { ProbeSpec } from './probe-spec.js';
import { run } from './run.js';
import { chooseTargets, engineFor } from './targets.js';
import type { TargetOptions, Targets } from './targets.js';
import { UsageError } from './usage-error.js';

export interface MeasureOptions extends TargetOptions {
  readonly json?: boolean;
  /** Milliseconds. */
  readonly duration?: number;
  readonly output?: string;
  readonly engine: 'auto' | EngineName;
  readonly trustPlace?: boolean;
}

export interface Measurement {
  readonly specs: readonly ProbeSpec[];
  readonly options: MeasureOptions;
  readonly command: readonly string[] | undefined;
  /** What was given as expressions, with the option. */
  readonly exprs: readonly Expr[];
  /** What is called at a place, and where a function returns. */
  handlers(isReturn: boolean): Handlers;
  /** Everything is armed, and the processes go on. What it returns ends that. */
  started?(places: readonly ArmedPlace[], output: Output): (() => void) | undefined;
  /** When all probes are gone. */
  result(places: readonly ArmedPlace[], output: Output): Iterable<string>;
  /** What is said beside it. */
  remarks?(places: readonly ArmedPlace[]): readonly (string | undefined)[];
}

/** Where the result goes. */
export interface Output {
  readonly lines: LineWriter;
  readonly isTerminal: boolean;
  /** Of the terminal; where there is none, as wide as most are. */
  readonly columns: number;
  /** Lines that are drawn anew in place; undefined where that cannot be, or somebody else writes there, too. */
  live(): LiveLines | undefined;
}

export async function measure(wanted: Measurement): Promise<number> {
  const { specs, options, command } = wanted;
  const targets = chooseTargets(options, command);
  const ending = new Ending();
  const { trustPlace = false } = options;
  const engine = engineFor(targets, options.engine);
  if (engine === 'kernel') checkForKernel(wanted.exprs);
  const question = { engine, trustPlace, handlers: wanted.handlers.bind(wanted) };
  let output: Output | undefined;
  checkNamed(specs, targets, question);
  return run({
    targets,
    duration: options.duration,
    ending,
    arm: async (whom) => {
      const found = findPlaces(specs, whom, question);
      output = outputOf(options, targets, ending);
      return armPlaces(found, {
        ...question,
        whom,
        ending,
        handlers: ({ isReturn }) => wanted.handlers(isReturn),
      });
    },
    started: (places) => wanted.started?.(places, output!),
    finished: (places) => {
      const { lines } = output!;
      for (const line of wanted.result(places, output!)) lines.line(line);
      lines.flush();
      const abandoned = options.json === true ? undefined : describeAbandoned(places);
      for (const remark of [...(wanted.remarks?.(places) ?? []), abandoned])
        if (remark !== undefined) note(remark);
    },
  });
}

export function checkForKernel(exprs: readonly Expr[]): void {
  if (exprs.some(needsFloats))
    throw new UsageError(
      'the kernel engine has no floating-point numbers: leave them out, or use --engine trap with -p PID, --tree PID or ' +
        'a command after --',
    );
}

function outputOf({ json, output }: MeasureOptions, targets: Targets, ending: Ending): Output {
  const fd = openOutput(output, targets.kind === 'command' ? 'command' : 'nothing');
  const lines = new LineWriter(fd, (error) => ending.end({ why: 'output', error }));
  const isTerminal = isatty(fd);
  // Not without need: Node makes pipes non-blocking, and whoever shares them.
  const stream = (): Partial<TerminalSize> => (fd === 2 ? process.stderr : process.stdout);
  const isShared = targets.kind === 'command' && (isatty(1) || fd !== 2);
  const mayDraw = isTerminal && json !== true && output === undefined && !isShared;
  return {
    lines,
    isTerminal,
    get columns() {
      return (isTerminal && output === undefined && stream().columns) || 80;
    },
    live: () =>
      mayDraw
        ? new LiveLines(fd, () => ({ rows: stream().rows || 24, columns: stream().columns || 80 }))
        : undefined,
  };
}

/** A table in place, from now on; what does not fit is told. */
export function redraw(live: LiveLines, everyMs: number, lines: () => readonly string[]): () => void {
  const draw = (): void => {
    const all = lines();
    const fits = all.length <= live.height;
    live.draw(fits ? all : [...all.slice(0, live.height - 1), `… and ${all.length - live.height + 1} more`]);
  };
  draw();
  const timer = setInterval(draw, everyMs);
  return () => {
    clearInterval(timer);
    live.clear();
  };
}

/** Keys for which a table had no room. */
export const overflowText = (lost: number, capacity: number): string | undefined =>
  lost === 0
    ? undefined
    : `${lost} hit${lost === 1 ? ' was' : 's were'} not kept: there were more than ${capacity} different keys`;

/** What JSON says of a place. Of an ifunc's functions it is the one that was called. */
export function placeJson({ uprobes, wanted }: ArmedPlace): object | undefined {
  const [uprobe] = [...uprobes].toSorted((a, b) => Number(b.nhits - a.nhits));
  if (uprobe === undefined) return undefined;
  const symbol = wanted.symbol ?? uprobe.symbol;
  return {
    probe: wanted.probe,
    path: uprobe.module.path,
    symbol: symbol ?? null,
    symbolOffset: symbol === undefined ? null : uprobe.symbolOffset,
    offset: uprobe.offset,
  };
}
