/** Processes by descriptors (pidfd_open(2)): whether one has ended, whoever has its number by now. */
import { syscall, syscallWithMemory } from './ffi.js';
import { NR } from './numbers.js';

const POLLIN = 1;

/** Undefined: there is no such process, or the kernel does not say. */
export function openProcess(pid: number): number | undefined {
  const fd = syscall(NR.pidfdOpen, pid, 0);
  return fd < 0 ? undefined : fd;
}

export function hasEnded(pidfd: number): boolean {
  const polled = new Int16Array(4);
  new Int32Array(polled.buffer)[0] = pidfd;
  polled[2] = POLLIN;
  return syscallWithMemory(NR.poll, 0, [polled, 1, 0]) > 0;
}
