/** The code of one opened program or library: its image, its names, and where its instructions start. */
import { realpathSync } from 'node:fs';
import { asAddress, type VirtualAddress } from '../base/address.js';
import type { Refusal } from '../base/errors.js';
import type { Arch, Displaced, Instruction } from '../arch/arch.js';
import { x64 } from '../arch/x64/x64.js';
import { EhFrame, type Extent } from '../elf/eh-frame.js';
import { ElfImage } from '../elf/image.js';
import { criticalSections, type CriticalSection } from '../elf/rseq.js';
import { lazy } from '../base/lazy.js';
import { SymbolTable, type ElfFunction, type ElfSymbol } from '../elf/symbols.js';
import type { OpenedFile } from '../process/opened-file.js';
import { findDebugFile, type DebugFile } from './debug-file.js';

/** Where instructions start in one extent, in ascending order. */
export interface Boundaries {
  readonly extent: Extent;
  /** Offsets from `extent.start`. */
  readonly starts: Uint32Array;
  /** The offset at which decoding failed or was left off; the extent's length when it did neither. */
  readonly end: number;
  /** Nothing was left off. */
  readonly whole: boolean;
}

/** elf(5). */
const SHF_EXECINSTR = 4;
/** Bytes of text read at once: neighbouring functions come with one read. */
const WINDOW = 1 << 16;
/** How far to decode from a label that tells no size and has nothing behind it. */
const LONGEST_UNSIZED = 1 << 16;
/** The most one symbol may claim. The largest function of node (100 MB) has 2 MB. */
const LONGEST_EXTENT = 1 << 26;
/** Extents decoded lately that are kept: places come function by function. */
const MOST_KEPT = 16;
/** After so many searches for names, one index over all names is cheaper. */
const SEARCHES_BEFORE_INDEX = 8;

const RSEQ: Refusal = {
  code: 'rseq-critical-section',
  reason:
    'the place is inside a restartable sequence (rseq(2)): a thread that stops there is no longer restarted by the kernel when it should be',
  remedy: 'Probe the function around it, before its critical section',
};

export class CodeFile {
  readonly file: OpenedFile;
  readonly image: ElfImage;
  readonly arch: Arch = x64;
  readonly #symbols: () => SymbolTable;
  readonly #frames: () => EhFrame;
  readonly #critical: () => readonly CriticalSection[];
  readonly #kept = new Map<number, Boundaries>();
  #window: { readonly address: number; readonly bytes: Uint8Array } | undefined;
  #lastAt: { readonly address: VirtualAddress; readonly found: ElfFunction | undefined } | undefined;
  #debugFile: DebugFile | undefined;
  #searches = 0;
  #index: ReadonlyMap<string, ElfSymbol | 'ask'> | undefined;

  /** Takes `file` over, also when it throws ElfError. */
  constructor(file: OpenedFile) {
    this.file = file;
    try {
      this.image = ElfImage.parse(file, file.path);
    } catch (e) {
      file.close();
      throw e;
    }
    this.#symbols = lazy(() => SymbolTable.of(this.image, this.#debugImage()));
    this.#frames = lazy(() => EhFrame.of(this.image));
    this.#critical = lazy(() => criticalSections(this.image));
  }

  get path(): string {
    return this.file.path;
  }

  /** How an instruction of the file runs out of line, or why it may not be probed. */
  displace(instruction: Instruction): Displaced {
    const refusal = this.forbids(instruction);
    return refusal === undefined ? this.arch.displace(instruction) : { ok: false, refusal };
  }

  /** Why no thread may be stopped at an instruction. */
  forbids({ address }: Instruction): Refusal | undefined {
    const inside = this.#critical().some(({ start, length }) => address >= start && address - start < length);
    return inside ? RSEQ : undefined;
  }

  get symbols(): SymbolTable {
    return this.#symbols();
  }

  /** As `symbols.lookup`, and fast for any number of names. */
  lookup(name: string): readonly ElfSymbol[] {
    if (++this.#searches > SEARCHES_BEFORE_INDEX) {
      const known = (this.#index ??= indexOf(this.symbols)).get(name);
      if (known !== undefined && known !== 'ask') return [known];
      if (known === undefined && !name.includes('@')) return [];
    }
    return this.symbols.lookup(name);
  }

  /** The file's bytes at a link-time address; fewer where its segment ends. */
  bytesAt(address: VirtualAddress, length: number): Uint8Array {
    if (length > WINDOW) return this.image.readUpTo(address, length, 'text');
    let window = this.#window;
    if (
      window === undefined ||
      address < window.address ||
      address + length > window.address + window.bytes.length
    ) {
      window = { address, bytes: this.image.readUpTo(address, WINDOW, 'text') };
      this.#window = window;
    }
    const from = address - window.address;
    return window.bytes.subarray(from, from + length);
  }

  /** The instruction at a link-time address, or undefined when the bytes are none. */
  instructionAt(address: VirtualAddress): Instruction | undefined {
    return this.arch.decode(this.bytesAt(address, this.arch.maxInstruction), address);
  }

  /** The instruction that follows in the text. */
  instructionBehind({ address, bytes }: Instruction): Instruction | undefined {
    return this.instructionAt(asAddress(address + bytes.length));
  }

  /** As `symbols.at`, as far as a section goes; asked twice about each place. */
  functionAt(address: VirtualAddress): ElfFunction | undefined {
    if (this.#lastAt?.address !== address) {
      const covering = this.symbols.at(address);
      const isIts =
        covering === undefined || covering.size > 0 || address < this.#sectionEnd(covering.address);
      this.#lastAt = { address, found: isIts ? covering : undefined };
    }
    return this.#lastAt.found;
  }

  /** The function or range of code around an address, by symbols, else by the unwind tables. */
  extentAt(address: VirtualAddress): Extent | undefined {
    const covering = this.functionAt(address);
    if (covering !== undefined && covering.size > 0) return sized(covering.address, covering.size);
    const frame = this.#frames().extentAt(address);
    if (covering === undefined || (frame !== undefined && frame.start >= covering.address)) return frame;
    return this.unsizedExtent(covering.address);
  }

  /** Whether a function begins there, by symbols or by the unwind tables. A label of unknown type does not count. */
  isFunctionStart(address: VirtualAddress): boolean {
    return (
      this.functionAt(address)?.address === address || this.#frames().extentAt(address)?.start === address
    );
  }

  /** From a label without a size to the next function, the end of its unwind entry, its section or its segment. */
  unsizedExtent(start: VirtualAddress): Extent {
    const frame = this.#frames().extentAt(start);
    const next = this.symbols.functions().startAfter(start);
    const segment = this.image.segments.find((s) => start >= s.vaddr && start < s.vaddr + s.filesz);
    const segmentEnd = segment && segment.vaddr + segment.filesz;
    const ends = [start + LONGEST_UNSIZED, frame?.end, next, this.#sectionEnd(start), segmentEnd];
    return { start, end: asAddress(Math.min(...ends.filter((e) => e !== undefined))) };
  }

  /**
   * Decode an extent from its start. `reach`: the offset that is asked about, where only what leads to it matters. Who
   * asks again for the same extent gets, and lets us keep, the whole.
   */
  boundaries(extent: Extent, reach = Infinity): Boundaries {
    const known = this.#kept.get(extent.start);
    const length = Math.min(extent.end - extent.start, LONGEST_EXTENT);
    // What holds `reach` and the one behind it are complete then, whatever is cut off at the end.
    const wanted = known === undefined ? Math.min(length, reach + 2 * this.arch.maxInstruction) : length;
    if (known !== undefined && known.extent.end === extent.end && (known.whole || reach < known.end))
      return known;
    const code = this.bytesAt(extent.start, wanted);
    const found = { extent, ...this.arch.boundaries(code, extent.start), whole: wanted === length };
    if (this.#kept.size >= MOST_KEPT) this.#kept.clear();
    this.#kept.set(extent.start, found);
    return found;
  }

  /** As `boundaries`, without what stands behind a function whose size no symbol tells: where it really ends. */
  instructionStarts(extent: Extent): Uint32Array {
    const found = this.boundaries(extent);
    const { starts, end } = found;
    if (this.functionAt(extent.start)?.size !== 0) return starts;
    return starts.subarray(0, starts.length - this.arch.countPadding(this.bytesAt(extent.start, end), found));
  }

  /** Where the section with the code at an address ends; Infinity where no header tells. */
  #sectionEnd(address: VirtualAddress): number {
    const section = this.image.sections.find(
      (s) => (s.flags & SHF_EXECINSTR) !== 0 && address >= s.address && address < s.address + s.size,
    );
    return section === undefined ? Infinity : section.address + section.size;
  }

  /** Release what can be computed again. */
  forget(): void {
    this.#kept.clear();
    this.#window = undefined;
    this.#lastAt = undefined;
    this.#index = undefined;
    this.#searches = 0;
  }

  close(): void {
    this.forget();
    this.#debugFile?.file.close();
    this.file.close();
  }

  #debugImage(): ElfImage | undefined {
    const hasOwn = this.image.sections.some((s) => s.name === '.symtab');
    if (!hasOwn) this.#debugFile = findDebugFile(this.image, realPath(this.file.path));
    return this.#debugFile?.image;
  }
}

const sized = (start: VirtualAddress, size: number): Extent => ({ start, end: asAddress(start + size) });

function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path; // renamed or deleted meanwhile: the name is only a hint where debug files are
  }
}

/** Each plain name that means one place; `'ask'` where it may mean several, or versions decide. */
function indexOf(symbols: SymbolTable): Map<string, ElfSymbol | 'ask'> {
  const index = new Map<string, ElfSymbol | 'ask'>();
  for (const symbol of symbols.all()) {
    const known = index.get(symbol.name);
    if (known === undefined) index.set(symbol.name, symbol);
    else if (known !== 'ask' && known.address !== symbol.address) index.set(symbol.name, 'ask');
  }
  return index;
}

/** The name people know a function by; with its version when it is not the default one. */
export function displayName(symbol: ElfSymbol): string {
  const hidden = symbol.version !== undefined && symbol.versionIsDefault !== true;
  return hidden ? `${symbol.name}@${symbol.version}` : symbol.name;
}

/** The name to show of a function with several. */
export const mainName = (f: ElfFunction): string => displayName(f.symbols[0]!);
