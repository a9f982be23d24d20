import { syscall, syscallWithMemory } from './ffi.js';
import { MAP, NR, PROT } from './numbers.js';
import { check } from './syscall-error.js';

const MFD_CLOEXEC = 1;

/** A file in memory that another process can be given (memfd_create(2)): its descriptor, closed on exec. */
export function memoryFile(name: string, length: number): number {
  const fd = check(
    syscallWithMemory(NR.memfdCreate, 0, [Buffer.from(`${name}\0`), MFD_CLOEXEC]),
    'memfd_create',
  );
  check(syscall(NR.ftruncate, fd, length), `ftruncate(${fd})`);
  return fd;
}

/** Its bytes, shared with all who map it. */
export const mapFile = (fd: number, length: number): number =>
  check(syscall(NR.mmap, 0, length, PROT.read | PROT.write, MAP.shared, fd, 0), `mmap(${fd})`);
