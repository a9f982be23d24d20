/** `uprobe trace`: a line for every hit. */
import type { EngineName, Hit, Uprobe } from '../index.js';
import { LineWriter } from '../outputs/line-writer.js';
import { jsonFormat, placeName, textFormat } from '../outputs/trace-line.js';
import type { LineFormat, ShownProbe, ShownValue } from '../outputs/trace-line.js';
import { armPlaces } from './arm.js';
import { Ending } from './ending.js';
import { note, openOutput } from './output.js';
import { checkNamed, findPlaces } from './places.js';
import type { WantedPlace } from './places.js';
import { parseProbe } from './probe-spec.js';
import { run } from './run.js';
import { chooseTargets } from './targets.js';
import type { TargetOptions } from './targets.js';
import type { TraceArgument } from './trace-args.js';

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
  const isReturn = specs.some((s) => s.isReturn);
  const args = await parseArgs(options, isReturn);
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
        handlers: (wanted) => {
          const handler = making.handlerOf(wanted);
          return post ? { postHandler: handler } : { preHandler: handler };
        },
      });
    },
    started: () => {
      tracer?.begin();
      return undefined;
    },
    finished: (places) => {
      tracer?.finish(places.flatMap((p) => p.uprobes).reduce((sum, u) => sum + u.nmissed, 0n));
    },
  });
}

async function parseArgs(options: TraceOptions, isReturn: boolean): Promise<readonly TraceArgument[]> {
  if (options.args === undefined) return [];
  // The parser costs more time than the rest of a start: only who needs it loads it.
  const { parseTraceArgs } = await import('./trace-args.js');
  return parseTraceArgs(options.args, isReturn ? 'return' : options.post === true ? 'after' : 'entry');
}

/** Hits to lines, until enough have been written. */
class Tracer {
  readonly #lines: LineWriter;
  readonly #args: readonly TraceArgument[];
  readonly #options: TraceOptions;
  readonly #ending: Ending;
  /** Where the text's clock begins: everything is armed. What was hit before that is at 0. */
  #start: bigint | undefined;
  #left: number;
  #written = 0;

  constructor(lines: LineWriter, args: readonly TraceArgument[], options: TraceOptions, ending: Ending) {
    this.#lines = lines;
    this.#args = args;
    this.#options = options;
    this.#ending = ending;
    this.#left = options.count ?? Infinity;
  }

  /** What runs at a hit, while a thread of the target waits. */
  handlerOf(wanted: WantedPlace): (hit: Hit) => undefined {
    const values: ShownValue[] = this.#args.map(() => undefined);
    const evaluates = this.#args.map((a) => a.evaluate);
    let format: LineFormat | undefined;
    let formatted: Uprobe | undefined;
    return (hit) => {
      if (this.#left <= 0) return;
      // Nearly always one: of an ifunc's functions a process calls just one.
      if (format === undefined || formatted !== hit.uprobe) format = this.#formatOf(hit, wanted);
      formatted = hit.uprobe;
      for (let i = 0; i < evaluates.length; i++) values[i] = evaluates[i]!(hit);
      this.#lines.line(format(hit, values));
      this.#written++;
      if (--this.#left <= 0) this.#ending.end({ why: 'enough' });
    };
  }

  #formatOf({ uprobe }: Hit, wanted: WantedPlace): LineFormat {
    const symbol = wanted.symbol ?? uprobe.symbol;
    const name = placeName(symbol, uprobe.symbolOffset, uprobe.offset);
    const probe: ShownProbe = {
      probe: wanted.probe,
      label: `${uprobe.module.path.slice(uprobe.module.path.lastIndexOf('/') + 1)}:${name}`,
      symbol,
      offset: uprobe.offset,
      kind: this.#options.post === true ? 'post' : 'pre',
    };
    if (this.#options.json === true) return jsonFormat(probe, this.#args);
    return textFormat(probe, this.#args, () => this.#start);
  }

  /** The processes go on. */
  begin(): void {
    this.#start = process.hrtime.bigint();
  }

  finish(missed: bigint): void {
    this.#lines.flush();
    // With --json whoever reads stderr reads JSON there; what was missed must be said all the same.
    if (this.#options.json === true && missed === 0n) return;
    const plural = this.#written === 1 ? '' : 's';
    note(
      `${this.#written} line${plural}${missed === 0n ? '' : `; ${missed} hits could not be handled in time`}`,
    );
  }
}
