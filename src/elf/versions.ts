/**
 * Symbol versions of the dynamic symbols: .gnu.version, .gnu.version_d and .gnu.version_r, found through the dynamic
 * section. "Symbol Versioning", LSB Core, chapter 10.7.
 */
import { DT_VERDEF, DT_VERDEFNUM, DT_VERNEED, DT_VERNEEDNUM, DT_VERSYM, type Dynamic } from './dynamic.js';
import type { ElfImage } from './image.js';

export interface SymbolVersion {
  readonly version: string;
  /** The version a plain reference binds to: what `@@` means. */
  readonly isDefault: boolean;
}

/** The version of the dynamic symbol of that index. */
export type VersionOf = (index: number) => SymbolVersion | undefined;

/** Set in .gnu.version for a version that plain references do not bind to. */
const HIDDEN = 0x8000;
/** Index 0 is "local", index 1 "global, without a version". */
const FIRST_NAMED = 2;
/** Far more than any library has: libc's own definitions take 2 KiB. */
const LARGEST_TABLE = 2 ** 20;
/** An index has 15 bits. */
const MOST_VERSIONS = 2 ** 15;
const LONGEST_NAME = 4096;

/** `strings`: the dynamic string table; `count`: how many symbols there are. */
export function readVersions(image: ElfImage, dynamic: Dynamic, strings: Buffer, count: number): VersionOf {
  const versymAt = dynamic.value(DT_VERSYM);
  if (versymAt === undefined) return () => undefined;
  const versym = image.readAt(versymAt, count * 2, 'symbol versions');
  const nameAt = (at: number): string => {
    const name = strings.subarray(at, at + LONGEST_NAME);
    return name.toString('utf8', 0, Math.max(name.indexOf(0), 0));
  };
  const defined = new Map<number, string>();
  const needed = new Map<number, string>();
  readDefinitions(image, dynamic, (index, name) => defined.set(index, nameAt(name)));
  readRequirements(image, dynamic, (index, name) => needed.set(index, nameAt(name)));
  return (symbol) => {
    const raw = versym.readUInt16LE(symbol * 2);
    const index = raw & ~HIDDEN;
    if (index < FIRST_NAMED) return undefined;
    const own = defined.get(index);
    if (own !== undefined) return { version: own, isDefault: (raw & HIDDEN) === 0 };
    // A program's copy of a library's variable carries the version it requires of the library.
    const required = needed.get(index);
    return required === undefined ? undefined : { version: required, isDefault: false };
  };
}

type Found = (index: number, name: number) => void;

/** Verdef: version, flags, index, count of names, hash, offset of names, offset of the next one. */
function readDefinitions(image: ElfImage, dynamic: Dynamic, found: Found): void {
  const table = tableAt(image, dynamic, DT_VERDEF);
  for (const at of chain(table, 0, dynamic.value(DT_VERDEFNUM) ?? 0, 20, 16)) {
    const names = at + table.readUInt32LE(at + 12);
    // The first name is the version's own; the others are the versions it inherits from.
    if (names + 8 <= table.length) found(table.readUInt16LE(at + 4) & ~HIDDEN, table.readUInt32LE(names));
  }
}

/** Verneed: version, count of names, file, offset of names, offset of the next. Vernaux: hash, flags, index, name, next. */
function readRequirements(image: ElfImage, dynamic: Dynamic, found: Found): void {
  const table = tableAt(image, dynamic, DT_VERNEED);
  let left = MOST_VERSIONS;
  for (const at of chain(table, 0, dynamic.value(DT_VERNEEDNUM) ?? 0, 16, 12)) {
    const count = Math.min(table.readUInt16LE(at + 2), left);
    left -= count;
    for (const name of chain(table, at + table.readUInt32LE(at + 8), count, 16, 12))
      found(table.readUInt16LE(name + 6) & ~HIDDEN, table.readUInt32LE(name + 8));
  }
}

function tableAt(image: ElfImage, dynamic: Dynamic, tag: number): Buffer {
  const start = dynamic.value(tag);
  return start === undefined ? Buffer.alloc(0) : image.readUpTo(start, LARGEST_TABLE, 'symbol versions');
}

/** The positions of at most `count` records of `size` bytes, each of which says at `next` how far it is to the next. */
function* chain(table: Buffer, start: number, count: number, size: number, next: number): Generator<number> {
  let at = start;
  for (let left = Math.min(count, MOST_VERSIONS); left > 0 && at + size <= table.length; left--) {
    yield at;
    const step = table.readUInt32LE(at + next);
    if (step === 0) return;
    at += step;
  }
}
