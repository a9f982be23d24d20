/**
 * openat2(2): open a path as a process with another root sees it. Below /proc/PID/root an absolute symbolic link leads
 * back into *our* root; RESOLVE_IN_ROOT keeps every step inside the other one.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { syscall } from './ffi.js';
import { mapRegion, type Region } from './memory.js';
import { SyscallError, check } from './syscall-error.js';

const NR_OPENAT2 = 437;
const O_PATH = 0o10000000;
const O_CLOEXEC = 0o2000000;
const RESOLVE_NO_MAGICLINKS = 0x02n;
const RESOLVE_IN_ROOT = 0x10n;
/** struct open_how: flags, mode, resolve, 8 bytes each. */
const OPEN_HOW_SIZE = 24;
const PATH_MAX = 4096;
const ENAMETOOLONG = 36;

/** Both arguments in memory, at addresses that stay: struct open_how at 0, the path behind it. */
let scratch: Region | undefined;

/** A directory that stands for a root, e.g. /proc/PID/root. */
export class RootDirectory {
  readonly #fd: number;
  constructor(path: string) {
    this.#fd = openSync(path, O_PATH | constants.O_DIRECTORY);
  }

  /**
   * Open `path` for reading inside this root: a descriptor. Throws SyscallError.
   * O_NONBLOCK: the open of a FIFO somebody put there must not wait for a writer.
   */
  open(path: string): number {
    const memory = arguments_(path);
    const result = syscall(
      NR_OPENAT2,
      this.#fd,
      memory.address + OPEN_HOW_SIZE,
      memory.address,
      OPEN_HOW_SIZE,
    );
    return check(result, `openat2(${path})`, result === -38 ? 'openat2 needs Linux 5.6' : undefined);
  }

  close(): void {
    closeSync(this.#fd);
  }
}

function arguments_(path: string): Region {
  const name = Buffer.from(`${path}\0`);
  if (name.length > PATH_MAX || name.indexOf(0) !== name.length - 1)
    throw new SyscallError(`openat2(${path.slice(0, 80)}…)`, ENAMETOOLONG);
  const memory = (scratch ??= mapRegion(2 * PATH_MAX));
  const how = new DataView(memory.bytes.buffer);
  how.setBigUint64(0, BigInt(constants.O_RDONLY | constants.O_NONBLOCK | O_CLOEXEC), true);
  how.setBigUint64(8, 0n, true);
  how.setBigUint64(16, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS, true);
  memory.bytes.set(name, OPEN_HOW_SIZE);
  return memory;
}
