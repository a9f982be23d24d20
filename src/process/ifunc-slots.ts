/**
 * Which functions a running process uses for the ifuncs of one file. A resolver has run when its module was relocated
 * (or, bound lazily, at the first call), and what it has chosen stands in the words that calls go through: in the
 * module's own for references from inside (R_X86_64_IRELATIVE), in every other module's for those by name.
 */
import { UprobeError } from '../base/errors.js';
import { asAddress, type VirtualAddress } from '../base/address.js';
import type { ElfImage } from '../elf/image.js';
import { Relocations, type NamedSlot } from '../elf/relocations.js';
import { u64 } from '../elf/source.js';
import { ProcessMemory } from '../linux/process-memory.js';
import { viewOf } from './file-view.js';
import { parseQuietly } from './library-search.js';
import { loadBiases } from './load-bias.js';
import { isFileText, openMapped } from './mapped-file.js';
import { mappingsOf, readMaps, type FileIdentity, type Mapping } from './maps.js';
import type { OpenedFile } from './opened-file.js';

/** An ifunc, as its file names it. */
export interface IfuncNames {
  /** Link-time address. */
  readonly resolver: VirtualAddress;
  readonly symbols: readonly { readonly name: string; readonly version?: string }[];
}

/** A word, and what the file has there: what it holds until somebody has resolved it. */
interface Slot {
  readonly at: VirtualAddress;
  readonly unresolved: number | undefined;
}

/** What one file says of where names of ours are resolved to. */
interface Referrer {
  readonly image: ElfImage;
  readonly slots: readonly (Slot & NamedSlot)[];
}

/** A process with more mapped files than this is not searched to the end. */
const MOST_FILES = 512;
/** Of one name in one file. The linker makes one, and one for each variable that points there. */
const MOST_SLOTS = 4096;

/** Keeps what it has learnt of files, nothing of processes: made for one question, or for many at one time. */
export class IfuncSlots {
  readonly #file: FileIdentity;
  readonly #image: ElfImage;
  readonly #relocations: Relocations;
  /** All names of ifuncs of the file. */
  readonly #names: ReadonlySet<string>;
  readonly #referrers = new Map<string, Referrer | undefined>();

  constructor(file: FileIdentity, image: ElfImage, names: ReadonlySet<string>) {
    this.#file = file;
    this.#image = image;
    this.#relocations = Relocations.of(image);
    this.#names = names;
  }

  /**
   * Link-time addresses in the file's executable segments that a process calls for an ifunc; none where that cannot be
   * told: it does not map the file, has not resolved the name yet, or may not be looked at. What is in the words comes
   * from the process: whether functions begin there is for the caller to check.
   */
  used(pid: number, ifunc: IfuncNames): VirtualAddress[] {
    return tolerant(() => this.#look(pid, ifunc)) ?? [];
  }

  #look(pid: number, ifunc: IfuncNames): VirtualAddress[] {
    const mappings = readMaps(pid);
    const biases = loadBiases(this.#image, mappingsOf(this.#file, mappings, pid));
    if (biases.length === 0) return [];
    const memory = new ProcessMemory(pid);
    try {
      const own = (tolerant(() => this.#relocations.slotsOfResolver(ifunc.resolver)) ?? []).map((at) =>
        slotOf(this.#image, at),
      );
      const found = this.#chosen(memory, own, biases, biases, ifunc);
      return found.length > 0 ? found : this.#chosenByName(pid, memory, mappings, biases, ifunc);
    } finally {
      memory.close();
    }
  }

  /** The first module that has resolved the name tells: a resolver answers all of them the same. */
  #chosenByName(
    pid: number,
    memory: ProcessMemory,
    mappings: readonly Mapping[],
    biases: readonly number[],
    ifunc: IfuncNames,
  ): VirtualAddress[] {
    const text = mappings.filter(isFileText);
    const files = new Map(text.map((m) => [keyOf(m), m]));
    for (const mapping of [...files.values()].slice(0, MOST_FILES)) {
      const referrer = this.#referrer(pid, mapping);
      const slots = referrer?.slots.filter((s) => meansOneOf(s, ifunc.symbols)) ?? [];
      if (referrer === undefined || slots.length === 0) continue;
      const same = text.filter((m) => keyOf(m) === keyOf(mapping));
      const found = this.#chosen(memory, slots, loadBiases(referrer.image, same), biases, ifunc);
      if (found.length > 0) return found;
    }
    return [];
  }

  #referrer(pid: number, mapping: Mapping): Referrer | undefined {
    const key = keyOf(mapping);
    if (!this.#referrers.has(key)) this.#referrers.set(key, readReferrer(pid, mapping, this.#names));
    return this.#referrers.get(key);
  }

  /** What the words of a module hold, as addresses of our file. `from`: where that module is; `to`: where our file is. */
  #chosen(
    memory: ProcessMemory,
    slots: readonly Slot[],
    from: readonly number[],
    to: readonly number[],
    { resolver }: IfuncNames,
  ): VirtualAddress[] {
    const found = new Set<VirtualAddress>();
    for (const { at, unresolved } of slots.slice(0, MOST_SLOTS))
      for (const bias of from) {
        const value = wordAt(memory, at + bias);
        // As the file has it, or moved with the file: a stub that is to resolve it at the first call (glibc,
        // elf/dl-reloc.c and elf_machine_lazy_rel).
        if (value === undefined || value === unresolved || value - bias === unresolved) continue;
        for (const base of to) {
          const address = asAddress(value - base);
          if (address !== resolver && this.#image.isText(address)) found.add(address);
        }
      }
    return [...found];
  }
}

const keyOf = ({ dev, ino, path }: Mapping): string => `${dev}:${ino}:${path}`;

/** A reference without a version means any, and a symbol without one answers any. */
const meansOneOf = (slot: NamedSlot, symbols: IfuncNames['symbols']): boolean =>
  symbols.some(
    ({ name, version }) =>
      name === slot.name && (version === undefined || slot.version === undefined || version === slot.version),
  );

function wordAt(memory: ProcessMemory, address: number): number | undefined {
  if (!Number.isSafeInteger(address)) return undefined;
  const bytes = memory.read(address, 8);
  const value = bytes && u64(Buffer.from(bytes.buffer, bytes.byteOffset, 8), 0);
  return value === undefined || value > Number.MAX_SAFE_INTEGER ? undefined : value;
}

function slotOf(image: ElfImage, at: VirtualAddress): Slot {
  const isInFile = image.addressToOffset(at) !== undefined;
  const bytes = isInFile ? tolerant(() => image.readAt(at, 8, 'pointer')) : undefined;
  return { at, unresolved: bytes && u64(bytes, 0) };
}

/** Everything that is asked of a module's file is read at once: it is not kept open. */
function readReferrer(pid: number, mapping: Mapping, names: ReadonlySet<string>): Referrer | undefined {
  return tolerant(() => {
    const file = openIn(pid, mapping);
    try {
      const image = file && parseQuietly(file);
      if (image === undefined) return undefined;
      const named = Relocations.of(image).slotsNamed(names);
      return { image, slots: named.map((slot) => ({ ...slot, ...slotOf(image, slot.at) })) };
    } finally {
      file?.close();
    }
  });
}

function openIn(pid: number, mapping: Mapping): OpenedFile | undefined {
  const view = viewOf(pid);
  try {
    return openMapped(pid, mapping, view);
  } finally {
    view.close();
  }
}

/** It is a look that may fail: at a process that ends, at files that are damaged or not ours to read. */
function tolerant<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch (e) {
    if (e instanceof UprobeError) return undefined;
    throw e;
  }
}
