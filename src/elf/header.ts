/**
 * The ELF header: whether this is a file that can be probed at all, and where its tables are.
 * System V gABI chapter 4; the numbers are those of elf.h.
 */
import { ElfError, u64, type ElfBytes } from './source.js';

export interface ElfHeader {
  readonly type: 'exec' | 'dyn';
  readonly entry: number;
  readonly phoff: number;
  readonly phnum: number;
  readonly shoff: number;
  readonly shentsize: number;
  readonly shnum: number;
  readonly shstrndx: number;
}

export const EHDR_SIZE = 64;
export const PHDR_SIZE = 56;
export const SHDR_SIZE = 64;

const ELFCLASS64 = 2;
const ELFDATA2LSB = 1;
const EM_X86_64 = 62;
const ET_EXEC = 2;
const ET_DYN = 3;
/** e_phnum when there are more program headers than it can count: the number is in section header 0. */
const PN_XNUM = 0xffff;
/** The kernel itself takes no more than 64 KiB of program headers (fs/binfmt_elf.c, load_elf_phdrs). */
const MOST_PROGRAM_HEADERS = 65536;

const MACHINES: Readonly<Record<number, string>> = {
  3: 'i386',
  8: 'MIPS',
  20: 'PowerPC',
  21: 'PowerPC 64',
  22: 'S/390',
  40: 'ARM',
  183: 'AArch64',
  243: 'RISC-V',
  247: 'BPF',
  258: 'LoongArch',
};

const UNLOADABLE: Readonly<Record<number, string>> = {
  1: 'is a relocatable object file, which nothing maps as it is: probe the program or library it was linked into',
  4: 'is a core dump, not a program: probe the program that dumped it',
};

export function parseHeader(bytes: ElfBytes): ElfHeader {
  const ident = bytes.read(0, Math.min(EHDR_SIZE, bytes.size), 'ELF header');
  refuseNonElf(ident, bytes.name);
  if (ident.length > 4 && ident[4] !== ELFCLASS64)
    throw new ElfError(
      'elf-32-bit',
      bytes.name,
      `is a 32-bit program or library, and only 64-bit ones can be probed: use its x86-64 build`,
    );
  if (ident.length < EHDR_SIZE) throw bytes.truncated('ELF header', 0, EHDR_SIZE);
  refuseOtherMachines(ident, bytes.name);
  const phentsize = ident.readUInt16LE(54);
  const phnum = programHeaderCount(bytes, ident);
  if (phnum > 0 && phentsize !== PHDR_SIZE)
    throw bytes.malformed(`its program headers are ${phentsize} bytes each, not ${PHDR_SIZE}`);
  return {
    type: loadableType(ident.readUInt16LE(16), bytes.name),
    entry: checked(bytes, u64(ident, 24), 'entry point'),
    phoff: checked(bytes, u64(ident, 32), 'program header offset'),
    phnum,
    // Not checked: nothing that runs a program looks at the section headers, so damage there must not stop us here.
    shoff: u64(ident, 40),
    shentsize: ident.readUInt16LE(58),
    shnum: ident.readUInt16LE(60),
    shstrndx: ident.readUInt16LE(62),
  };
}

/** An address, offset or size that a double holds exactly; no real one is larger. */
export function checked(bytes: ElfBytes, value: number, what: string): number {
  if (value > Number.MAX_SAFE_INTEGER) throw bytes.malformed(`its ${what} is beyond 2^53`);
  return value;
}

function refuseNonElf(ident: Buffer, name: string): void {
  if (ident.length >= 4 && ident.readUInt32BE(0) === 0x7f454c46) return;
  const advice =
    ident.length === 0
      ? 'it is empty'
      : ident[0] === 0x23 && ident[1] === 0x21
        ? 'it is a script: probe its interpreter, named on its first line'
        : 'give the path of a program or shared library';
  throw new ElfError('not-elf', name, `is not an ELF file: ${advice}`);
}

function refuseOtherMachines(ident: Buffer, name: string): void {
  const littleEndian = ident[5] === ELFDATA2LSB;
  const machine = littleEndian ? ident.readUInt16LE(18) : ident.readUInt16BE(18);
  const machineName = MACHINES[machine] ?? `machine ${machine}`;
  if (!littleEndian)
    throw new ElfError(
      'elf-big-endian',
      name,
      `is for a big-endian machine (${machineName}): use its x86-64 build`,
    );
  if (machine !== EM_X86_64)
    throw new ElfError('elf-machine', name, `is for ${machineName}, not for x86-64: use its x86-64 build`);
}

function loadableType(type: number, name: string): 'exec' | 'dyn' {
  if (type === ET_EXEC) return 'exec';
  if (type === ET_DYN) return 'dyn';
  const why = UNLOADABLE[type] ?? `has ELF type ${type}: it is neither a program nor a shared library`;
  throw new ElfError('elf-not-loadable', name, why);
}

function programHeaderCount(bytes: ElfBytes, ident: Buffer): number {
  const phnum = ident.readUInt16LE(56);
  if (phnum !== PN_XNUM) return phnum;
  const first = bytes.read(u64(ident, 40), SHDR_SIZE, 'first section header');
  const count = first.readUInt32LE(44);
  if (count > MOST_PROGRAM_HEADERS) throw bytes.malformed(`it claims ${count} program headers`);
  return count;
}
