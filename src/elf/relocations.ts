/**
 * Relocations: what the dynamic linker, or a static program's own start-up code, writes where. x86-64 has only those
 * with an explicit addend, Elf64_Rela (24 bytes): offset; type and symbol's index, 32 bits each; addend.
 * System V psABI for x86-64, 4.4.
 */
import { asAddress, type VirtualAddress } from '../base/address.js';
import { DT_JMPREL, DT_PLTRELSZ, DT_RELA, DT_RELASZ, DT_STRSZ, DT_STRTAB, DT_SYMTAB } from './dynamic.js';
import type { ElfImage } from './image.js';
import { SHF_ALLOC, SHT_RELA } from './sections.js';
import { lazy } from '../base/lazy.js';
import { u64 } from './source.js';
import { SYMBOL_SIZE, SymbolSection } from './symbol-section.js';
import { readVersions } from './versions.js';

/** A word that is to hold the address of a function of this name. */
export interface NamedSlot {
  readonly at: VirtualAddress;
  readonly name: string;
  readonly version: string | undefined;
}

const R_X86_64_64 = 1;
const R_X86_64_GLOB_DAT = 6;
const R_X86_64_JUMP_SLOT = 7;
const R_X86_64_RELATIVE = 8;
/** The word gets what the function at the addend returns: an ifunc's resolver. */
const R_X86_64_IRELATIVE = 37;

const IRELATIVE = new Set([R_X86_64_IRELATIVE]);
const BY_SYMBOL = new Set([R_X86_64_64, R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT]);
const POINTERS = new Set([...BY_SYMBOL, R_X86_64_RELATIVE]);

const ENTRY_SIZE = 24;
/** The largest programs have some hundred thousand; what a file claims beyond these is not looked at. */
const MOST_ENTRIES = 2 ** 21;
const MOST_FOUND = 2 ** 16;
const MOST_SYMBOLS = 2 ** 20;
const LONGEST_STRINGS = 2 ** 26;

interface Relocation {
  readonly at: number;
  readonly type: number;
  readonly symbol: number;
  readonly addend: number;
}

export class Relocations {
  readonly #image: ElfImage;
  readonly #tables: () => readonly Buffer[];
  readonly #symbols: () => SymbolSection | undefined;

  private constructor(image: ElfImage) {
    this.#image = image;
    this.#tables = lazy(() => readTables(image));
    this.#symbols = lazy(() => this.#readSymbols());
  }

  /** Reads nothing yet. Its methods throw ElfError for a damaged file. */
  static of(image: ElfImage): Relocations {
    return new Relocations(image);
  }

  /** The words that hold what an ifunc's resolver has chosen. */
  slotsOfResolver(resolver: number): VirtualAddress[] {
    const found: VirtualAddress[] = [];
    for (const { at, addend } of this.#ofTypes(IRELATIVE))
      if (addend === resolver && found.push(asAddress(at)) === MOST_FOUND) break;
    return found;
  }

  /** The words that get the address of a symbol of one of these names, wherever it is defined. */
  slotsNamed(names: ReadonlySet<string>): NamedSlot[] {
    const symbols = this.#symbols();
    if (symbols === undefined) return [];
    symbols.beginListing();
    const found: NamedSlot[] = [];
    const wanted = new Map<number, { name: string; version: string | undefined } | undefined>();
    for (const { at, symbol, addend } of this.#ofTypes(BY_SYMBOL)) {
      if (addend !== 0 || symbol === 0 || symbol >= symbols.count) continue;
      if (!wanted.has(symbol)) wanted.set(symbol, namedSymbol(symbols, symbol, names));
      const named = wanted.get(symbol);
      if (named !== undefined && found.push({ at: asAddress(at), ...named }) === MOST_FOUND) break;
    }
    return found;
  }

  /** The address in this file that a word will point at, as far as the file itself says. */
  targetOf(slot: number): VirtualAddress | undefined {
    for (const { at, type, symbol, addend } of this.#ofTypes(POINTERS)) {
      if (at !== slot) continue;
      if (type === R_X86_64_RELATIVE) return asAddress(addend);
      const symbols = this.#symbols();
      const isOwn = symbols !== undefined && symbol < symbols.count && symbols.isPlace(symbol);
      return isOwn ? asAddress(symbols.address(symbol) + addend) : undefined;
    }
    // Linked at a fixed address, or one of the relative relocations without an entry of their own (DT_RELR): it is there.
    const offset = this.#image.addressToOffset(slot);
    return offset === undefined ? undefined : asAddress(u64(this.#image.readAt(slot, 8, 'pointer'), 0));
  }

  /** Large programs have a million entries: those of other types are passed over before anything is made of them. */
  *#ofTypes(types: ReadonlySet<number>): Generator<Relocation> {
    for (const table of this.#tables())
      for (let entry = 0; entry < table.length; entry += ENTRY_SIZE) {
        const type = table.readUInt32LE(entry + 8);
        if (!types.has(type)) continue;
        const addend = table.readInt32LE(entry + 20) * 2 ** 32 + table.readUInt32LE(entry + 16);
        yield { at: u64(table, entry), type, symbol: table.readUInt32LE(entry + 12), addend };
      }
  }

  /**
   * The dynamic symbols, as many as relocations speak of: how many there are the file does not say where it exports
   * none (an empty DT_GNU_HASH counts none of those that are only imported).
   */
  #readSymbols(): SymbolSection | undefined {
    const { dynamic } = this.#image;
    const symbolsAt = dynamic?.value(DT_SYMTAB);
    const stringsAt = dynamic?.value(DT_STRTAB);
    const stringsSize = dynamic?.value(DT_STRSZ);
    if (!dynamic || symbolsAt === undefined || stringsAt === undefined || stringsSize === undefined)
      return undefined;
    let last = 0;
    for (const { symbol } of this.#ofTypes(BY_SYMBOL)) if (symbol > last) last = symbol;
    const count = Math.min(last + 1, MOST_SYMBOLS);
    const symbols = this.#image.readAt(symbolsAt, count * SYMBOL_SIZE, 'dynamic symbols');
    const length = Math.min(stringsSize, LONGEST_STRINGS);
    const strings = this.#image.readAt(stringsAt, length, 'dynamic symbol names');
    const versions = readVersions(this.#image, dynamic, strings, count);
    return new SymbolSection(this.#image, 'dynsym', symbols, strings, versions);
  }
}

function namedSymbol(symbols: SymbolSection, index: number, names: ReadonlySet<string>) {
  const name = symbols.rawName(index);
  return names.has(name) ? { name, version: symbols.symbol(index).version } : undefined;
}

/** Where the dynamic section says; static programs at fixed addresses have none, but mostly section headers. */
function readTables(image: ElfImage): Buffer[] {
  const tables: Buffer[] = [];
  let left = MOST_ENTRIES;
  for (const { address, size } of tablesOf(image)) {
    const count = Math.min(Math.floor(size / ENTRY_SIZE), left);
    left -= count;
    if (count > 0) tables.push(image.readAt(address, count * ENTRY_SIZE, 'relocations'));
  }
  return tables;
}

function tablesOf(image: ElfImage): { address: number; size: number }[] {
  const { dynamic } = image;
  if (dynamic === undefined)
    return image.sections
      .filter((s) => s.type === SHT_RELA && (s.flags & SHF_ALLOC) !== 0)
      .map(({ address, size }) => ({ address, size }));
  return [
    { address: dynamic.value(DT_RELA), size: dynamic.value(DT_RELASZ) },
    { address: dynamic.value(DT_JMPREL), size: dynamic.value(DT_PLTRELSZ) },
  ].flatMap(({ address, size }) => (address === undefined || size === undefined ? [] : [{ address, size }]));
}
