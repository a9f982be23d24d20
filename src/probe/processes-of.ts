/** Who could be hit: the processes that map a file. */
import { resolveLibrary } from '../process/linker.js';
import { mappersOf } from '../process/mappers.js';
import type { Mappers } from '../process/mappers.js';
import { checkPathname } from './spec.js';

/** What `processesOf` finds. */
export interface FileProcesses extends Mappers {
  /** The file that was meant. */
  readonly path: string;
}

/**
 * The processes that map a file now, in whatever container and under whatever path: the file is known by its device and inode. A
 * name without a slash is a library's or a program's, as for `registerUprobe`. Touches no process; reads /proc. Throws FileError.
 */
export function processesOf(pathname: string): FileProcesses {
  const file = resolveLibrary(checkPathname(pathname), { env: process.env });
  try {
    return { path: file.path, ...mappersOf(file) };
  } finally {
    file.close();
  }
}
