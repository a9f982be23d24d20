/**
 * The dynamic section, as the dynamic linker sees it: found through PT_DYNAMIC and addresses, without section
 * headers. gABI chapter 5, "Dynamic Section".
 */
import type { ElfImage } from './image.js';
import { u64 } from './source.js';

export interface Dynamic {
  readonly soname?: string;
  readonly needed: readonly string[];
  readonly rpath?: string;
  readonly runpath?: string;
  /** DT_FLAGS_1. */
  readonly flags1: number;
  /** The first value of a tag, raw. */
  value(tag: number): number | undefined;
}

export const DT_PLTRELSZ = 2;
export const DT_HASH = 4;
export const DT_STRTAB = 5;
export const DT_SYMTAB = 6;
export const DT_RELA = 7;
export const DT_RELASZ = 8;
export const DT_STRSZ = 10;
export const DT_JMPREL = 23;
export const DT_VERSYM = 0x6ffffff0;
export const DT_VERDEF = 0x6ffffffc;
export const DT_VERDEFNUM = 0x6ffffffd;
export const DT_VERNEED = 0x6ffffffe;
export const DT_VERNEEDNUM = 0x6fffffff;
export const DT_GNU_HASH = 0x6ffffef5;
export const DF_1_PIE = 0x08000000;

const DT_NULL = 0;
const DT_NEEDED = 1;
const DT_SONAME = 14;
const DT_RPATH = 15;
const DT_RUNPATH = 29;
const DT_FLAGS_1 = 0x6ffffffb;

const ENTRY_SIZE = 16;
const MOST_ENTRIES = 65536;
/** PATH_MAX: nothing longer can be opened. A search path may hold many of them. */
const LONGEST_NAME = 4096;
const LONGEST_PATH = 65536;
const MOST_NEEDED = 4096;

/** `address` and `size`: where PT_DYNAMIC is. */
export function readDynamic(image: ElfImage, address: number, size: number): Dynamic {
  const first = new Map<number, number>();
  const neededAt: number[] = [];
  const table = image.readAt(
    address,
    Math.min(size - (size % ENTRY_SIZE), MOST_ENTRIES * ENTRY_SIZE),
    'dynamic section',
  );
  for (let at = 0; at < table.length; at += ENTRY_SIZE) {
    const tag = u64(table, at);
    const value = u64(table, at + 8);
    if (tag === DT_NULL) break;
    if (tag === DT_NEEDED) neededAt.push(value);
    if (!first.has(tag)) first.set(tag, value);
  }
  if (neededAt.length > MOST_NEEDED) throw image.bytes.malformed(`it needs ${neededAt.length} libraries`);
  const string = (at: number, limit: number): string => {
    const strings = first.get(DT_STRTAB);
    const offset = strings === undefined ? undefined : image.addressToOffset(strings + at);
    if (offset === undefined)
      throw image.bytes.malformed('a name in its dynamic section lies outside the file');
    return image.bytes.string(offset, limit, 'dynamic string');
  };
  const optional = (tag: number): string | undefined => {
    const at = first.get(tag);
    return at === undefined ? undefined : string(at, LONGEST_PATH);
  };
  const soname = optional(DT_SONAME);
  const rpath = optional(DT_RPATH);
  const runpath = optional(DT_RUNPATH);
  return {
    ...(soname !== undefined && { soname }),
    needed: neededAt.map((at) => string(at, LONGEST_NAME)),
    ...(rpath !== undefined && { rpath }),
    ...(runpath !== undefined && { runpath }),
    flags1: first.get(DT_FLAGS_1) ?? 0,
    value: (tag) => first.get(tag),
  };
}
