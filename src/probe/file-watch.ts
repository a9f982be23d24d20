/** Noticing that somebody changes a probed file's bytes: by a read lease where one can be had, else by watching it. */
import { watch, type FSWatcher } from 'node:fs';
import { takeReadLease, type Lease } from '../linux/lease.js';
import type { FileStamp, OpenedFile } from '../process/opened-file.js';

/** Where not even inotify can be had (its limits are per user), the file is looked at this often. */
const POLL_MS = 1000;

export interface FileWatch {
  /** How changes are noticed; a lease is told before, the others after the change. */
  readonly by: 'lease' | 'inotify' | 'polling';
  /** Stop watching. A lease is given up, and whoever waited for the file goes on. */
  close(): void;
}

/**
 * Call `onLease` when somebody opens the file for writing or truncates it (they wait until the watch is closed), or
 * `onTouched` when something about the file may have changed already.
 */
export function watchFile(file: OpenedFile, onLease: () => void, onTouched: () => void): FileWatch {
  const lease: Lease | string = takeReadLease(file.fd, onLease);
  if (typeof lease !== 'string') return { by: 'lease', close: lease.release };
  return inotify(file, onTouched) ?? polling(onTouched);
}

/** By the descriptor's name, which means this very inode whatever happened to its path. */
function inotify(file: OpenedFile, onTouched: () => void): FileWatch | undefined {
  try {
    const watcher: FSWatcher = watch(`/proc/self/fd/${file.fd}`, { persistent: false }, onTouched);
    watcher.on('error', onTouched);
    return { by: 'inotify', close: () => watcher.close() };
  } catch {
    return undefined;
  }
}

function polling(onTouched: () => void): FileWatch {
  const timer = setInterval(onTouched, POLL_MS).unref();
  return { by: 'polling', close: () => clearInterval(timer) };
}

export type Change = 'none' | 'name-or-mode' | 'bytes';

/** `name-or-mode`: only ctime moved: a rename, a link, a chmod, or bytes written by who set the time back. */
export function changeBetween(before: FileStamp, after: FileStamp): Change {
  if (before.size !== after.size || before.mtimeNs !== after.mtimeNs) return 'bytes';
  return before.ctimeNs === after.ctimeNs ? 'none' : 'name-or-mode';
}
