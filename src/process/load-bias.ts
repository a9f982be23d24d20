/** How far the link-time addresses of a file were moved in a process. */
import type { ElfImage } from '../elf/image.js';
import type { Mapping } from './maps.js';

const PAGE_SIZE = 4096;
/** dlmopen(3) loads a library once more for each of its namespaces, of which glibc has 16. */
const MOST_COPIES = 64;

/** What to add to a link-time address, for each time the file is loaded. `mappings`: those of this file. */
export function loadBiases(image: ElfImage, mappings: readonly Mapping[]): number[] {
  const found = new Set<number>();
  for (const m of mappings) {
    if (m.perms[2] !== 'x' || found.size === MOST_COPIES) continue;
    // A segment is mapped from the start of the page that it begins in; mprotect(2) may have cut it into pieces.
    const segment = image.segments.find(
      (s) => s.executable && m.offset + PAGE_SIZE > s.offset && m.offset < s.offset + s.filesz,
    );
    const bias = segment === undefined ? NaN : m.start - (m.offset - segment.offset + segment.vaddr);
    if (image.type === 'exec' ? bias === 0 : bias >= 0 && bias % PAGE_SIZE === 0) found.add(bias);
  }
  return [...found];
}
