/** Looking at a program or library without probing it: its functions, its instructions, what a probe would become. */
import { asAddress } from '../base/address.js';
import { PlaceError, type Refusal } from '../base/errors.js';
import { globMatcher } from '../base/glob.js';
import type { ElfFunction } from '../elf/symbols.js';
import type { EngineName, ProcessSet } from '../engines/engine.js';
import { resolveLibrary, type LinkContext } from '../process/linker.js';
import { CodeFile, displayName } from './code-file.js';
import { verdicts, type EngineOffer } from './engine-choice.js';
import { PlaceFacts } from './facts.js';
import { Ifuncs } from './ifunc.js';
import {
  resolvePlace,
  resolvePlaces,
  type IfuncChoice,
  type PlaceQuestion,
  type ResolvedPlace,
} from './place.js';
import { checkPathname, checkPlace, checkProcesses, programsOf, type WantedProcesses } from './spec.js';
import type { Place, Processes, UprobeSpec } from './types.js';

export interface OpenModuleOptions {
  /** Whose libraries a bare name means: the first of these processes decides. */
  processes?: Processes;
  /** The environment of a program to be started (LD_LIBRARY_PATH, PATH). Default: ours. */
  env?: Readonly<Record<string, string | undefined>>;
  /** A program to be started: its RUNPATH and what it needs decide what a bare name means. */
  command?: string;
}

/** One function: an address with its names. */
export interface FunctionInfo {
  /** The name people know it by; with its version (`memcpy@GLIBC_2.2.5`) where that is not the default one. */
  readonly name: string;
  /** Its other names. */
  readonly aliases: readonly string[];
  /** Link-time address, as `nm` prints it. */
  readonly address: bigint;
  /** File offset. */
  readonly offset: number;
  /** In bytes; 0 where no symbol says. */
  readonly size: number;
  /** `ifunc`: it chooses a function when a program starts; its name stands for that one, its address for what chooses. */
  readonly kind: 'func' | 'ifunc';
}

export interface InstructionInfo {
  /** File offset. */
  readonly offset: number;
  /** Link-time address. */
  readonly address: bigint;
  readonly bytes: Uint8Array;
  /** In the assembler's syntax, e.g. `mov rdi,[rip+0x2f1c]`. */
  readonly text: string;
  /** Bytes from the function's start. */
  readonly symbolOffset: number;
}

/** How one engine would take a place. */
export interface EnginePlan {
  readonly engine: EngineName;
  /** Why it would not. */
  readonly refusal?: Refusal;
  /** How it would, where that is worth knowing. */
  readonly note?: string;
}

/** What registering a probe at a place would do. */
export interface PlacePlan {
  readonly path: string;
  readonly symbol?: string;
  readonly symbolOffset?: number;
  /** File offset. */
  readonly offset: number;
  /** Link-time address. */
  readonly address: bigint;
  readonly instruction: { readonly bytes: Uint8Array; readonly text: string };
  /** In the order of preference. */
  readonly engines: readonly EnginePlan[];
  /** What `engine: 'auto'` would take; undefined: nothing would. */
  readonly chosen?: EngineName;
  /** The symbol is an ifunc, and this one of the functions that it stands for. */
  readonly ifunc?: IfuncChoice;
}

export interface PlanOptions {
  /** Also ask whether the engines can serve these. An ifunc is then what they use, as their memory shows. */
  processes?: Processes;
  /** As in `registerUprobe`. */
  trustPlace?: boolean;
  /** Whether there will be handlers, or these. Default: a plain pre handler. */
  preHandler?: boolean | UprobeSpec['preHandler'];
  postHandler?: boolean;
  returnHandler?: boolean | UprobeSpec['returnHandler'];
}

/** A program or library, opened for looking only. */
export interface ModuleView {
  readonly path: string;
  readonly dev: bigint;
  readonly ino: bigint;
  readonly buildId: string | undefined;
  /** All functions that can be named, in the order of addresses. */
  functions(): Iterable<FunctionInfo>;
  /** Those of which any name matches a glob (`*`, `?`, `[…]`). */
  matching(glob: string): Iterable<FunctionInfo>;
  /** The instructions of a function, as far as they can be decoded. Throws PlaceError where none can. */
  instructions(fn: FunctionInfo): Iterable<InstructionInfo>;
  /** What `registerUprobe` there would do; throws the same PlaceError that it would. Touches no process. */
  plan(place: Place, options?: PlanOptions): PlacePlan;
  /** The same of `registerUprobes`: more than one plan where an ifunc may stand for several functions. */
  plans(place: Place, options?: PlanOptions): PlacePlan[];
  /** Close the file. What iterators have not read yet cannot be read any more. */
  close(): void;
  [Symbol.dispose](): void;
}

/** Throws FileError or ElfError. */
export function openView(
  pathname: string,
  options: OpenModuleOptions,
  offers: readonly EngineOffer[],
): ModuleView {
  return new View(new CodeFile(resolveLibrary(checkPathname(pathname), linkContext(options))), offers);
}

function linkContext({ processes, env, command }: OpenModuleOptions): LinkContext {
  const wanted = processes === undefined ? 'all' : checkProcesses(processes);
  if (wanted === 'all') return { env, command };
  return { pid: 'tree' in wanted ? wanted.tree : wanted[0]! };
}

class View implements ModuleView {
  readonly #code: CodeFile;
  readonly #offers: readonly EngineOffer[];
  #ifuncs: Ifuncs | undefined;

  constructor(code: CodeFile, offers: readonly EngineOffer[]) {
    this.#code = code;
    this.#offers = offers;
  }

  get path(): string {
    return this.#code.path;
  }
  get dev(): bigint {
    return this.#code.file.dev;
  }
  get ino(): bigint {
    return this.#code.file.ino;
  }
  get buildId(): string | undefined {
    return this.#code.image.buildId;
  }

  *functions(): Generator<FunctionInfo> {
    for (const f of this.#code.symbols.functions()) {
      const info = this.#info(f);
      if (info !== undefined) yield info;
    }
  }

  *matching(glob: string): Generator<FunctionInfo> {
    const matches = globMatcher(glob);
    for (const f of this.functions()) if (matches(f.name) || f.aliases.some(matches)) yield f;
  }

  /** Undefined for symbols that lie outside the code. */
  #info({ address, size, symbols }: ElfFunction): FunctionInfo | undefined {
    const { image } = this.#code;
    const offset = image.addressToOffset(address);
    if (offset === undefined || image.executableAt(offset) === undefined) return undefined;
    const [name, ...aliases] =
      symbols.length === 1 ? [displayName(symbols[0]!)] : new Set(symbols.map(displayName));
    const kind = symbols.some((s) => s.kind === 'ifunc') ? 'ifunc' : 'func';
    return { name: name!, aliases, address: BigInt(address), offset, size, kind };
  }

  *instructions(fn: FunctionInfo): Generator<InstructionInfo> {
    const code = this.#code;
    const extent = code.extentAt(asAddress(Number(fn.address)));
    if (extent === undefined)
      throw new PlaceError('unknown-instruction-start', `${this.path}: where ${fn.name} ends is not known`);
    for (const start of code.instructionStarts(extent)) {
      const address = asAddress(extent.start + start);
      const instruction = code.instructionAt(address);
      const offset = code.image.addressToOffset(address);
      if (instruction === undefined || offset === undefined) return;
      const text = code.arch.format(instruction);
      yield { offset, address: BigInt(address), bytes: instruction.bytes, text, symbolOffset: start };
    }
  }

  plan(place: Place, options: PlanOptions = {}): PlacePlan {
    return this.#planOf(resolvePlace(this.#code, checkPlace(place), this.#question(options)), options);
  }

  plans(place: Place, options: PlanOptions = {}): PlacePlan[] {
    const found = resolvePlaces(this.#code, checkPlace(place), this.#question(options));
    return found.map((f) => this.#planOf(f, options));
  }

  #question({ trustPlace = false, processes, returnHandler = false }: PlanOptions): PlaceQuestion {
    return {
      trustPlace,
      atEntry: returnHandler !== false,
      processes: plainProcesses(processes),
      ifuncs: (this.#ifuncs ??= new Ifuncs(this.#code)),
    };
  }

  #planOf(found: ResolvedPlace, options: PlanOptions): PlacePlan {
    const code = this.#code;
    const { arch } = code;
    const { instruction } = found;
    const engines = verdicts(this.#offers, {
      site: new PlaceFacts(found, code),
      consumers: [consumerLike(options)],
      processes: options.processes === undefined ? [] : [checkProcesses(options.processes)],
    });
    const chosen = engines.find((e) => e.refusal === undefined)?.offer.name;
    return {
      path: this.path,
      ...(found.symbol !== undefined && { symbol: found.symbol, symbolOffset: found.symbolOffset }),
      offset: found.offset,
      address: BigInt(found.address),
      instruction: {
        bytes: instruction.bytes,
        // the disassembler takes a while to load, and not everybody reads it
        get text() {
          return arch.format(instruction);
        },
      },
      engines: engines.map(({ offer, refusal, note }) => ({
        engine: offer.name,
        ...(refusal && { refusal }),
        ...(note !== undefined && { note }),
      })),
      ...(chosen !== undefined && { chosen }),
      ...(found.ifunc !== undefined && { ifunc: found.ifunc }),
    };
  }

  close(): void {
    this.#code.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** Where no processes are named, the question is only the place: one process stands for any. */
function plainProcesses(processes: Processes | undefined): ProcessSet {
  const wanted: WantedProcesses = processes === undefined ? [] : checkProcesses(processes);
  return wanted === 'all' ? wanted : 'tree' in wanted ? [wanted.tree] : wanted;
}

const consumerLike = ({
  preHandler = true,
  postHandler = false,
  returnHandler = false,
  processes,
}: PlanOptions) => ({
  id: 0,
  processes: plainProcesses(processes),
  pre: preHandler !== false,
  post: postHandler,
  fault: false,
  return: returnHandler !== false,
  programs: programsOf(preHandler, returnHandler),
  deadline: 1000,
});
