/** Files as one process sees them: in our own mount namespace and root, or in the process's. */
import { readlinkSync, statSync } from 'node:fs';
import { FileError, ProcessError } from '../base/errors.js';
import { RootDirectory } from '../linux/openat2.js';
import { SyscallError } from '../linux/syscall-error.js';
import { OpenedFile } from './opened-file.js';

export interface FileView {
  /** The file at an absolute path, or undefined where there is none that could be read. */
  open(path: string): OpenedFile | undefined;
  close(): void;
}

/** Our own files. */
export const ourView: FileView = {
  open(path) {
    try {
      return OpenedFile.open(path);
    } catch (e) {
      if (e instanceof FileError) return undefined;
      throw e;
    }
  },
  close() {},
};

/** The files of a process: ours when it has our root. Close it after use. */
export const viewOf = (pid: number): FileView => (hasOurRoot(pid) ? ourView : new RootedView(pid));

/** Who may ask for a process's namespace may look at its root, too (proc(5)): it can only have ended meanwhile. */
function rootOf(pid: number): RootDirectory {
  try {
    return new RootDirectory(`/proc/${pid}/root`);
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code !== 'ENOENT') throw e;
    throw new ProcessError('no-such-process', pid, `process ${pid} has just ended`, { cause: e });
  }
}

class RootedView implements FileView {
  readonly #pid: number;
  readonly #root: RootDirectory;
  constructor(pid: number) {
    this.#pid = pid;
    this.#root = rootOf(pid);
  }

  open(path: string): OpenedFile | undefined {
    try {
      return new OpenedFile(this.#root.open(path), `/proc/${this.#pid}/root${path}`, path);
    } catch (e) {
      if (e instanceof FileError || (e instanceof SyscallError && e.code !== 'ENOSYS')) return undefined;
      throw e;
    }
  }

  close(): void {
    this.#root.close();
  }
}

/** Where the namespace may not be asked (another user's process), it is taken to be ours: nothing else could be opened. */
function hasOurRoot(pid: number): boolean {
  try {
    if (readlinkSync(`/proc/${pid}/ns/mnt`) !== readlinkSync('/proc/self/ns/mnt')) return false;
    const theirs = statSync(`/proc/${pid}/root/`, { bigint: true });
    const ours = statSync('/', { bigint: true });
    return theirs.dev === ours.dev && theirs.ino === ours.ino;
  } catch {
    return true;
  }
}
