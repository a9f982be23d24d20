/**
 * One symbol table of one file, as it lies there: numbers are read in place and a name is decoded only when it is
 * asked for. Elf64_Sym (24 bytes, six 32-bit words): name; info, other, section; value; size.
 */
import { asAddress, type VirtualAddress } from '../base/address.js';
import { DT_GNU_HASH, DT_HASH, DT_STRSZ, DT_STRTAB, DT_SYMTAB, type Dynamic } from './dynamic.js';
import type { ElfImage } from './image.js';
import { SHT_DYNSYM, SHT_SYMTAB, type ElfSection } from './sections.js';
import { readVersions, type VersionOf } from './versions.js';

export type SymbolKind = 'func' | 'ifunc' | 'notype' | 'object' | 'other';
export type SymbolBinding = 'local' | 'global' | 'weak';
export type SymbolSource = 'symtab' | 'dynsym' | 'debug';

/** A named place in a program or library. */
export interface ElfSymbol {
  /** Without its version. */
  readonly name: string;
  readonly version?: string;
  /** Whether a plain reference means this version (`@@`). */
  readonly versionIsDefault?: boolean;
  /** Link-time address, as nm prints it. */
  readonly address: VirtualAddress;
  /** In bytes; 0: the file does not say. */
  readonly size: number;
  /** `ifunc`: the address is that of a resolver, which chooses the function at start-up. */
  readonly kind: SymbolKind;
  readonly binding: SymbolBinding;
  readonly source: SymbolSource;
}

export const SYMBOL_SIZE = 24;
const WORDS = 6;
const STT_SECTION = 3;
const STT_FILE = 4;
const STT_TLS = 6;
const STT_FUNC = 2;
const STT_GNU_IFUNC = 10;
const STB_WEAK = 2;
const SHN_UNDEF = 0;
/** From here on the index means something else; ABS and XINDEX still are places, COMMON and its kin are not. */
const SHN_LORESERVE = 0xff00;
const SHN_ABS = 0xfff1;
const SHN_XINDEX = 0xffff;
const AT_SIGN = 0x40;
/** A name as short as one letter is part of nearly every other. */
const MOST_TRIES = 1000;
/** Nobody will look through more; a damaged file could have millions. */
const MOST_NAMESAKES = 100_000;

const KINDS: Readonly<Record<number, SymbolKind>> = {
  0: 'notype',
  1: 'object',
  2: 'func',
  5: 'object',
  10: 'ifunc',
};

/** A name as a person gives it: plain, `name@VERSION` or `name@@VERSION`. */
export interface SymbolQuery {
  readonly name: string;
  readonly version?: string;
  /** `@@` was written: only the default version will do. */
  readonly defaultOnly: boolean;
}

/** The first `@` begins the version, unless it is the very first letter or nothing follows: then it is part of the name. */
export function parseSymbolName(text: string): SymbolQuery {
  const at = text.indexOf('@', 1);
  const defaultOnly = at > 0 && text[at + 1] === '@';
  const version = at < 0 ? '' : text.slice(at + (defaultOnly ? 2 : 1));
  return version === ''
    ? { name: text, defaultOnly: false }
    : { name: text.slice(0, at), version, defaultOnly };
}

export class SymbolSection {
  readonly source: SymbolSource;
  readonly count: number;
  readonly #image: ElfImage;
  readonly #words: Uint32Array;
  readonly #strings: Buffer;
  readonly #versionOf: VersionOf | undefined;
  #nameBytes = 0;

  constructor(
    image: ElfImage,
    source: SymbolSource,
    symbols: Buffer,
    strings: Buffer,
    versionOf?: VersionOf,
  ) {
    this.#image = image;
    this.source = source;
    this.count = Math.floor(symbols.length / SYMBOL_SIZE);
    this.#words = asWords(symbols, this.count * WORDS);
    this.#strings = strings;
    this.#versionOf = versionOf;
  }

  /** Whether it names a place: defined here, with a name, and neither a section, a file nor thread-local. */
  isPlace(i: number): boolean {
    const word = this.#words[i * WORDS + 1] ?? 0;
    const section = word >>> 16;
    if (section === SHN_UNDEF) return false;
    if (section >= SHN_LORESERVE && section !== SHN_ABS && section !== SHN_XINDEX) return false;
    const type = word & 15;
    if (type === STT_SECTION || type === STT_FILE || type === STT_TLS) return false;
    // Names nothing a process could have mapped, and no double could hold it.
    if ((this.#words[i * WORDS + 3] ?? 0) >= 2 ** 21) return false;
    const name = this.#words[i * WORDS] ?? 0;
    return name < this.#strings.length && this.#strings[name] !== 0;
  }

  isFunction(i: number): boolean {
    const type = (this.#words[i * WORDS + 1] ?? 0) & 15;
    return (type === STT_FUNC || type === STT_GNU_IFUNC) && this.isPlace(i);
  }

  isIfunc(i: number): boolean {
    return ((this.#words[i * WORDS + 1] ?? 0) & 15) === STT_GNU_IFUNC && this.isPlace(i);
  }

  address(i: number): number {
    return (this.#words[i * WORDS + 3] ?? 0) * 2 ** 32 + (this.#words[i * WORDS + 2] ?? 0);
  }

  /** A size that would lead out of the address space says nothing. */
  size(i: number): number {
    const high = this.#words[i * WORDS + 5] ?? 0;
    return high >= 2 ** 20 ? 0 : high * 2 ** 32 + (this.#words[i * WORDS + 4] ?? 0);
  }

  symbol(i: number): ElfSymbol {
    const word = this.#words[i * WORDS + 1] ?? 0;
    const raw = this.rawName(i);
    const { name, version, isDefault } = this.#versionOf ? this.#dynamicName(raw, i) : staticName(raw);
    const address = asAddress(this.address(i));
    const size = this.size(i);
    const kind = KINDS[word & 15] ?? 'other';
    const binding = bindingOf((word >>> 4) & 15);
    const source = this.source;
    // Two literals rather than a spread: listings make a hundred thousand of these.
    if (version === undefined) return { name, address, size, kind, binding, source };
    return { name, version, versionIsDefault: isDefault, address, size, kind, binding, source };
  }

  /** The name as the file has it; in .symtab the version is part of it. */
  rawName(i: number): string {
    const start = this.#words[i * WORDS] ?? 0;
    const found = this.#strings.indexOf(0, start);
    const end = found < 0 ? this.#strings.length : found;
    this.#spend(end - start);
    return this.#strings.toString('utf8', start, end);
  }

  /** To be called before names are decoded: allows each listing the same amount of work. */
  beginListing(): void {
    this.#nameBytes = 0;
  }

  /**
   * The indexes of the places called `name`, whatever their version. Nothing is decoded: the name's bytes are searched
   * for among the strings, and the symbols for one that points there (which also finds it as the tail of another name).
   */
  named(name: string): number[] {
    const wanted = Buffer.from(name, 'utf8');
    if (wanted.length === 0) return [];
    const positions = this.#positionsOf(wanted);
    if (positions?.size === 0) return [];
    const words = this.#words;
    const found: number[] = [];
    for (let i = 0, at = 0; i < this.count; i++, at += WORDS) {
      const start = words[at]!;
      if ((positions ? positions.has(start) : this.#isSpelledAt(start, wanted)) && this.isPlace(i)) {
        found.push(i);
        if (found.length === MOST_NAMESAKES) break;
      }
    }
    return found;
  }

  /** Where among the strings a name is spelled, alone or before a version; undefined: at too many places to list. */
  #positionsOf(wanted: Buffer): Set<number> | undefined {
    const positions = new Set<number>();
    let tries = 0;
    for (let at = this.#strings.indexOf(wanted); at >= 0; at = this.#strings.indexOf(wanted, at + 1)) {
      if (++tries > MOST_TRIES) return undefined;
      if (this.#endsNameAt(at + wanted.length)) positions.add(at);
    }
    return positions;
  }

  #isSpelledAt(start: number, wanted: Buffer): boolean {
    const end = start + wanted.length;
    return this.#endsNameAt(end) && wanted.compare(this.#strings, start, end) === 0;
  }

  #endsNameAt(end: number): boolean {
    return end < this.#strings.length && (this.#strings[end] === 0 || this.#strings[end] === AT_SIGN);
  }

  #dynamicName(name: string, i: number): NameAndVersion {
    const version = this.#versionOf?.(i);
    return { name, version: version?.version, isDefault: version?.isDefault ?? false };
  }

  /**
   * Names may share bytes, so a small hostile file can hold millions of long ones. Real files have about as many bytes
   * of names as of strings.
   */
  #spend(length: number): void {
    this.#nameBytes += length;
    if (this.#nameBytes > 2 ** 26 + 4 * this.#strings.length)
      throw this.#image.bytes.malformed('its symbol names overlap beyond reason');
  }
}

interface NameAndVersion {
  readonly name: string;
  readonly version: string | undefined;
  readonly isDefault: boolean;
}

/** The linker writes versions into the names of .symtab. */
function staticName(raw: string): NameAndVersion {
  if (!raw.includes('@')) return { name: raw, version: undefined, isDefault: false };
  const { name, version, defaultOnly } = parseSymbolName(raw);
  return { name, version, isDefault: defaultOnly };
}

function bindingOf(bind: number): SymbolBinding {
  return bind === 0 ? 'local' : bind === STB_WEAK ? 'weak' : 'global';
}

/** The bytes as 32-bit words; x86-64, like every machine Node runs this on, is little-endian. */
function asWords(bytes: Buffer, count: number): Uint32Array {
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : new Uint8Array(bytes);
  return new Uint32Array(aligned.buffer, aligned.byteOffset, count);
}

/** .symtab, which only section headers lead to. */
export function readStaticSymbols(image: ElfImage, source: 'symtab' | 'debug'): SymbolSection | undefined {
  const table = image.sections.find((s) => s.type === SHT_SYMTAB);
  if (!table) return undefined;
  const strings = image.sections[table.link];
  if (!strings) throw image.bytes.malformed('its symbol table has no strings');
  checkEntrySize(image, table);
  return new SymbolSection(
    image,
    source,
    image.bytes.read(table.offset, table.size, 'symbol table'),
    image.bytes.read(strings.offset, strings.size, 'symbol names'),
  );
}

/** .dynsym, through the dynamic section: also where there are no section headers. */
export function readDynamicSymbols(image: ElfImage): SymbolSection | undefined {
  const dynamic = image.dynamic;
  const symbolsAt = dynamic?.value(DT_SYMTAB);
  const stringsAt = dynamic?.value(DT_STRTAB);
  const stringsSize = dynamic?.value(DT_STRSZ);
  if (!dynamic || symbolsAt === undefined || stringsAt === undefined || stringsSize === undefined)
    return undefined;
  const count = dynamicSymbolCount(image, dynamic, symbolsAt);
  if (count === 0) return undefined;
  const symbols = image.readAt(symbolsAt, count * SYMBOL_SIZE, 'dynamic symbols');
  const strings = image.readAt(stringsAt, stringsSize, 'dynamic symbol names');
  return new SymbolSection(image, 'dynsym', symbols, strings, readVersions(image, dynamic, strings, count));
}

/** The dynamic section does not say how many symbols there are; the hash tables do, by the way. */
function dynamicSymbolCount(image: ElfImage, dynamic: Dynamic, symbolsAt: number): number {
  const hash = dynamic.value(DT_HASH);
  // nbucket, nchain; one chain entry for each symbol.
  if (hash !== undefined) return image.readAt(hash, 8, 'symbol hash table').readUInt32LE(4);
  const gnuHash = dynamic.value(DT_GNU_HASH);
  if (gnuHash !== undefined) return gnuHashCount(image, gnuHash);
  const section = image.sections.find((s) => s.type === SHT_DYNSYM && s.address === symbolsAt);
  return section ? Math.floor(section.size / SYMBOL_SIZE) : 0;
}

/**
 * Header (bucket count, first hashed symbol, Bloom words, shift), Bloom filter, buckets, chains. A bucket is the index
 * of its chain's first symbol, and the last of a chain has its lowest bit set: the last chain ends at the last symbol.
 */
function gnuHashCount(image: ElfImage, at: number): number {
  const what = 'GNU symbol hash table';
  const header = image.readAt(at, 16, what);
  const bucketCount = header.readUInt32LE(0);
  const firstHashed = header.readUInt32LE(4);
  const bucketsAt = at + 16 + header.readUInt32LE(8) * 8;
  const buckets = asWords(image.readAt(bucketsAt, bucketCount * 4, what), bucketCount);
  let last = 0;
  for (const bucket of buckets) if (bucket > last) last = bucket;
  if (last < firstHashed) return firstHashed;
  const chainsAt = bucketsAt + bucketCount * 4;
  for (;;) {
    const chain = image.readUpTo(chainsAt + (last - firstHashed) * 4, 4096, what);
    for (let i = 0; i + 4 <= chain.length; i += 4, last++)
      if ((chain.readUInt32LE(i) & 1) !== 0) return last + 1;
    if (chain.length < 4096) throw image.bytes.malformed(`its ${what} has no end`);
  }
}

function checkEntrySize(image: ElfImage, table: ElfSection): void {
  if (table.entrySize !== SYMBOL_SIZE)
    throw image.bytes.malformed(`its symbols are ${table.entrySize} bytes each, not ${SYMBOL_SIZE}`);
}
