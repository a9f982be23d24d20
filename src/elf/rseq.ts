/**
 * Restartable sequences: pieces of code that the kernel moves a thread out of, to an abort handler, when it was preempted
 * or stopped inside. Their descriptors are in the section `__rseq_cs` (linux/rseq.h, struct rseq_cs, 32 bytes: version and
 * flags; address of the start; length up to the commit; address of the abort handler).
 */
import type { ElfImage } from './image.js';
import { Relocations } from './relocations.js';
import { ElfError, u64 } from './source.js';

export interface CriticalSection {
  /** Link-time address of its first instruction. */
  readonly start: number;
  readonly length: number;
}

const DESCRIPTOR_SIZE = 32;
const START = 8;
const LENGTH = 16;
/** A program has a few dozen; what a file claims beyond is not looked at. */
const MOST_DESCRIPTORS = 1024;

/** None for a file without the section, or with a damaged one. */
export function criticalSections(image: ElfImage): CriticalSection[] {
  try {
    const relocations = Relocations.of(image);
    return image.sections
      .filter(({ name }) => name === '__rseq_cs')
      .flatMap(({ address, size }) => readDescriptors(image, relocations, address, size));
  } catch (e) {
    if (e instanceof ElfError) return [];
    throw e;
  }
}

function readDescriptors(
  image: ElfImage,
  relocations: Relocations,
  address: number,
  size: number,
): CriticalSection[] {
  const count = Math.min(Math.floor(size / DESCRIPTOR_SIZE), MOST_DESCRIPTORS);
  const table = image.readAt(address, count * DESCRIPTOR_SIZE, 'rseq descriptors');
  const found: CriticalSection[] = [];
  for (let at = 0; at < table.length; at += DESCRIPTOR_SIZE) {
    const start = relocations.targetOf(address + at + START);
    if (start !== undefined) found.push({ start, length: u64(table, at + LENGTH) });
  }
  return found;
}
