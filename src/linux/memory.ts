import { syscall, viewMemory } from './ffi.js';
import { MAP, NR, PROT } from './numbers.js';
import { check } from './syscall-error.js';

/** Anonymous memory of this process, zeroed, at a fixed address that every thread may name. */
export interface Region {
  readonly address: number;
  readonly length: number;
  readonly bytes: Uint8Array;
}

/** Map memory. Pages are taken only as they are touched. It stays mapped until the process ends. */
export function mapRegion(length: number, executable = false): Region {
  const prot = PROT.read | PROT.write | (executable ? PROT.exec : 0);
  const address = check(
    syscall(NR.mmap, 0, length, prot, MAP.shared | MAP.anonymous, -1, 0),
    `mmap(${length} bytes${executable ? ', PROT_EXEC' : ''})`,
    executable
      ? 'A security policy may forbid memory that is both writable and executable (SELinux execmem)'
      : undefined,
  );
  return regionAt(address, length);
}

/** Memory that is mapped already. It must outlive the view. */
export const viewRegion = (address: number, length: number): ArrayBuffer => viewMemory(address, length);

/** The same memory as another thread of this process mapped it. */
export function regionAt(address: number, length: number): Region {
  return { address, length, bytes: new Uint8Array(viewMemory(address, length)) };
}
