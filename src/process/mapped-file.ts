/** The files behind the mappings of a process. */
import { ourView, type FileView } from './file-view.js';
import type { Mapping } from './maps.js';
import type { OpenedFile } from './opened-file.js';

/** Executable, and of a file: a program or library. */
export const isFileText = (m: Mapping): boolean =>
  m.ino !== 0n && m.perms[2] === 'x' && m.path.startsWith('/');

export const baseName = (path: string): string => path.slice(path.lastIndexOf('/') + 1);

/**
 * By its path, where that still names the mapped file: maps prints paths as its reader sees them (d_path), or, in another
 * mount namespace, as the process does. Else the mapped inode itself (needs CAP_CHECKPOINT_RESTORE). Else a file that has
 * at least its inode number: on btrfs and overlayfs maps and stat name devices differently.
 */
export function openMapped(pid: number, m: Mapping, view: FileView): OpenedFile | undefined {
  const views = m.deleted ? [] : view === ourView ? [view] : [view, ourView];
  const named = views.map((v) => v.open(m.path)).filter((file) => file !== undefined);
  const known = named.find((file) => sameFile(file, m));
  const behind = known ? undefined : ourView.open(`/proc/${pid}/map_files/${rangeOf(m)}`);
  // A path says more than a range of addresses, where both are the same file.
  const alike = named.find((file) => (behind === undefined ? file.ino === m.ino : sameFile(file, behind)));
  const chosen = known ?? alike ?? behind;
  for (const file of [...named, behind]) if (file !== chosen) file?.close();
  return chosen;
}

interface Identity {
  readonly dev: bigint;
  readonly ino: bigint;
}
const sameFile = (a: Identity, b: Identity): boolean => a.dev === b.dev && a.ino === b.ino;
const rangeOf = (m: Mapping): string => `${m.start.toString(16)}-${m.end.toString(16)}`;
