/** `uprobe trace`: a line for every hit. */
import type { EngineName, Hit, ReturnHit, Uprobe } from '../index.js';
import { withProgram } from '../handler/compiled-handler.js';
import { LineWriter } from '../outputs/line-writer.js';
import { jsonFormat, placeName, textFormat } from '../outputs/trace-line.js';
import type { LineFormat, ShownProbe, ShownValue } from '../outputs/trace-line.js';
import { armPlaces, describeAbandoned, missedText } from './arm.js';
import type { ArmedPlace } from './arm.js';
import { Ending } from './ending.js';
import { note, openOutput, withoutWaiting } from './output.js';
import { checkNamed, findPlaces } from './places.js';
import type { Handlers, WantedPlace } from './places.js';
import { RETURN, parseProbe } from './probe-spec.js';
import type { ProbeSpec } from './probe-spec.js';
import { run } from './run.js';
import { chooseTargets, engineFor } from './targets.js';
import type { TargetOptions } from './targets.js';
import type { TraceArgument, TraceWordOptions, TraceWords } from './trace-args.js';
import type { TraceEvents } from './trace-events.js';
import { UsageError } from './usage-error.js';

export interface TraceOptions extends TargetOptions, TraceWordOptions {
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
  const words = await parseWords(options, specs);
  const targets = chooseTargets(options, command);
  const engine = engineFor(targets, options.engine);
  const events = engine === 'kernel' && options.post !== true ? await eventsOf(words) : undefined;
  const ending = new Ending();
  const { trustPlace = false, deadline, output } = options;
  const tracer = new Tracer(words, events, options, ending);
  const question = { engine, trustPlace, handlers: (isReturn: boolean) => tracer.handlers(isReturn) };
  checkNamed(specs, targets, question);
  return run({
    targets,
    duration: options.duration,
    ending,
    arm: async (whom) => {
      const found = findPlaces(specs, whom, question);
      tracer.open(openOutput(output, targets.kind === 'command' ? 'command' : 'nothing'));
      const handlers = (wanted: WantedPlace): Handlers => tracer.handlers(wanted.isReturn, wanted);
      return armPlaces(found, { ...question, whom, deadline, ending, handlers });
    },
    started: (places) => {
      tracer.begin(places);
      return undefined;
    },
    finished: (places) => {
      tracer.finish(places);
    },
  });
}

/** What stands for a line at an instruction, and for one where a function returns: the same words, of different values. */
interface Both<T> {
  readonly here: T;
  readonly atReturn: T;
}

const NO_WORDS: TraceWords = { args: [], condition: undefined, isWanted: undefined, text: '' };

async function parseWords(options: TraceOptions, specs: readonly ProbeSpec[]): Promise<Both<TraceWords>> {
  if (options.args === undefined && options.if === undefined) return { here: NO_WORDS, atReturn: NO_WORDS };
  // The parser costs more time than the rest of a start: only who needs it loads it.
  const { parseTraceWords } = await import('./trace-args.js');
  const places = specs.filter((s) => !s.isReturn);
  const here = options.post === true ? 'after' : 'entry';
  return {
    here: places.length > 0 ? parseTraceWords(options, here) : NO_WORDS,
    atReturn: places.length < specs.length ? parseTraceWords(options, 'return') : NO_WORDS,
  };
}

async function eventsOf({ here, atReturn }: Both<TraceWords>): Promise<Both<TraceEvents>> {
  const { TraceEvents: Made } = await import('./trace-events.js');
  return { here: new Made(here, 'pre'), atReturn: new Made(atReturn, 'return') };
}

/** What waits for a slow reader where hits go on meanwhile. */
const MOST_WAITING = 4 * 1024 * 1024;

/** Hits to lines, until enough have been written. */
class Tracer {
  #lines!: LineWriter;
  readonly #words: Both<TraceWords>;
  readonly #events: Both<TraceEvents> | undefined;
  readonly #options: TraceOptions;
  readonly #ending: Ending;
  /** Where the text's clock begins: everything is armed. What was hit before that is at 0. */
  #start: bigint | undefined;
  #left: number;
  #written = 0;

  constructor(
    words: Both<TraceWords>,
    events: Both<TraceEvents> | undefined,
    options: TraceOptions,
    ending: Ending,
  ) {
    this.#words = words;
    this.#events = events;
    this.#options = options;
    this.#ending = ending;
    this.#left = options.count ?? Infinity;
  }

  open(fd: number): void {
    const broken = (error: NodeJS.ErrnoException): void => this.#ending.end({ why: 'output', error });
    this.#lines =
      this.#events === undefined
        ? new LineWriter(fd, broken)
        : new LineWriter(withoutWaiting(fd), broken, MOST_WAITING);
  }

  /** For a place; for none in particular, to ask about it. */
  handlers(isReturn: boolean, wanted?: WantedPlace): Handlers {
    if (isReturn) {
      const handler = this.#handlerOf<ReturnHit>(wanted, this.#words.atReturn);
      return { returnHandler: withEvents(handler, this.#events?.atReturn) };
    }
    const handler = this.#handlerOf<Hit>(wanted, this.#words.here);
    if (this.#options.post === true) return { postHandler: handler };
    return { preHandler: withEvents(handler, this.#events?.here) };
  }

  /** What runs at a hit, while a thread of the target waits. */
  #handlerOf<H extends Hit>(
    wanted: WantedPlace | undefined,
    { args, isWanted }: TraceWords,
  ): (hit: H) => undefined {
    const values: ShownValue[] = args.map(() => undefined);
    const evaluates = args.map((a) => a.evaluate);
    let format: LineFormat | undefined;
    let formatted: Uprobe | undefined;
    return (hit) => {
      if (this.#left <= 0 || (isWanted !== undefined && isWanted(hit) !== true)) return;
      // Nearly always one: of an ifunc's functions a process calls just one.
      if (format === undefined || formatted !== hit.uprobe)
        format = this.#formatOf(hit.uprobe, wanted!, args);
      formatted = hit.uprobe;
      for (let i = 0; i < evaluates.length; i++) values[i] = evaluates[i]!(hit);
      this.#line(format(hit, values));
    };
  }

  #line(text: string): void {
    if (!this.#lines.line(text)) return;
    this.#written++;
    if (--this.#left <= 0) this.#ending.end({ why: 'enough' });
  }

  #formatOf(uprobe: Uprobe, wanted: WantedPlace, args: readonly TraceArgument[]): LineFormat {
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
  begin(places: readonly ArmedPlace[]): void {
    this.#start = process.hrtime.bigint();
    if (this.#events === undefined) return;
    const formats = new Map<bigint, LineFormat>();
    for (const { uprobes, wanted } of places) {
      const { args } = wanted.isReturn ? this.#words.atReturn : this.#words.here;
      for (const uprobe of uprobes) formats.set(BigInt(uprobe.id), this.#formatOf(uprobe, wanted, args));
    }
    for (const events of [this.#events.here, this.#events.atReturn])
      events.listen((uprobe, hit, values) => {
        const format = this.#left > 0 ? formats.get(uprobe) : undefined;
        if (format !== undefined) this.#line(format(hit, values));
      });
  }

  finish(places: readonly ArmedPlace[]): void {
    this.#lines.flush();
    const lost = (this.#events?.here.lost ?? 0) + (this.#events?.atReturn.lost ?? 0);
    const { dropped } = this.#lines;
    const words = [
      this.#options.json === true ? undefined : `${this.#written} line${this.#written === 1 ? '' : 's'}`,
      dropped === 0 ? undefined : `${dropped} more were dropped: the output was too slow for them`,
      lost === 0 ? undefined : `${lost} more were lost on the way: there were too many at once`,
      missedText(places),
      describeAbandoned(places),
    ].filter((text) => text !== undefined);
    // With --json whoever reads stderr reads JSON there; what there is no line for must be said all the same.
    if (words.length > 0) note(words.join('; '));
  }
}

/** An engine that can run the program does that; what it emits is what the handler would have shown. */
const withEvents = <F extends (hit: never) => undefined>(handler: F, events: TraceEvents | undefined): F =>
  events === undefined ? handler : withProgram(handler, () => events.program);
