/**
 * An ifunc (STT_GNU_IFUNC) is no function but chooses one: its resolver runs when a program starts, and what it returns
 * is called ever after. Here is which functions that can be: what a running process uses, where it shows; else all that
 * the resolver's own code names.
 */
import { asAddress, type VirtualAddress } from '../base/address.js';
import type { CodeReference } from '../arch/arch.js';
import type { ProcessSet } from '../engines/engine.js';
import type { Extent } from '../elf/eh-frame.js';
import { Relocations } from '../elf/relocations.js';
import { lazy } from '../base/lazy.js';
import { ElfError } from '../elf/source.js';
import type { ElfSymbol } from '../elf/symbols.js';
import { IfuncSlots } from '../process/ifunc-slots.js';
import type { CodeFile } from './code-file.js';
import { addTo } from '../base/multimap.js';

/** A function that an ifunc may stand for, and the processes in which it does. */
export interface Implementation {
  readonly address: VirtualAddress;
  readonly processes: ProcessSet;
}

/** What a resolver's code shows of what it may return. */
export interface Candidates {
  /** Functions of its file, ascending. */
  readonly addresses: readonly VirtualAddress[];
  /** It asks others too: what it returns may be anywhere (glibc's `time`: in the vDSO). */
  readonly isOpen: boolean;
}

/** Compilers put the rare parts of a function elsewhere, and a resolver may jump on to another. */
const MOST_PIECES = 16;
const LONGEST_PIECE = 1 << 16;

/** The ifuncs of one file, for one question or for many at one time. */
export class Ifuncs {
  readonly #code: CodeFile;
  readonly #slots: () => IfuncSlots;

  constructor(code: CodeFile) {
    this.#code = code;
    this.#slots = lazy(() => {
      const names = new Set<string>();
      for (const { name } of code.symbols.ifuncs()) names.add(name);
      return new IfuncSlots(code.file, code.image, names);
    });
  }

  /**
   * The functions that an ifunc stands for in these processes, ascending: where a process shows what it uses, that; for
   * all others every candidate. None where that could miss the right one. No processes: whichever there may be.
   */
  implementations(symbol: ElfSymbol, processes: ProcessSet): Implementation[] {
    // all of a tree run on this machine, and choose as its root has
    if (processes !== 'all' && 'tree' in processes)
      return this.implementations(symbol, [processes.tree]).map(({ address }) => ({ address, processes }));
    const byAddress = new Map<VirtualAddress, number[]>();
    const isAny = processes === 'all' || processes.length === 0;
    const undecided: number[] = [];
    for (const pid of isAny ? [] : processes) {
      const used = this.#used(pid, symbol);
      if (used.length === 0) undecided.push(pid);
      for (const address of used) addTo(byAddress, address, pid);
    }
    if (isAny || undecided.length > 0) {
      const { addresses, isOpen } = candidatesOf(this.#code, symbol.address);
      if (isOpen) return [];
      for (const address of addresses) {
        const others = byAddress.get(address) ?? [];
        byAddress.set(address, [...others, ...undecided]);
      }
    }
    return [...byAddress]
      .sort(([a], [b]) => a - b)
      .map(([address, pids]) => ({ address, processes: isAny ? processes : pids }));
  }

  /** What a process has in its memory is its own affair: only what can be an implementation counts. */
  #used(pid: number, symbol: ElfSymbol): VirtualAddress[] {
    const named = this.#code.functionAt(symbol.address)?.symbols ?? [symbol];
    const symbols = named.filter((s) => s.kind === 'ifunc');
    const found = this.#slots().used(pid, { resolver: symbol.address, symbols });
    return found.filter((address) => isImplementation(this.#code, address));
  }
}

/** The functions that a resolver names, with everything that it jumps to. What it calls is not followed. */
export function candidatesOf(code: CodeFile, resolver: VirtualAddress): Candidates {
  const found = new Set<VirtualAddress>();
  const relocations = Relocations.of(code.image);
  let isOpen = false;
  for (const reference of referencesFrom(code, resolver)) {
    if (reference.kind === 'unknown') isOpen = true;
    const target = targetOf(code, relocations, reference);
    if (target !== undefined && target !== resolver && isImplementation(code, target)) found.add(target);
  }
  return { addresses: [...found].sort((a, b) => a - b), isOpen };
}

/** What the instructions of a resolver refer to, but for where they jump: that is followed. */
function* referencesFrom(code: CodeFile, resolver: VirtualAddress): Generator<CodeReference> {
  const pieces: Extent[] = [code.extentAt(resolver) ?? code.unsizedExtent(resolver)];
  for (const piece of pieces) {
    for (const start of code.boundaries(piece).starts) {
      const instruction = code.instructionAt(asAddress(piece.start + start));
      const reference = instruction && code.arch.reference(instruction);
      if (reference === undefined) continue;
      if (reference.kind !== 'jump') yield reference;
      else if (pieces.length < MOST_PIECES) pieces.push(...pieceAt(code, pieces, reference.address));
    }
  }
}

/** The function around a jump's target, where it is none of those known. */
function pieceAt(code: CodeFile, known: readonly Extent[], address: number): Extent[] {
  if (known.some((p) => address >= p.start && address < p.end) || !code.image.isText(address)) return [];
  const piece = code.extentAt(asAddress(address));
  return piece === undefined || piece.end - piece.start > LONGEST_PIECE ? [] : [piece];
}

function targetOf(
  code: CodeFile,
  relocations: Relocations,
  reference: CodeReference,
): VirtualAddress | undefined {
  switch (reference.kind) {
    case 'address':
      return asAddress(reference.address);
    case 'immediate': // what is moved when it is loaded has no address as a constant
      return code.image.type === 'exec' ? asAddress(reference.address) : undefined;
    case 'pointer':
      return pointerAt(relocations, reference.address);
    default:
      return undefined;
  }
}

/** Functions that other modules may replace are named by a word that the dynamic linker fills in. */
function pointerAt(relocations: Relocations, address: number): VirtualAddress | undefined {
  try {
    return relocations.targetOf(address);
  } catch (e) {
    if (e instanceof ElfError) return undefined; // damaged: as if it said nothing
    throw e;
  }
}

/** A function begins there, and it is not itself one that chooses. */
function isImplementation(code: CodeFile, address: VirtualAddress): boolean {
  if (!code.image.isText(address) || !code.isFunctionStart(address)) return false;
  const known = code.functionAt(address);
  return known?.address !== address || !known.symbols.some((s) => s.kind === 'ifunc');
}
