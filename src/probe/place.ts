/** A place as a person gives it becomes a file offset at which an instruction starts, or a PlaceError. */
import { asAddress, asOffset, hex, type FileOffset, type VirtualAddress } from '../base/address.js';
import { PlaceError } from '../base/errors.js';
import { listed, type Phrase } from '../base/words.js';
import type { Instruction } from '../arch/arch.js';
import type { ProcessSet } from '../engines/engine.js';
import type { Extent } from '../elf/eh-frame.js';
import type { ElfSymbol } from '../elf/symbols.js';
import { mappingsOf, readMaps } from '../process/maps.js';
import { displayName, mainName, type Boundaries, type CodeFile } from './code-file.js';
import { Ifuncs } from './ifunc.js';
import {
  offsetIntoSeveral,
  ownName,
  severalImplementations,
  unknownImplementations,
} from './ifunc-errors.js';
import type { Place } from './types.js';

export interface ResolvedPlace {
  readonly offset: FileOffset;
  /** Link-time address. */
  readonly address: VirtualAddress;
  readonly instruction: Instruction;
  /** A function begins there. */
  readonly atEntry: boolean;
  /** Behind an instruction that only marks a place to jump to: the one that follows. */
  readonly next?: Instruction;
  /** The function it is in, as the user named it or as it is best known; undefined where no symbol covers it. */
  readonly symbol: string | undefined;
  /** Bytes from that symbol. */
  readonly symbolOffset: number;
  /** The processes in which it is what was meant. */
  readonly processes: ProcessSet;
  /** The symbol is an ifunc's, and this one of so many functions that it stands for. */
  readonly ifunc?: IfuncChoice;
}

export interface IfuncChoice {
  /** The function's own name, where it has one. */
  readonly name?: string;
  /** How many there are: one where all processes are known to use it. */
  readonly count: number;
}

/** What a place is asked about. */
export interface PlaceQuestion {
  readonly trustPlace: boolean;
  /** It must be a function's first instruction. */
  readonly atEntry?: boolean;
  /** Whose implementations an ifunc means. */
  readonly processes: ProcessSet;
  /** The ifuncs of the file, where several questions come together. */
  readonly ifuncs?: Ifuncs;
}

/** An address, and what is known of it before anything was decoded. */
interface Spot {
  readonly processes?: ProcessSet;
  readonly ifunc?: IfuncChoice;
  readonly address: VirtualAddress;
  readonly symbol?: string;
  readonly symbolOffset?: number;
  /** A symbol says that an instruction starts here: where to decode from. */
  readonly label?: VirtualAddress;
  /** The extent of that symbol, where it gives its size. */
  readonly extent?: Extent;
}

const MOST_LISTED = 8;

/**
 * The places that a place means: one, but for an ifunc, which may stand for several functions. Throws PlaceError.
 * `trustPlace`: take the user's word that an instruction starts there where nothing can prove it.
 */
export function resolvePlaces(code: CodeFile, place: Place, question: PlaceQuestion): ResolvedPlace[] {
  return locate(code, place, question).map((spot) => resolveSpot(code, spot, question));
}

/** The same for who can take only one: several are an error. */
export function resolvePlace(code: CodeFile, place: Place, question: PlaceQuestion): ResolvedPlace {
  const [found, ...others] = resolvePlaces(code, place, question);
  if (others.length > 0) throw severalImplementations(code, [found!, ...others]);
  return found!;
}

function resolveSpot(code: CodeFile, spot: Spot, question: PlaceQuestion): ResolvedPlace {
  const { trustPlace, processes } = question;
  const offset = requireText(code, spot.address);
  if (!startsByName(spot)) requireStart(code, spot, trustPlace);
  if (question.atEntry === true) {
    requireCalled(code, spot);
    if (!trustPlace) requireEntry(code, spot);
  }
  const instruction = code.instructionAt(spot.address);
  if (instruction === undefined) throw notAnInstruction(code, spot.address);
  const { address, ifunc } = spot;
  const next = code.arch.isLandingPad(instruction) ? code.instructionBehind(instruction) : undefined;
  const found = {
    offset,
    address,
    instruction,
    // A symbol with a size tells that without a look at all the others.
    atEntry: spot.extent?.start === address || code.isFunctionStart(address),
    ...(next && { next }),
    processes: spot.processes ?? processes,
    ...nameOf(code, spot),
  };
  return ifunc === undefined ? found : { ...found, ifunc };
}

/**
 * Where a program begins, its stack has the number of its arguments on top and no address to return to (psABI 3.4.1): whoever put
 * another address there would change that number. Libraries may have any address there.
 */
function requireCalled(code: CodeFile, spot: Spot): void {
  const { image } = code;
  const isProgram = image.interp !== undefined || image.isStatic || nameOf(code, spot).symbol === '_start';
  if (!isProgram || image.entry !== spot.address) return;
  throw placeError(
    'never-returns',
    code,
    `the program begins at ${hex(spot.address)}: nobody has called what is there, and it does not return`,
  );
}

/** Where it will return to is on top of the stack at a function's first instruction only. */
function requireEntry(code: CodeFile, spot: Spot): void {
  if (startsByName(spot) || code.isFunctionStart(spot.address)) return;
  const { symbol, symbolOffset } = nameOf(code, spot);
  throw placeError('not-a-function-entry', code, (words) =>
    symbol === undefined
      ? `whether a function begins at ${hex(spot.address)} is not known, and only at its first instruction a function ` +
        `shows where it will return to. If you are sure, ${words.trustPlace}`
      : `${symbol}+${hex(symbolOffset)} is inside ${symbol}: the return of a function is probed at its first instruction ` +
        `(${symbol})`,
  );
}

const startsByName = (spot: Spot): boolean => spot.label === spot.address;

function nameOf(code: CodeFile, spot: Spot): { symbol: string | undefined; symbolOffset: number } {
  if (spot.symbol !== undefined) return { symbol: spot.symbol, symbolOffset: spot.symbolOffset ?? 0 };
  const covering = code.functionAt(spot.address);
  if (covering === undefined) return { symbol: undefined, symbolOffset: 0 };
  return { symbol: mainName(covering), symbolOffset: spot.address - covering.address };
}

function locate(code: CodeFile, place: Place, question: PlaceQuestion): Spot[] {
  if ('symbol' in place) return locateSymbol(code, place.symbol, place.symbolOffset ?? 0, question);
  if ('liveAddr' in place) return [{ address: addressOf(code, liveOffset(code, place.pid, place.liveAddr)) }];
  if ('offset' in place) return [locateOffset(code, place.offset, place.addr)];
  return [{ address: linkAddress(code, place.addr) }];
}

// Offsets and addresses

function locateOffset(code: CodeFile, offset: number, addr: bigint | undefined): Spot {
  if (addr === undefined) return { address: addressOf(code, offset) };
  const address = linkAddress(code, addr);
  const meant = code.image.addressToOffset(address);
  if (meant !== offset)
    throw placeError(
      'offset-and-address-differ',
      code,
      `offset ${hex(offset)} and address ${hex(addr)} are different places: that address is at offset ` +
        `${hex(meant ?? 0)}. Give one of them`,
    );
  return { address };
}

function addressOf(code: CodeFile, offset: number): VirtualAddress {
  const address = code.image.offsetToAddress(offset);
  if (address !== undefined) return address;
  const beyond =
    offset >= code.file.size ? `the file has only ${hex(code.file.size)} bytes` : 'no segment loads it';
  throw placeError(
    'offset-not-mapped',
    code,
    `offset ${hex(offset)} is never in memory: ${beyond}. ${textRanges(code)}`,
  );
}

function linkAddress(code: CodeFile, addr: bigint): VirtualAddress {
  const address = asAddress(Number(addr));
  if (addr <= BigInt(Number.MAX_SAFE_INTEGER) && code.image.addressToOffset(address) !== undefined)
    return address;
  const inMemoryOnly = code.image.segments.some((s) => address >= s.vaddr && address < s.vaddr + s.memsz);
  throw placeError(
    'address-not-in-file',
    code,
    inMemoryOnly
      ? `address ${hex(addr)} is zero-filled data (.bss), not code`
      : (words) => `address ${hex(addr)} is not in this file. ${words.addressForms}. ${textRanges(code)}`,
  );
}

function liveOffset(code: CodeFile, pid: number, liveAddr: bigint): number {
  const mappings = readMaps(pid);
  const at = Number(liveAddr);
  const mapping = mappings.find((m) => at >= m.start && at < m.end);
  if (mapping === undefined)
    throw placeError(
      'live-address-unmapped',
      code,
      `nothing is mapped at ${hex(liveAddr)} in process ${pid}`,
    );
  if (mappingsOf(code.file, [mapping], pid).length === 0)
    throw placeError(
      'live-address-elsewhere',
      code,
      `${hex(liveAddr)} in process ${pid} is not in this file but in ${mapping.path || 'anonymous memory'}. ` +
        'Give that as the pathname where it is a file',
    );
  return at - mapping.start + mapping.offset;
}

function requireText(code: CodeFile, address: VirtualAddress): FileOffset {
  const offset = code.image.addressToOffset(address);
  const segment = offset === undefined ? undefined : code.image.executableAt(offset);
  if (offset !== undefined && segment !== undefined) return asOffset(offset);
  throw placeError(
    'not-executable',
    code,
    `address ${hex(address)}${offset === undefined ? '' : ` (offset ${hex(offset)})`} is data, not code. ${textRanges(code)}`,
  );
}

function textRanges(code: CodeFile): string {
  const ranges = code.image.segments
    .filter((s) => s.executable)
    .slice(0, MOST_LISTED)
    .map((s) => `addresses ${hex(s.vaddr)}–${hex(s.vaddr + s.filesz)} (offsets from ${hex(s.offset)})`);
  return ranges.length === 0 ? 'It has no code at all' : `Its code is at ${ranges.join(', ')}`;
}

// Symbols

function locateSymbol(code: CodeFile, name: string, symbolOffset: number, question: PlaceQuestion): Spot[] {
  const symbol = chooseSymbol(code, name);
  if (symbol.kind === 'ifunc') return locateIfunc(code, name, symbolOffset, symbol, question);
  return [spotIn(code, name, symbolOffset, symbol)];
}

/** A place in a function that begins at an address and has a size, or 0 where nothing says. */
function spotIn(
  code: CodeFile,
  name: string,
  symbolOffset: number,
  fn: { readonly address: VirtualAddress; readonly size: number },
): Spot {
  const address = asAddress(fn.address + symbolOffset);
  if (fn.size > 0 && symbolOffset >= fn.size)
    throw placeError(
      'outside-symbol',
      code,
      (words) =>
        `${name}+${hex(symbolOffset)} is outside ${name}, which is ${hex(fn.size)} bytes long. ` +
        `Give ${words.place(code.path, address)} where you mean that place all the same`,
    );
  const extent = fn.size > 0 ? { start: fn.address, end: asAddress(fn.address + fn.size) } : undefined;
  return { address, symbol: name, symbolOffset, label: fn.address, ...(extent && { extent }) };
}

function chooseSymbol(code: CodeFile, name: string): ElfSymbol {
  const found = code.lookup(name);
  if (found.length === 0) throw symbolNotFound(code, name);
  const inCode = found.filter((s) => isCode(code, s));
  if (inCode.length === 0) throw notCode(code, name, found[0]!);
  const exported = inCode.filter((s) => s.binding !== 'local');
  const [chosen, ...others] = exported.length === 1 ? exported : inCode;
  if (others.length > 0) throw ambiguous(code, name, inCode);
  return chosen!;
}

function isCode(code: CodeFile, symbol: ElfSymbol): boolean {
  return symbol.kind !== 'object' && symbol.kind !== 'other' && code.image.isText(symbol.address);
}

function symbolNotFound(code: CodeFile, name: string): PlaceError {
  const near = code.symbols.similar(name, 5);
  const hint = near.length === 0 ? '' : ` Did you mean ${near.join(', ')}?`;
  const stripped = code.symbols.hasLocals
    ? ''
    : ' It has no symbols of its local functions: install its debug symbols, or give an offset or address.';
  return placeError('symbol-not-found', code, `it has no symbol ${JSON.stringify(name)}.${hint}${stripped}`);
}

function notCode(code: CodeFile, name: string, symbol: ElfSymbol): PlaceError {
  const what = symbol.kind === 'object' ? 'a variable' : 'not in its code';
  return placeError(
    'not-executable',
    code,
    `${name} is ${what} (at ${hex(symbol.address)}): only code can be probed`,
  );
}

function ambiguous(code: CodeFile, name: string, symbols: readonly ElfSymbol[]): PlaceError {
  const places = symbols.map((s) => `${displayName(s)} at ${hex(s.address)} (${s.binding})`);
  return placeError(
    'ambiguous-symbol',
    code,
    (words) =>
      `${name} means ${symbols.length} places: ${listed(places, Math.min(words.most, MOST_LISTED))}. ` +
      `Choose one by its version or by address: ${words.place(code.path, symbols[0]!.address)}`,
  );
}

// Ifuncs

function locateIfunc(
  code: CodeFile,
  name: string,
  symbolOffset: number,
  symbol: ElfSymbol,
  { processes, ifuncs = new Ifuncs(code) }: PlaceQuestion,
): Spot[] {
  const found = ifuncs.implementations(symbol, processes);
  if (found.length === 0) throw unknownImplementations(code, name, symbol.address);
  if (found.length > 1 && symbolOffset > 0) throw offsetIntoSeveral(code, name, symbolOffset, found);
  return found.map(({ address, processes: users }) => {
    const extent = code.extentAt(address);
    const size = extent?.start === address ? extent.end - address : 0;
    const own = ownName(code, address);
    const ifunc = { ...(own !== undefined && { name: own }), count: found.length };
    return { ...spotIn(code, name, symbolOffset, { address, size }), processes: users, ifunc };
  });
}

// Instructions

/** An instruction must start there, seen by decoding from where one surely does. */
function requireStart(code: CodeFile, spot: Spot, trustPlace: boolean): void {
  const extent = spot.extent ?? code.extentAt(spot.address) ?? unsizedLabel(code, spot);
  if (extent === undefined) {
    if (trustPlace) return;
    throw unknownStart(code, spot.address, 'no symbol and no unwind entry covers it');
  }
  if (extent.start === spot.address) return;
  const at = spot.address - extent.start;
  const boundaries = code.boundaries(extent, at);
  const index = lastAtOrBelow(boundaries.starts, at);
  if (boundaries.starts[index] === at) return;
  if (at >= boundaries.end) {
    if (trustPlace) return;
    throw unknownStart(
      code,
      spot.address,
      `its function cannot be decoded beyond ${hex(extent.start + boundaries.end)} (data between instructions?)`,
    );
  }
  throw middle(code, spot.address, boundaries, index);
}

/** A label of hand-written code that neither a function nor an unwind entry covers. */
function unsizedLabel(code: CodeFile, spot: Spot): Extent | undefined {
  if (spot.label === undefined) return undefined;
  const extent = code.unsizedExtent(spot.label);
  return spot.address < extent.end ? extent : undefined;
}

/** Index of the greatest start not above `at`; -1 when there is none. */
function lastAtOrBelow(starts: Uint32Array, at: number): number {
  let low = 0;
  let high = starts.length;
  while (low < high) {
    const mid = (low + high) >>> 1;
    if (starts[mid]! <= at) low = mid + 1;
    else high = mid;
  }
  return low - 1;
}

function middle(code: CodeFile, address: VirtualAddress, boundaries: Boundaries, index: number): PlaceError {
  const { extent, starts } = boundaries;
  const neighbours = [starts[index], starts[index + 1]]
    .filter((s) => s !== undefined)
    .map((s) => describeInstruction(code, asAddress(extent.start + s)));
  return placeError(
    'middle-of-instruction',
    code,
    `${hex(address)} is in the middle of an instruction; a probe there would corrupt the program. ` +
      `The nearest instructions are ${neighbours.join(' and ')}`,
  );
}

function describeInstruction(code: CodeFile, address: VirtualAddress): string {
  const instruction = code.instructionAt(address);
  const covering = code.functionAt(address);
  const name = covering === undefined ? '' : `${mainName(covering)}+${hex(address - covering.address)}: `;
  const offset = code.image.addressToOffset(address);
  return `${hex(address)} (offset ${hex(offset ?? 0)}, ${name}${instruction ? code.arch.format(instruction) : '?'})`;
}

const unknownStart = (code: CodeFile, address: VirtualAddress, why: string): PlaceError =>
  placeError(
    'unknown-instruction-start',
    code,
    (words) =>
      `whether an instruction starts at ${hex(address)} cannot be verified: ${why}. ` +
      `If you are sure (a disassembler shows one there), ${words.trustPlace}`,
  );

function notAnInstruction(code: CodeFile, address: VirtualAddress): PlaceError {
  const bytes = Buffer.from(code.bytesAt(address, 8))
    .toString('hex')
    .replace(/..(?=.)/g, '$& ');
  return placeError(
    'not-an-instruction',
    code,
    `the bytes at ${hex(address)} (${bytes}) are no x86-64 instruction`,
  );
}

function placeError(code: string, file: CodeFile, message: string | Phrase): PlaceError {
  const { path } = file;
  if (typeof message === 'string') return new PlaceError(code, `${path}: ${message}`);
  return new PlaceError(code, (words) => `${path}: ${message(words)}`);
}
