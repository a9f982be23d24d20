/**
 * A file opened once. Its identity, its ELF image and its symbols all come from this one descriptor, so that no rename
 * or replacement of the path can come between.
 */
import { closeSync, constants, fstatSync, openSync, readSync, type BigIntStats } from 'node:fs';
import { FileError, messageOf } from '../base/errors.js';
import { identityOf } from './maps.js';

/** What changes when somebody writes to a file. */
export interface FileStamp {
  readonly size: bigint;
  readonly mtimeNs: bigint;
  /** Also changes with the name, the owner and the mode. */
  readonly ctimeNs: bigint;
}

export class OpenedFile {
  /** As we could open it again; for messages. */
  readonly path: string;
  /** The same file as seen from the root it was opened in: `/usr/lib/x.so` for `/proc/812/root/usr/lib/x.so`. */
  readonly seenAs: string;
  readonly dev: bigint;
  readonly ino: bigint;
  /** In bytes, when it was opened. */
  readonly size: number;
  readonly openedAs: FileStamp;
  #fd: number;

  /** Takes `fd` over, also when it throws. */
  constructor(fd: number, path: string, seenAs = path) {
    this.#fd = fd;
    this.path = path;
    this.seenAs = seenAs;
    try {
      const stat = fstatSync(fd, { bigint: true });
      if (!stat.isFile()) throw notRegular(path, stat);
      const { dev, ino } = identityOf(stat);
      this.dev = dev;
      this.ino = ino;
      this.size = Number(stat.size);
      this.openedAs = stampOf(stat);
    } catch (e) {
      closeSync(fd);
      throw e;
    }
  }

  /** Throws FileError. O_NONBLOCK: opening a FIFO must not wait for a writer. */
  static open(path: string): OpenedFile {
    let fd: number;
    try {
      fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    } catch (e) {
      throw cannotOpen(path, e);
    }
    return new OpenedFile(fd, path);
  }

  /** The descriptor, for what works on descriptors (leases, watches). It closes with this object. */
  get fd(): number {
    return this.#fd;
  }

  /** Exactly `length` bytes at `offset`. */
  read(offset: number, length: number): Uint8Array {
    const bytes = Buffer.allocUnsafeSlow(length);
    for (let done = 0; done < length;) {
      const n = this.#readSome(bytes, done, offset + done);
      if (n === 0)
        throw new FileError(
          'file-truncated',
          `${this.path} ended at byte ${offset + done} while it was being read: it was cut short meanwhile; try again`,
        );
      done += n;
    }
    return bytes;
  }

  #readSome(bytes: Uint8Array, from: number, position: number): number {
    try {
      return readSync(this.#fd, bytes, from, bytes.length - from, position);
    } catch (e) {
      throw new FileError('file-unreadable', `${this.path} cannot be read: ${messageOf(e)}`, { cause: e });
    }
  }

  stamp(): FileStamp {
    return stampOf(fstatSync(this.#fd, { bigint: true }));
  }

  close(): void {
    if (this.#fd < 0) return;
    closeSync(this.#fd);
    this.#fd = -1;
  }
}

const stampOf = ({ size, mtimeNs, ctimeNs }: BigIntStats): FileStamp => ({ size, mtimeNs, ctimeNs });

function notRegular(path: string, stat: BigIntStats): FileError {
  const kind = stat.isDirectory() ? 'a directory' : stat.isFIFO() ? 'a pipe' : 'not a regular file';
  return new FileError(
    'not-a-regular-file',
    `${path} is ${kind}: give the path of a program or shared library`,
  );
}

function cannotOpen(path: string, e: unknown): FileError {
  switch ((e as NodeJS.ErrnoException).code) {
    case 'ENOENT':
      return new FileError('no-such-file', `${path} does not exist`, { cause: e });
    case 'ENOTDIR':
      return new FileError('no-such-file', `${path} does not exist: a part of the path is not a directory`, {
        cause: e,
      });
    case 'EACCES':
    case 'EPERM':
      return new FileError(
        'file-not-permitted',
        `${path} may not be read by this user: run as its owner, or give it read permission`,
        { cause: e },
      );
    case 'ENXIO':
      return new FileError('not-a-regular-file', `${path} is a pipe or socket, not a program or library`, {
        cause: e,
      });
    default:
      return new FileError('file-unreadable', `${path} cannot be opened: ${messageOf(e)}`, { cause: e });
  }
}
