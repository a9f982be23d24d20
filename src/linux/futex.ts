/** futex(2) on memory of ours, between threads of this process. */
import { syscall } from './ffi.js';
import { mapRegion } from './memory.js';
import { FUTEX, NR } from './numbers.js';

let timespec: { readonly address: number; readonly fields: BigInt64Array } | undefined;

/** Sleep while the word at `address` is `expected`, at most `ms` milliseconds. May return early: look again. */
export function futexWait(address: number, expected: number, ms: number): void {
  if (timespec === undefined) {
    const region = mapRegion(4096);
    timespec = { address: region.address, fields: new BigInt64Array(region.bytes.buffer, 0, 2) };
  }
  timespec.fields[0] = BigInt(Math.floor(ms / 1000));
  timespec.fields[1] = BigInt(Math.floor((ms % 1000) * 1e6));
  syscall(NR.futex, address, FUTEX.wait, expected, timespec.address);
}

export function futexWake(address: number): void {
  syscall(NR.futex, address, FUTEX.wake, 1);
}
