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
  const chosen =
    named.find((file) => file.ino === m.ino && file.dev === m.dev) ??
    ourView.open(`/proc/${pid}/map_files/${m.start.toString(16)}-${m.end.toString(16)}`) ??
    named.find((file) => file.ino === m.ino);
  for (const file of named) if (file !== chosen) file.close();
  return chosen;
}
