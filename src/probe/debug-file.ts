/** The separate debug file of a stripped program: opened, checked, parsed. */
import { crc32, debugCandidates, isDebugFileFor, type DebugCandidate } from '../elf/debug-link.js';
import { ElfImage } from '../elf/image.js';
import { UprobeError } from '../base/errors.js';
import { ourView } from '../process/file-view.js';
import type { OpenedFile } from '../process/opened-file.js';

/** A debug file is read through once for its checksum. Larger ones without a build-id are passed over. */
const LARGEST_CHECKED = 2 ** 31;
const PIECE = 1 << 20;

/** A debug file's image, and the file it reads from: to be closed by who asked. */
export interface DebugFile {
  readonly image: ElfImage;
  readonly file: OpenedFile;
}

/** The first candidate that proves to belong to `image`. */
export function findDebugFile(image: ElfImage, realPath: string): DebugFile | undefined {
  for (const candidate of debugCandidates(image, realPath)) {
    const file = ourView.open(candidate.path);
    if (file === undefined) continue;
    const debug = provenImage(candidate, file);
    if (debug !== undefined) return { image: debug, file };
    file.close();
  }
  return undefined;
}

/** A debug file that is damaged or another's is none: the program can be probed without it. */
function provenImage(candidate: DebugCandidate, file: OpenedFile): ElfImage | undefined {
  try {
    const debug = ElfImage.parse(file, file.path);
    return isDebugFileFor(candidate, debug, () => checksum(file)) ? debug : undefined;
  } catch (e) {
    if (e instanceof UprobeError) return undefined;
    throw e;
  }
}

function checksum(file: OpenedFile): number {
  if (file.size > LARGEST_CHECKED) return NaN;
  let crc = 0;
  for (let at = 0; at < file.size; at += PIECE)
    crc = crc32(file.read(at, Math.min(PIECE, file.size - at)), crc);
  return crc;
}
