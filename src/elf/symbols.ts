/**
 * The names of a program or library: .symtab, .dynsym with its versions, and the .symtab of a separate debug file,
 * asked as one.
 */
import { nearest } from '../base/nearest.js';
import { FunctionList, type ElfFunction } from './function-list.js';
import type { ElfImage } from './image.js';
import { lazy } from '../base/lazy.js';
import {
  parseSymbolName,
  readDynamicSymbols,
  readStaticSymbols,
  type ElfSymbol,
  type SymbolQuery,
  type SymbolSection,
} from './symbol-section.js';

export { FunctionList, type ElfFunction } from './function-list.js';
export type { ElfSymbol, SymbolBinding, SymbolKind, SymbolSource } from './symbol-section.js';

export class SymbolTable {
  readonly #sections: () => readonly SymbolSection[];
  readonly #functions: () => FunctionList;

  private constructor(image: ElfImage, debug: ElfImage | undefined) {
    this.#sections = lazy(() =>
      [
        readStaticSymbols(image, 'symtab'),
        readDynamicSymbols(image),
        debug && readStaticSymbols(debug, 'debug'),
      ].filter((s) => s !== undefined),
    );
    this.#functions = lazy(() => new FunctionList(this.#sections()));
  }

  /** Reads nothing yet. `debug`: the separate debug file that belongs to `image`; the caller has checked that it does. */
  static of(image: ElfImage, debug?: ElfImage): SymbolTable {
    return new SymbolTable(image, debug);
  }

  /** Whether the file has the names of its local functions too. */
  get hasLocals(): boolean {
    return this.#sections().some((s) => s.source !== 'dynsym');
  }

  /**
   * Every place of that name, exported ones first, one per address. With several versions of a plain name, the default
   * one; `name@VERSION` and `name@@VERSION` choose. More than one element: the name is ambiguous.
   */
  lookup(text: string): ElfSymbol[] {
    const found = this.#matching(parseSymbolName(text));
    // A name with @ in it need not be a versioned one.
    const literal =
      found.length === 0 && text.includes('@') ? this.#matching({ name: text, defaultOnly: false }) : found;
    return onePerAddress(literal.sort((a, b) => rank(a) - rank(b)));
  }

  /** All functions, by address. Built at the first call. */
  functions(): FunctionList {
    return this.#functions();
  }

  /** The function that covers a link-time address. */
  at(address: number): ElfFunction | undefined {
    return this.functions().covering(address);
  }

  /** One call for each function address, ascending. */
  forEachFunction(visit: (f: ElfFunction) => void): void {
    for (const f of this.functions()) visit(f);
  }

  /** Every symbol of every table, undeduplicated, in the file's order. */
  *all(): Generator<ElfSymbol> {
    for (const section of this.#sections()) {
      section.beginListing();
      for (let i = 0; i < section.count; i++) if (section.isPlace(i)) yield section.symbol(i);
    }
  }

  /** Every ifunc of every table: functions that only choose another one when a program starts. */
  *ifuncs(): Generator<ElfSymbol> {
    for (const section of this.#sections()) {
      section.beginListing();
      for (let i = 0; i < section.count; i++) if (section.isIfunc(i)) yield section.symbol(i);
    }
  }

  /** The names of all functions, without versions; some come more than once. */
  *names(): Generator<string> {
    for (const section of this.#sections()) {
      section.beginListing();
      for (let i = 0; i < section.count; i++)
        if (section.isFunction(i))
          yield section.source === 'dynsym' ? section.rawName(i) : plain(section.rawName(i));
    }
  }

  /** At most `max` function names that someone who wrote `name` may have meant. */
  similar(name: string, max = 5): string[] {
    return nearest(parseSymbolName(name).name, this.names(), max);
  }

  #matching(query: SymbolQuery): ElfSymbol[] {
    const found: ElfSymbol[] = [];
    for (const section of this.#sections()) {
      section.beginListing();
      for (const i of section.named(query.name)) {
        const symbol = section.symbol(i);
        if (symbol.name === query.name && versionFits(symbol, query)) found.push(symbol);
      }
    }
    const hasDefault = query.version === undefined && found.some((s) => s.versionIsDefault);
    return hasDefault ? found.filter((s) => s.version === undefined || s.versionIsDefault) : found;
  }
}

function versionFits(symbol: ElfSymbol, query: SymbolQuery): boolean {
  if (query.version === undefined) return true;
  return symbol.version === query.version && (!query.defaultOnly || symbol.versionIsDefault === true);
}

/** Exported before local; of the same address, the one that says most before the others. */
const rank = (s: ElfSymbol): number =>
  (s.binding === 'local' ? 8 : 0) +
  (s.versionIsDefault ? 0 : s.version !== undefined ? 2 : 4) +
  (s.size > 0 ? 0 : 1);

function onePerAddress(symbols: readonly ElfSymbol[]): ElfSymbol[] {
  const byAddress = new Map<number, ElfSymbol>();
  for (const symbol of symbols) if (!byAddress.has(symbol.address)) byAddress.set(symbol.address, symbol);
  return [...byAddress.values()];
}

const plain = (raw: string): string => (raw.includes('@') ? parseSymbolName(raw).name : raw);
