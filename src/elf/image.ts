/**
 * One ELF program or shared library: what is mapped where, and what the file says of itself. Only the ELF and program
 * headers are read at once; everything else when first asked for, so that opening a 100 MB program costs nothing.
 */
import { asAddress, asOffset, type FileOffset, type VirtualAddress } from '../base/address.js';
import { readDynamic, DF_1_PIE, type Dynamic } from './dynamic.js';
import { checked, parseHeader, PHDR_SIZE, type ElfHeader } from './header.js';
import { buildIdIn } from './notes.js';
import { readSections, SHT_NOBITS, SHT_NOTE, type ElfSection, type SectionTable } from './sections.js';
import { lazy } from '../base/lazy.js';
import { ElfBytes, ElfError, u64, type ByteSource } from './source.js';

export type { ElfSection } from './sections.js';

/** A PT_LOAD segment: bytes of the file that are mapped into the process. */
export interface Segment {
  readonly offset: FileOffset;
  readonly vaddr: VirtualAddress;
  /** Bytes that come from the file; the rest of `memsz` is zeroes (.bss). */
  readonly filesz: number;
  readonly memsz: number;
  readonly readable: boolean;
  readonly writable: boolean;
  readonly executable: boolean;
}

export interface DebugLink {
  /** A file name without directories. */
  readonly name: string;
  /** CRC-32 of the whole debug file. */
  readonly crc: number;
}

interface ProgramHeader {
  readonly type: number;
  readonly flags: number;
  readonly offset: number;
  readonly vaddr: number;
  readonly filesz: number;
  readonly memsz: number;
  readonly align: number;
}

const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const PT_INTERP = 3;
const PT_NOTE = 4;
const PT_GNU_EH_FRAME = 0x6474e550;
const PF_X = 1;
const PF_W = 2;
const PF_R = 4;
const LONGEST_NOTES = 65536;
const PATH_MAX = 4096;

export class ElfImage {
  /** The file's name, for messages. */
  readonly name: string;
  /** `exec`: linked at fixed addresses; `dyn`: a shared library or a position-independent program. */
  readonly type: 'exec' | 'dyn';
  /** Address of the first instruction; 0 in most shared libraries. */
  readonly entry: VirtualAddress;
  /** The PT_LOAD segments, in the file's order. */
  readonly segments: readonly Segment[];
  /** Checked access to the raw file. */
  readonly bytes: ElfBytes;
  readonly #programHeaders: readonly ProgramHeader[];
  readonly #sectionTable: () => SectionTable;
  readonly #dynamic: () => Dynamic | undefined;
  readonly #interp: () => string | undefined;
  readonly #buildId: () => string | undefined;
  readonly #debugLink: () => DebugLink | undefined;

  private constructor(bytes: ElfBytes, header: ElfHeader, programHeaders: readonly ProgramHeader[]) {
    this.bytes = bytes;
    this.name = bytes.name;
    this.type = header.type;
    this.entry = asAddress(header.entry);
    this.#programHeaders = programHeaders;
    this.segments = programHeaders.filter((h) => h.type === PT_LOAD).map(toSegment);
    this.#sectionTable = lazy(() => readSections(bytes, header));
    this.#dynamic = lazy(() => this.#readDynamic());
    this.#interp = lazy(() => this.#readInterp());
    this.#buildId = lazy(() => this.#readBuildId());
    this.#debugLink = lazy(() => readDebugLink(this));
  }

  /** Reads the headers. Throws ElfError for a file that cannot be probed; `name` is what messages call it. */
  static parse(source: ByteSource, name: string): ElfImage {
    const bytes = new ElfBytes(source, name);
    const header = parseHeader(bytes);
    const programHeaders = parseProgramHeaders(bytes, header);
    if (!programHeaders.some((h) => h.type === PT_LOAD))
      throw new ElfError(
        'elf-not-loadable',
        name,
        `has no loadable segment: no process can map it as a program`,
      );
    return new ElfImage(bytes, header, programHeaders);
  }

  /** The dynamic linker the file asks for; none: static, or a library. */
  get interp(): string | undefined {
    return this.#interp();
  }
  /** Lower-case hexadecimal. */
  get buildId(): string | undefined {
    return this.#buildId();
  }
  get debugLink(): DebugLink | undefined {
    return this.#debugLink();
  }
  /** The dynamic section; static fixed-address programs have none. */
  get dynamic(): Dynamic | undefined {
    return this.#dynamic();
  }
  get soname(): string | undefined {
    return this.dynamic?.soname;
  }
  get needed(): readonly string[] {
    return this.dynamic?.needed ?? [];
  }
  get rpath(): string | undefined {
    return this.dynamic?.rpath;
  }
  get runpath(): string | undefined {
    return this.dynamic?.runpath;
  }
  /** Empty where the file has no section headers or unusable ones (then `sectionProblem` says why). */
  get sections(): readonly ElfSection[] {
    return this.#sectionTable().sections;
  }
  get sectionProblem(): ElfError | undefined {
    return this.#sectionTable().problem;
  }
  /** A position-independent program without a dynamic linker. (ld.so itself and vDSOs lack the PIE flag.) */
  get isStaticPie(): boolean {
    return this.type === 'dyn' && this.interp === undefined && this.#hasPieFlag();
  }
  /** A program that loads no libraries. */
  get isStatic(): boolean {
    return this.interp === undefined && (this.type === 'exec' || this.#hasPieFlag());
  }
  /** Where PT_GNU_EH_FRAME says the index of unwind entries is. */
  get ehFrameHeader(): { readonly address: VirtualAddress; readonly size: number } | undefined {
    const header = this.#programHeaders.find((h) => h.type === PT_GNU_EH_FRAME);
    return header && { address: asAddress(header.vaddr), size: header.filesz };
  }

  /** The first section of that name that has bytes in the file. */
  section(name: string): ElfSection | undefined {
    return this.sections.find((s) => s.name === name && s.type !== SHT_NOBITS);
  }

  /** Where in the file the byte at a link-time address is; undefined for .bss and for what is not mapped. */
  addressToOffset(address: number): FileOffset | undefined {
    // Segments that overlap are mapped one over the other, and the last one stays.
    const segment = this.segments.findLast((s) => address >= s.vaddr && address < s.vaddr + s.filesz);
    return segment && asOffset(address - segment.vaddr + segment.offset);
  }

  /** The link-time address of a byte of the file; where it is mapped twice, the executable one. */
  offsetToAddress(offset: number): VirtualAddress | undefined {
    const segment = this.executableAt(offset) ?? this.segments.find((s) => holds(s, offset));
    return segment && asAddress(offset - segment.offset + segment.vaddr);
  }

  /** The executable segment that a byte of the file belongs to. */
  executableAt(offset: number): Segment | undefined {
    return this.segments.find((s) => s.executable && holds(s, offset));
  }

  /** Whether a link-time address is in the code that comes from the file. */
  isText(address: number): boolean {
    const offset = this.addressToOffset(address);
    return offset !== undefined && this.executableAt(offset) !== undefined;
  }

  /** Bytes by link-time address; all of them must be in the file-backed part of one segment. */
  readAt(address: number, length: number, what: string): Buffer {
    const bytes = this.readUpTo(address, length, what);
    if (bytes.length < length) throw this.bytes.malformed(`its ${what} runs out of its segment`);
    return bytes;
  }

  /** As `readAt`, but fewer bytes where the segment ends. */
  readUpTo(address: number, limit: number, what: string): Buffer {
    const segment = this.segments.findLast((s) => address >= s.vaddr && address < s.vaddr + s.filesz);
    if (!segment) throw this.bytes.malformed(`its ${what} lies outside its segments`);
    const offset = address - segment.vaddr + segment.offset;
    return this.bytes.read(offset, Math.min(limit, segment.offset + segment.filesz - offset), what);
  }

  #hasPieFlag(): boolean {
    return ((this.dynamic?.flags1 ?? 0) & DF_1_PIE) !== 0;
  }

  #readDynamic(): Dynamic | undefined {
    const header = this.#programHeaders.find((h) => h.type === PT_DYNAMIC);
    // A debug file keeps the header but not the bytes.
    if (!header || header.filesz === 0) return undefined;
    return readDynamic(this, header.vaddr, header.filesz);
  }

  #readInterp(): string | undefined {
    const header = this.#programHeaders.find((h) => h.type === PT_INTERP);
    if (!header || header.filesz === 0) return undefined;
    return this.bytes.string(header.offset, Math.min(header.filesz, PATH_MAX), 'interpreter name');
  }

  /** From the segments; in a debug file, whose segments are empty, from the sections. */
  #readBuildId(): string | undefined {
    const notes = [
      ...this.#programHeaders.filter((h) => h.type === PT_NOTE).map((h) => ({ ...h, size: h.filesz })),
      ...this.sections.filter((s) => s.type === SHT_NOTE).map((s) => ({ ...s, align: 4 })),
    ];
    for (const { offset, size, align } of notes) {
      if (offset + size > this.bytes.size) continue;
      const id = buildIdIn(this.bytes.read(offset, Math.min(size, LONGEST_NOTES), 'notes'), align);
      if (id !== undefined) return id;
    }
    return undefined;
  }
}

const holds = (s: Segment, offset: number): boolean => offset >= s.offset && offset < s.offset + s.filesz;

const toSegment = (h: ProgramHeader): Segment => ({
  offset: asOffset(h.offset),
  vaddr: asAddress(h.vaddr),
  filesz: h.filesz,
  memsz: h.memsz,
  readable: (h.flags & PF_R) !== 0,
  writable: (h.flags & PF_W) !== 0,
  executable: (h.flags & PF_X) !== 0,
});

function parseProgramHeaders(bytes: ElfBytes, header: ElfHeader): ProgramHeader[] {
  const table = bytes.read(header.phoff, header.phnum * PHDR_SIZE, 'program headers');
  const headers: ProgramHeader[] = [];
  for (let at = 0; at < table.length; at += PHDR_SIZE) headers.push(parseProgramHeader(bytes, table, at));
  return headers;
}

function parseProgramHeader(bytes: ElfBytes, table: Buffer, at: number): ProgramHeader {
  const header = {
    type: table.readUInt32LE(at),
    flags: table.readUInt32LE(at + 4),
    offset: checked(bytes, u64(table, at + 8), 'segment offset'),
    vaddr: checked(bytes, u64(table, at + 16), 'segment address'),
    filesz: checked(bytes, u64(table, at + 32), 'segment size'),
    memsz: checked(bytes, u64(table, at + 40), 'segment size'),
    align: u64(table, at + 48),
  };
  checked(bytes, header.offset + header.filesz, 'segment end');
  checked(bytes, header.vaddr + Math.max(header.filesz, header.memsz), 'segment end');
  // The kernel refuses to run it (fs/binfmt_elf.c, elf_load).
  if (header.type === PT_LOAD && header.filesz > header.memsz)
    throw bytes.malformed('a segment has more bytes in the file than in memory');
  return header;
}

/** .gnu_debuglink: a name, padding to 4 bytes, a CRC-32 (binutils, bfd/opncls.c). */
function readDebugLink(image: ElfImage): DebugLink | undefined {
  const section = image.section('.gnu_debuglink');
  if (!section || section.size > PATH_MAX) return undefined;
  const bytes = image.bytes.read(section.offset, section.size, '.gnu_debuglink section');
  const end = bytes.indexOf(0);
  const crcAt = Math.ceil((end + 1) / 4) * 4;
  if (end <= 0 || crcAt + 4 > bytes.length) return undefined;
  const name = bytes.toString('utf8', 0, end);
  // A debug link is a file name; anything else would lead out of the directories where debug files live.
  if (name.includes('/') || name === '.' || name === '..') return undefined;
  return { name, crc: bytes.readUInt32LE(crcAt) };
}
