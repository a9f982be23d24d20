/**
 * Section headers: a table for linkers and debuggers that nothing needs to run a program. It may be missing, cut off or
 * nonsense in a file that runs well, so trouble here is a value, never a reason to refuse the file.
 */
import { ElfError, u64, type ElfBytes } from './source.js';
import { checked, SHDR_SIZE, type ElfHeader } from './header.js';

export interface ElfSection {
  readonly name: string;
  /** SHT_…: 8 is NOBITS, which has no bytes in the file. */
  readonly type: number;
  readonly flags: number;
  readonly address: number;
  readonly offset: number;
  readonly size: number;
  /** Index of a related section, e.g. a symbol table's strings. */
  readonly link: number;
  readonly entrySize: number;
}

export interface SectionTable {
  readonly sections: readonly ElfSection[];
  /** Why there are none although the header promises some. */
  readonly problem?: ElfError;
}

export const SHT_SYMTAB = 2;
export const SHT_RELA = 4;
export const SHT_NOTE = 7;
export const SHT_NOBITS = 8;
export const SHT_DYNSYM = 11;
/** The section is in memory when the program runs. */
export const SHF_ALLOC = 2;

const SHN_XINDEX = 0xffff;
const MOST_SECTIONS = 2 ** 17;
const LONGEST_NAMES = 2 ** 24;
const LONGEST_NAME = 4096;

export function readSections(bytes: ElfBytes, header: ElfHeader): SectionTable {
  if (header.shoff === 0) return { sections: [] };
  try {
    return { sections: parseSections(bytes, header) };
  } catch (e) {
    if (e instanceof ElfError) return { sections: [], problem: e };
    throw e;
  }
}

function parseSections(bytes: ElfBytes, header: ElfHeader): ElfSection[] {
  if (header.shentsize !== SHDR_SIZE)
    throw bytes.malformed(`its section headers are ${header.shentsize} bytes each`);
  const first = bytes.read(header.shoff, SHDR_SIZE, 'section headers');
  // gABI: numbers too large for the ELF header are kept in section header 0.
  const count = header.shnum === 0 ? u64(first, 32) : header.shnum;
  const namesIndex = header.shstrndx === SHN_XINDEX ? first.readUInt32LE(40) : header.shstrndx;
  if (count > MOST_SECTIONS) throw bytes.malformed(`it claims ${count} sections`);
  const table = bytes.read(header.shoff, count * SHDR_SIZE, 'section headers');
  const names = readNames(bytes, table, namesIndex, count);
  const sections: ElfSection[] = [];
  for (let i = 0; i < count; i++) sections.push(parseSection(bytes, table, i * SHDR_SIZE, names));
  return sections;
}

function readNames(bytes: ElfBytes, table: Buffer, index: number, count: number): Buffer {
  if (index >= count) throw bytes.malformed('it has no table of section names');
  const at = index * SHDR_SIZE;
  const size = u64(table, at + 32);
  if (size > LONGEST_NAMES) throw bytes.malformed(`its section names take ${size} bytes`);
  return bytes.read(u64(table, at + 24), size, 'section names');
}

function parseSection(bytes: ElfBytes, table: Buffer, at: number, names: Buffer): ElfSection {
  const start = table.readUInt32LE(at);
  const end = names.indexOf(0, start);
  if (end < 0 || end - start > LONGEST_NAME) throw bytes.malformed('a section name has no end');
  return {
    name: names.toString('utf8', start, end),
    type: table.readUInt32LE(at + 4),
    flags: u64(table, at + 8),
    address: checked(bytes, u64(table, at + 16), 'section address'),
    offset: checked(bytes, u64(table, at + 24), 'section offset'),
    size: checked(bytes, u64(table, at + 32), 'section size'),
    link: table.readUInt32LE(at + 40),
    entrySize: u64(table, at + 56),
  };
}
