/** The memory of another process, through /proc/PID/mem (proc(5)): needs the right to ptrace it. */
import { closeSync, existsSync, openSync, readSync, writeSync } from 'node:fs';
import { ERRNO } from './numbers.js';
import { SyscallError } from './syscall-error.js';

/** What to do where nothing can be known of any process. */
export const MOUNT_PROC = 'As root: mount -t proc proc /proc';

/** fs/exec.c, would_dump(): a program that may not be read gets a memory that may not be looked at. */
const NOT_DUMPABLE =
  'This user may execute its program but not read it (or it has made itself undumpable): the kernel shows the memory of ' +
  'such a process to nobody without privilege. Run as the owner of the program, or with CAP_SYS_PTRACE';

export class ProcessMemory {
  readonly fd: number;
  #closed = false;
  constructor(pid: number) {
    try {
      this.fd = openSync(`/proc/${pid}/mem`, 'r+');
    } catch (e) {
      const errno = -((e as { errno?: number }).errno ?? 0);
      throw new SyscallError(`open(/proc/${pid}/mem)`, errno, openHint(errno));
    }
  }

  /** Bytes at an address; undefined when not all of them are readable. */
  read(address: number, length: number): Uint8Array | undefined {
    return this.#closed ? undefined : readMemory(this.fd, address, length);
  }

  /** Write, also to text that is mapped read-only (the page becomes private to the process). False when it cannot. */
  write(address: number, bytes: Uint8Array): boolean {
    return !this.#closed && writeMemory(this.fd, address, bytes);
  }

  /** Idempotent. */
  close(): void {
    if (!this.#closed) closeSync(this.fd);
    this.#closed = true;
  }
}

/** Opened by who traces the process already: what else could be in the way has been told at attaching. */
function openHint(errno: number): string | undefined {
  if (errno === ERRNO.EACCES) return NOT_DUMPABLE;
  return existsSync('/proc/self') ? undefined : `/proc is not mounted. ${MOUNT_PROC}`;
}

export function readMemory(fd: number, address: number, length: number): Uint8Array | undefined {
  const bytes = Buffer.allocUnsafe(length);
  try {
    for (let done = 0; done < length;) {
      const n = readSync(fd, bytes, done, length - done, address + done);
      if (n === 0) return undefined;
      done += n;
    }
    return bytes;
  } catch {
    return undefined; // EIO: not mapped; ESRCH or 0 bytes: the address space is gone
  }
}

export function writeMemory(fd: number, address: number, bytes: Uint8Array): boolean {
  try {
    for (let done = 0; done < bytes.length;) {
      const n = writeSync(fd, bytes, done, bytes.length - done, address + done);
      if (n === 0) return false;
      done += n;
    }
    return true;
  } catch {
    return false;
  }
}
