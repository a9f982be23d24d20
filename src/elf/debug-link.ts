/**
 * Where a separate debug file may be, and whether a file found there is the right one. The rules are gdb's ("Debugging
 * Information in Separate Files"); opening and reading is the caller's.
 */
import { posix } from 'node:path';
import type { DebugLink, ElfImage } from './image.js';
import { lazy } from '../base/lazy.js';

/** A path to try, and what proves that the file there belongs to the program. */
export interface DebugCandidate {
  readonly path: string;
  readonly proof:
    { readonly kind: 'build-id'; readonly buildId: string } | { readonly kind: 'crc'; readonly crc: number };
}

/** What of a program matters here. */
export interface DebugReferences {
  readonly buildId?: string | undefined;
  readonly debugLink?: DebugLink | undefined;
}

/**
 * The paths to try, in order: by build-id first, which cannot be mistaken. `realPath`: the program's own absolute path,
 * without symbolic links. `roots`: gdb's debug-file-directory.
 */
export function debugCandidates(
  image: DebugReferences,
  realPath: string,
  roots: readonly string[] = ['/usr/lib/debug'],
): DebugCandidate[] {
  const candidates: DebugCandidate[] = [];
  const { buildId, debugLink } = image;
  if (buildId !== undefined) {
    const file = `${buildId.slice(0, 2)}/${buildId.slice(2)}.debug`;
    for (const root of roots)
      candidates.push({ path: posix.join(root, '.build-id', file), proof: { kind: 'build-id', buildId } });
  }
  if (debugLink) {
    const directory = posix.dirname(realPath);
    const directories = [
      directory,
      posix.join(directory, '.debug'),
      ...roots.map((root) => posix.join(root, directory)),
    ];
    for (const d of directories) {
      const path = posix.join(d, debugLink.name);
      // A file that links to its own name would be its own debug file.
      if (path !== realPath) candidates.push({ path, proof: { kind: 'crc', crc: debugLink.crc } });
    }
  }
  return candidates;
}

/**
 * Whether a candidate, opened as `debug`, proves right. `crcOf` computes the file's CRC-32 (`crc32`); it is called
 * only where the proof is a CRC, for it must read the whole file.
 */
export function isDebugFileFor(candidate: DebugCandidate, debug: ElfImage, crcOf: () => number): boolean {
  const { proof } = candidate;
  return proof.kind === 'build-id' ? debug.buildId === proof.buildId : crcOf() === proof.crc;
}

/** The remainder each byte leaves: CRC-32 with the reversed polynomial of IEEE 802.3. */
const crcTable = lazy(() =>
  Uint32Array.from({ length: 256 }, (_, byte) => {
    let rest = byte;
    for (let bit = 0; bit < 8; bit++) rest = (rest >>> 1) ^ ((rest & 1) === 0 ? 0 : 0xedb88320);
    return rest;
  }),
);

/**
 * The CRC-32 of .gnu_debuglink, piece by piece: pass the result for the bytes before. (zlib is faster, but takes
 * milliseconds to load in every run, and nearly every debug file is found by its build-id.)
 */
export function crc32(bytes: Uint8Array, before = 0): number {
  const table = crcTable();
  let crc = ~before;
  for (let i = 0; i < bytes.length; i++) crc = (crc >>> 8) ^ table[(crc ^ bytes[i]!) & 0xff]!;
  return ~crc >>> 0;
}
