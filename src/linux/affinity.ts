/** Which CPUs the calling thread may run on (sched_setaffinity(2)), and where another thread last ran. */
import { readFileSync } from 'node:fs';
import { syscallWithMemory } from './ffi.js';
import { NR } from './numbers.js';

const MASK_BYTES = 128; // 1024 CPUs, as glibc's cpu_set_t

export function getAffinity(): Uint8Array {
  const mask = new Uint8Array(MASK_BYTES);
  syscallWithMemory(NR.schedGetaffinity, 2, [0, MASK_BYTES, mask]);
  return mask;
}

export function setAffinity(mask: Uint8Array): void {
  syscallWithMemory(NR.schedSetaffinity, 2, [0, mask.length, mask]);
}

export function onlyCpu(cpu: number): Uint8Array {
  const mask = new Uint8Array(MASK_BYTES);
  mask[cpu >> 3] = 1 << (cpu & 7);
  return mask;
}

export const allows = (mask: Uint8Array, cpu: number): boolean =>
  ((mask[cpu >> 3] ?? 0) & (1 << (cpu & 7))) !== 0;

/** The CPU a thread last ran on, or -1 (proc_pid_stat(5), field 39). */
export function lastCpu(pid: number, tid: number): number {
  try {
    const stat = readFileSync(`/proc/${pid}/task/${tid}/stat`, 'latin1');
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ', 37)[36] ?? -1);
  } catch {
    return -1;
  }
}
