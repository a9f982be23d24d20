/**
 * Where functions begin and end according to the unwind tables, which nearly every program keeps even when it is
 * stripped. LSB Core, chapter 10.6: .eh_frame is a sequence of CIEs (what is common to some functions) and FDEs (one for
 * each range of code); .eh_frame_hdr has a sorted index of the FDEs.
 */
import { asAddress, type VirtualAddress } from '../base/address.js';
import type { ElfImage } from './image.js';
import { Cursor, DW_EH_PE_ABSPTR, DW_EH_PE_OMIT } from './pointers.js';
import { lazy } from '../base/lazy.js';
import { ElfError } from './source.js';

/** A range of code; `end` is the first address after it. */
export interface Extent {
  readonly start: VirtualAddress;
  readonly end: VirtualAddress;
}

/** The index in .eh_frame_hdr, in the one form linkers write: pairs of 32-bit offsets from the header. */
interface Index {
  readonly base: number;
  readonly count: number;
  readonly entries: Buffer;
}

/** Bytes of .eh_frame at an address. */
interface Frames {
  readonly address: number;
  readonly bytes: Buffer;
  /** They end where the section does, not at a terminator. */
  readonly isSection?: boolean;
}

const DW_EH_PE_DATAREL_SDATA4 = 0x3b;
const EXTENDED_LENGTH = 0xffffffff;
/** As much of an entry as can matter: of a CIE all before its instructions, of an FDE its range. */
const ENTRY_HEAD = 256;
const LARGEST_FRAMES = 2 ** 28;
const LONGEST_AUGMENTATION = 32;

export class EhFrame {
  readonly #image: ElfImage;
  readonly #header: () => Header | undefined;
  readonly #extents: () => readonly Extent[];
  /** Pointer encodings of the CIEs met, by address. */
  readonly #encodings = new Map<number, number>();

  private constructor(image: ElfImage) {
    this.#image = image;
    this.#header = lazy(() => tolerant(() => readHeader(image)));
    this.#extents = lazy(() => this.#readAll());
  }

  /** Reads nothing yet. A file without unwind tables has no extents. */
  static of(image: ElfImage): EhFrame {
    return new EhFrame(image);
  }

  /** The range of code that holds an address. Decodes one entry where the file has the usual index. */
  extentAt(address: number): Extent | undefined {
    const index = this.#header()?.index;
    if (!index) return lastAtOrBelow(this.#extents(), address);
    const entry = findEntry(index, address);
    const extent = entry === undefined ? undefined : tolerant(() => this.#extentOf(entry));
    return extent && address >= extent.start && address < extent.end ? extent : undefined;
  }

  /** Every range of code, by address. */
  extents(): readonly Extent[] {
    return this.#extents();
  }

  #extentOf(address: number): Extent | undefined {
    return this.#decode(address, (at) => ({
      address: at,
      bytes: this.#image.readUpTo(at, ENTRY_HEAD, 'unwind table'),
    }));
  }

  #readAll(): Extent[] {
    const frames = readFrames(this.#image, this.#header()?.frames);
    if (!frames) return [];
    const found: Extent[] = [];
    const index = this.#header()?.index;
    for (const address of index ? indexedAddresses(index) : entryAddresses(frames)) {
      const extent = tolerant(() => this.#decode(address, () => frames));
      if (extent) found.push(extent);
    }
    return found.sort((a, b) => a.start - b.start || a.end - b.end);
  }

  /** The range of the FDE at an address; undefined for a CIE and for what cannot be understood. */
  #decode(address: number, framesAt: (address: number) => Frames): Extent | undefined {
    const frames = framesAt(address);
    const cursor = new Cursor(frames.bytes, frames.address, address - frames.address);
    if (cursor.u32() === EXTENDED_LENGTH) cursor.at += 8;
    const idAt = frames.address + cursor.at;
    const back = cursor.u32();
    // Zero marks a CIE; otherwise the distance back to this FDE's CIE.
    if (!(back > 0)) return undefined;
    const encoding = this.#encodingOf(idAt - back, framesAt);
    const start = cursor.pointer(encoding);
    const length = cursor.length(encoding);
    if (!(start >= 0 && length > 0 && start + length <= Number.MAX_SAFE_INTEGER)) return undefined;
    return { start: asAddress(start), end: asAddress(start + length) };
  }

  #encodingOf(cie: number, framesAt: (address: number) => Frames): number {
    const known = this.#encodings.get(cie);
    if (known !== undefined) return known;
    const frames = framesAt(cie);
    const encoding = cieEncoding(new Cursor(frames.bytes, frames.address, cie - frames.address));
    this.#encodings.set(cie, encoding);
    return encoding;
  }
}

/** How the CIE's FDEs encode addresses; `DW_EH_PE_OMIT` when it makes no sense. */
function cieEncoding(cursor: Cursor): number {
  if (cursor.at < 0 || cursor.at >= cursor.bytes.length) return DW_EH_PE_OMIT;
  if (cursor.u32() === EXTENDED_LENGTH) cursor.at += 8;
  if (cursor.u32() !== 0) return DW_EH_PE_OMIT;
  const version = cursor.u8();
  const augmentation = cursor.string(LONGEST_AUGMENTATION);
  if (augmentation === undefined || ![1, 3, 4].includes(version)) return DW_EH_PE_OMIT;
  // Of an old GCC: a pointer to its own exception table.
  if (augmentation.startsWith('eh')) cursor.at += 8;
  // DWARF 4: sizes of an address and of a segment selector.
  if (version === 4) cursor.at += 2;
  cursor.uleb();
  cursor.sleb();
  // The return address's column: a byte in the first version.
  if (version === 1) cursor.at += 1;
  else cursor.uleb();
  return augmentation.startsWith('z') ? augmentedEncoding(cursor, augmentation) : DW_EH_PE_ABSPTR;
}

/** z: the length of what follows; P: personality routine; L: encoding of the LSDA; R: the encoding wanted. */
function augmentedEncoding(cursor: Cursor, augmentation: string): number {
  cursor.uleb();
  for (const letter of augmentation.slice(1)) {
    if (letter === 'R') return cursor.u8() || DW_EH_PE_ABSPTR;
    else if (letter === 'L') cursor.at += 1;
    else if (letter === 'P') cursor.pointer(cursor.u8());
    // S: signal frame; B: pointer authentication; G: memory tagging. None has data.
    else if (!'SBG'.includes(letter)) return DW_EH_PE_OMIT;
  }
  return DW_EH_PE_ABSPTR;
}

interface Header {
  readonly frames: number | undefined;
  readonly index: Index | undefined;
}

/** .eh_frame_hdr: version 1, three encodings, the address of .eh_frame, the index's length, the index. */
function readHeader(image: ElfImage): Header | undefined {
  const where = image.ehFrameHeader;
  if (!where || where.size < 4) return undefined;
  const bytes = image.readAt(where.address, where.size, 'unwind index');
  const [version = 0, framesEncoding = 0, countEncoding = 0, entryEncoding = 0] = bytes;
  if (version !== 1) return undefined;
  const cursor = new Cursor(bytes, where.address, 4);
  const frames = framesEncoding === DW_EH_PE_OMIT ? NaN : cursor.pointer(framesEncoding, where.address);
  const count = countEncoding === DW_EH_PE_OMIT ? NaN : cursor.pointer(countEncoding, where.address);
  const entries = bytes.subarray(cursor.at);
  const usable = entryEncoding === DW_EH_PE_DATAREL_SDATA4 && count > 0 && count * 8 <= entries.length;
  return {
    frames: frames >= 0 ? frames : undefined,
    index: usable ? { base: where.address, count, entries } : undefined,
  };
}

/** The address of the FDE with the greatest start at or below an address. */
function findEntry(index: Index, address: number): number | undefined {
  let low = 0;
  let high = index.count;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (index.base + index.entries.readInt32LE(middle * 8) <= address) low = middle + 1;
    else high = middle;
  }
  return low === 0 ? undefined : index.base + index.entries.readInt32LE((low - 1) * 8 + 4);
}

/** All of .eh_frame: as its section says, else from where the header points to the end of that segment. */
function readFrames(image: ElfImage, start: number | undefined): Frames | undefined {
  const section = image.section('.eh_frame');
  if (section && section.address !== 0 && section.size > 0) {
    const bytes = tolerant(() =>
      image.readAt(section.address, Math.min(section.size, LARGEST_FRAMES), '.eh_frame'),
    );
    if (bytes) return { address: section.address, bytes, isSection: true };
  }
  if (start === undefined) return undefined;
  const bytes = tolerant(() => image.readUpTo(start, LARGEST_FRAMES, '.eh_frame'));
  return bytes && { address: start, bytes };
}

function* indexedAddresses(index: Index): Generator<number> {
  for (let i = 0; i < index.count; i++) yield index.base + index.entries.readInt32LE(i * 8 + 4);
}

/**
 * The entries from first to last; each begins with its length. One of length zero ends them, but a section put together
 * from several may go on behind it.
 */
function* entryAddresses(frames: Frames): Generator<number> {
  const cursor = new Cursor(frames.bytes, frames.address);
  while (cursor.at + 8 <= frames.bytes.length) {
    const entry = cursor.at;
    let length = cursor.u32();
    if (length === 0 && !frames.isSection) return;
    if (length === EXTENDED_LENGTH) length = cursor.u32() + cursor.u32() * 2 ** 32;
    if (length > 0) yield frames.address + entry;
    cursor.at += length;
  }
}

function lastAtOrBelow(extents: readonly Extent[], address: number): Extent | undefined {
  let low = 0;
  let high = extents.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (extents[middle]!.start <= address) low = middle + 1;
    else high = middle;
  }
  const extent = extents[low - 1];
  return extent && address < extent.end ? extent : undefined;
}

/** Unwind tables are a help, not a condition: a damaged one counts as none. */
function tolerant<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (e) {
    if (e instanceof ElfError) return undefined;
    throw e;
  }
}
