/** Every function of a file in the order of addresses, with all the names each one has. */
import { asAddress, type VirtualAddress } from '../base/address.js';
import type { ElfSymbol, SymbolSection } from './symbol-section.js';

/** One address with at least one function symbol. */
export interface ElfFunction {
  readonly address: VirtualAddress;
  /** In bytes; 0: no symbol says. */
  readonly size: number;
  /** At least one, the one to show first. */
  readonly symbols: readonly ElfSymbol[];
}

export class FunctionList implements Iterable<ElfFunction> {
  /** How many addresses have function symbols. */
  readonly length: number;
  /** Distinct, ascending. */
  readonly #addresses: Float64Array;
  /** Largest size any symbol at that address gives. */
  readonly #sizes: Float64Array;
  /** The greatest end of this function and all before it: tells how far back one may cover an address. */
  readonly #reach: Float64Array;
  /** The symbols of function i are #members[#first[i]] … #members[#first[i + 1] - 1]. */
  readonly #first: Uint32Array;
  /** Numbers of symbols, counted through all sections. */
  readonly #members: Uint32Array;
  readonly #sections: readonly SymbolSection[];

  constructor(sections: readonly SymbolSection[]) {
    this.#sections = sections;
    const { members, first, addresses, sizes } = groupByAddress(collect(sections));
    this.length = addresses.length;
    this.#members = members;
    this.#first = first;
    this.#addresses = addresses;
    this.#sizes = sizes;
    this.#reach = reachOf(addresses, sizes);
  }

  /** The function at a position of the list. */
  at(index: number): ElfFunction | undefined {
    for (const section of this.#sections) section.beginListing();
    return this.#function(index);
  }

  /**
   * The function that covers an address: the innermost one whose size says so, else the nearest below that gives no
   * size (hand-written assembly), as far as the next function.
   */
  covering(address: number): ElfFunction | undefined {
    const below = lastAtOrBelow(this.#addresses, address);
    for (let i = below; i >= 0 && this.#reach[i]! > address; i--)
      if (address < this.#addresses[i]! + this.#sizes[i]!) return this.at(i);
    return below >= 0 && this.#sizes[below] === 0 ? this.at(below) : undefined;
  }

  /** The address of the first function after an address. */
  startAfter(address: number): VirtualAddress | undefined {
    const next = this.#addresses[lastAtOrBelow(this.#addresses, address) + 1];
    return next === undefined ? undefined : asAddress(next);
  }

  *[Symbol.iterator](): Generator<ElfFunction> {
    for (const section of this.#sections) section.beginListing();
    for (let i = 0; i < this.length; i++) yield this.#function(i)!;
  }

  #function(index: number): ElfFunction | undefined {
    const address = this.#addresses[index];
    if (address === undefined) return undefined;
    return { address: asAddress(address), size: this.#sizes[index]!, symbols: this.#symbolsOf(index) };
  }

  #symbolsOf(index: number): ElfSymbol[] {
    const symbols: ElfSymbol[] = [];
    for (let k = this.#first[index]!; k < this.#first[index + 1]!; k++)
      symbols.push(this.#symbol(this.#members[k]!));
    return symbols.length === 1 ? symbols : distinctSymbols(symbols);
  }

  #symbol(number: number): ElfSymbol {
    let index = number;
    for (const section of this.#sections) {
      if (index < section.count) return section.symbol(index);
      index -= section.count;
    }
    throw new RangeError(`no symbol ${number}`);
  }
}

/** One symbol for each name and version at one address, the best name first. */
export function distinctSymbols(symbols: readonly ElfSymbol[]): ElfSymbol[] {
  const [a, b] = symbols;
  if (symbols.length === 2 && a!.name === b!.name) {
    // The most frequent case by far: a function of .symtab and .dynsym.
    const both = [a!];
    addNamesake(both, b!);
    return both;
  }
  const byName = new Map<string, ElfSymbol[]>();
  for (const symbol of symbols) {
    const namesakes = byName.get(symbol.name);
    if (namesakes) addNamesake(namesakes, symbol);
    else byName.set(symbol.name, [symbol]);
  }
  return [...byName.values()].flat().sort(byUsefulness);
}

/** .symtab may have the plain name of what .dynsym knows with its version, or both the same. */
function addNamesake(namesakes: ElfSymbol[], symbol: ElfSymbol): void {
  const same = namesakes.findIndex((s) => s.version === symbol.version || s.version === undefined);
  if (same < 0) {
    if (symbol.version !== undefined) namesakes.push(symbol);
  } else if (symbol.version !== undefined || namesakes[same]!.size === 0) namesakes[same] = symbol;
}

/** What a person would call it: exported before local, `read` before `__read` and `__libc_read`, default version first. */
function byUsefulness(a: ElfSymbol, b: ElfSymbol): number {
  return (
    Number(a.binding === 'local') - Number(b.binding === 'local') ||
    underscores(a.name) - underscores(b.name) ||
    a.name.length - b.name.length ||
    (a.name < b.name ? -1 : Number(a.name > b.name)) ||
    Number(b.versionIsDefault ?? false) - Number(a.versionIsDefault ?? false)
  );
}

function underscores(name: string): number {
  let count = 0;
  while (name[count] === '_') count++;
  return count;
}

/** Function symbols: their numbers, counted through all sections, addresses and sizes. */
interface Collected {
  readonly numbers: Uint32Array;
  readonly addresses: Float64Array;
  readonly sizes: Float64Array;
}

function collect(sections: readonly SymbolSection[]): Collected {
  const most = sections.reduce((sum, s) => sum + s.count, 0);
  const numbers = new Uint32Array(most);
  const addresses = new Float64Array(most);
  const sizes = new Float64Array(most);
  let found = 0;
  let base = 0;
  for (const section of sections) {
    for (let i = 0; i < section.count; i++) {
      if (!section.isFunction(i)) continue;
      numbers[found] = base + i;
      addresses[found] = section.address(i);
      sizes[found++] = section.size(i);
    }
    base += section.count;
  }
  return {
    numbers: numbers.subarray(0, found),
    addresses: addresses.subarray(0, found),
    sizes: sizes.subarray(0, found),
  };
}

interface Grouped {
  readonly members: Uint32Array;
  readonly first: Uint32Array;
  readonly addresses: Float64Array;
  readonly sizes: Float64Array;
}

function groupByAddress({ numbers, addresses, sizes }: Collected): Grouped {
  const order = ascendingOrder(addresses);
  const count = order.length;
  const members = new Uint32Array(count);
  const first = new Uint32Array(count + 1);
  const starts = new Float64Array(count);
  const largest = new Float64Array(count);
  let last = -1;
  for (let k = 0; k < count; k++) {
    const symbol = order[k]!;
    members[k] = numbers[symbol]!;
    if (last < 0 || addresses[symbol] !== starts[last]) {
      starts[++last] = addresses[symbol]!;
      first[last] = k;
    }
    if (sizes[symbol]! > largest[last]!) largest[last] = sizes[symbol]!;
  }
  first[last + 1] = count;
  return { members, first, addresses: starts.subarray(0, last + 1), sizes: largest.subarray(0, last + 1) };
}

/** Index of the last of ascending values at or below a value, or -1. */
function lastAtOrBelow(values: Float64Array, value: number): number {
  let low = 0;
  let high = values.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (values[middle]! <= value) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

function reachOf(addresses: Float64Array, sizes: Float64Array): Float64Array {
  const reach = new Float64Array(addresses.length);
  let furthest = 0;
  for (let i = 0; i < reach.length; i++) reach[i] = furthest = Math.max(furthest, addresses[i]! + sizes[i]!);
  return reach;
}

/** Below, a radix sort takes more time for its digits than for the values. */
const FEW = 2048;

/**
 * The indexes of values in the order of the values. A radix sort, 16 bits at a time: comparing through a callback would
 * take node's 150,000 functions a tenth of a second.
 */
function ascendingOrder(values: Float64Array): Uint32Array {
  const count = values.length;
  let from = new Uint32Array(count);
  let most = 0;
  for (let i = 0; i < count; i++) {
    from[i] = i;
    if (values[i]! > most) most = values[i]!;
  }
  if (count < FEW) return from.sort((a, b) => values[a]! - values[b]! || a - b);
  let to = new Uint32Array(count);
  for (let unit = 1; unit <= most; unit *= 65536) {
    sortByDigit(values, unit, from, to);
    [from, to] = [to, from];
  }
  return from;
}

/** Keeps the order of those whose digit is the same. */
function sortByDigit(values: Float64Array, unit: number, from: Uint32Array, to: Uint32Array): void {
  const next = new Uint32Array(65537);
  for (let i = 0; i < values.length; i++) next[1 + digitOf(values[i]!, unit)]!++;
  for (let digit = 0; digit < 65536; digit++) next[digit + 1]! += next[digit]!;
  for (let k = 0; k < from.length; k++) {
    const index = from[k]!;
    to[next[digitOf(values[index]!, unit)]!++] = index;
  }
}

/** ToInt32 takes a double modulo 2^32, so this is right for values of any size; `%` on doubles is slow. */
const digitOf = (value: number, unit: number): number => (value / unit) & 0xffff;
