/** `uprobe trace`: a line for every hit. */
import type { EngineName, Hit, ReturnHit, Uprobe, UprobeSpec } from '../index.js';
import { LineWriter } from '../outputs/line-writer.js';
import { jsonFormat, placeName, textFormat } from '../outputs/trace-line.js';
import type { LineFormat, ShownProbe, ShownValue } from '../outputs/trace-line.js';
import { armPlaces, describeAbandoned } from './arm.js';
import type { ArmedPlace } from './arm.js';
import { Ending } from './ending.js';
import { note, openOutput } from './output.js';
import { checkNamed, findPlaces } from './places.js';
import type { WantedPlace } from './places.js';
import { RETURN, parseProbe } from './probe-spec.js';
import type { ProbeSpec } from './probe-spec.js';
import { run } from './run.js';
import { chooseTargets } from './targets.js';
import type { TargetOptions } from './targets.js';
import type { TraceArgument } from './trace-args.js';
import { UsageError } from './usage-error.js';

export interface TraceOptions extends TargetOptions {
  readonly args?: string;
  readonly json?: boolean;
  readonly count?: number;
  /** Milliseconds. */
  readonly duration?: number;
  readonly post?: boolean;
  readonly output?: string;
  readonly engine: 'auto' | EngineName;
  readonly deadline?: number;
  readonly trustPlace?: boolean;
}

export async function trace(
  probes: readonly string[],
  options: TraceOptions,
  command: readonly string[] | undefined,
): Promise<number> {
  const specs = probes.map(parseProbe);
  if (options.post === true && specs.some((s) => s.isReturn))
    throw new UsageError('--post looks after an instruction, and %return after a function: give one of them');
  const args = await parseArgs(options, specs);
  const targets = chooseTargets(options, command);
  const ending = new Ending();
  const { post = false, trustPlace = false, engine, deadline, output } = options;
  let tracer: Tracer | undefined;
  const plan = { trustPlace, preHandler: !post, postHandler: post };
  checkNamed(specs, targets, { engine, plan });
  return run({
    targets,
    duration: options.duration,
    ending,
    arm: async (whom) => {
      const { pids } = whom;
      const found = findPlaces(specs, { pids, engine, plan: { ...plan, processes: pids } });
      const fd = openOutput(output, targets.kind === 'command' ? 'command' : 'nothing');
      const lines = new LineWriter(fd, (error) => ending.end({ why: 'output', error }));
      const making = new Tracer(lines, args, options, ending);
      tracer = making;
      return armPlaces(found, {
        whom,
        engine,
        trustPlace,
        deadline,
        ending,
        handlers: (wanted) => making.handlersOf(wanted),
      });
    },
    started: () => {
      tracer?.begin();
      return undefined;
    },
    finished: (places) => {
      tracer?.finish(places);
    },
  });
}

/** The arguments of a line at an instruction, and of one where a function returns: the same words, of different values. */
interface Arguments {
  readonly here: readonly TraceArgument[];
  readonly atReturn: readonly TraceArgument[];
}

async function parseArgs(options: TraceOptions, specs: readonly ProbeSpec[]): Promise<Arguments> {
  const { args, post } = options;
  if (args === undefined) return { here: [], atReturn: [] };
  // The parser costs more time than the rest of a start: only who needs it loads it.
  const { parseTraceArgs } = await import('./trace-args.js');
  const places = specs.filter((s) => !s.isReturn);
  return {
    here: places.length > 0 ? parseTraceArgs(args, post === true ? 'after' : 'entry') : [],
    atReturn: places.length < specs.length ? parseTraceArgs(args, 'return') : [],
  };
}

/** Hits to lines, until enough have been written. */
class Tracer {
  readonly #lines: LineWriter;
  readonly #args: Arguments;
  readonly #options: TraceOptions;
  readonly #ending: Ending;
  /** Where the text's clock begins: everything is armed. What was hit before that is at 0. */
  #start: bigint | undefined;
  #left: number;
  #written = 0;

  constructor(lines: LineWriter, args: Arguments, options: TraceOptions, ending: Ending) {
    this.#lines = lines;
    this.#args = args;
    this.#options = options;
    this.#ending = ending;
    this.#left = options.count ?? Infinity;
  }

  handlersOf(wanted: WantedPlace): Pick<UprobeSpec, 'preHandler' | 'postHandler' | 'returnHandler'> {
    if (wanted.isReturn) return { returnHandler: this.#handlerOf<ReturnHit>(wanted, this.#args.atReturn) };
    const handler = this.#handlerOf<Hit>(wanted, this.#args.here);
    return this.#options.post === true ? { postHandler: handler } : { preHandler: handler };
  }

  /** What runs at a hit, while a thread of the target waits. */
  #handlerOf<H extends Hit>(wanted: WantedPlace, args: readonly TraceArgument[]): (hit: H) => undefined {
    const values: ShownValue[] = args.map(() => undefined);
    const evaluates = args.map((a) => a.evaluate);
    let format: LineFormat | undefined;
    let formatted: Uprobe | undefined;
    return (hit) => {
      if (this.#left <= 0) return;
      // Nearly always one: of an ifunc's functions a process calls just one.
      if (format === undefined || formatted !== hit.uprobe) format = this.#formatOf(hit, wanted, args);
      formatted = hit.uprobe;
      for (let i = 0; i < evaluates.length; i++) values[i] = evaluates[i]!(hit);
      this.#lines.line(format(hit, values));
      this.#written++;
      if (--this.#left <= 0) this.#ending.end({ why: 'enough' });
    };
  }

  #formatOf({ uprobe }: Hit, wanted: WantedPlace, args: readonly TraceArgument[]): LineFormat {
    const symbol = wanted.symbol ?? uprobe.symbol;
    const name = placeName(symbol, uprobe.symbolOffset, uprobe.offset);
    const file = uprobe.module.path.slice(uprobe.module.path.lastIndexOf('/') + 1);
    const probe: ShownProbe = {
      probe: wanted.probe,
      label: `${file}:${name}${wanted.isReturn ? RETURN : ''}`,
      symbol,
      offset: uprobe.offset,
      kind: wanted.isReturn ? 'return' : this.#options.post === true ? 'post' : 'pre',
    };
    if (this.#options.json === true) return jsonFormat(probe, args);
    return textFormat(probe, args, () => this.#start);
  }

  /** The processes go on. */
  begin(): void {
    this.#start = process.hrtime.bigint();
  }

  finish(places: readonly ArmedPlace[]): void {
    this.#lines.flush();
    const missed = places.flatMap((p) => p.uprobes).reduce((sum, u) => sum + u.nmissed, 0n);
    const words = [
      ...(this.#options.json === true ? [] : [`${this.#written} line${this.#written === 1 ? '' : 's'}`]),
      ...(missed === 0n ? [] : [`${missed} hits could not be handled in time`]),
      ...[describeAbandoned(places)].filter((text) => text !== undefined),
    ];
    // With --json whoever reads stderr reads JSON there; what there is no line for must be said all the same.
    if (words.length > 0) note(words.join('; '));
  }
}
