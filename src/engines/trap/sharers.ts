/**
 * Processes that have one memory without being threads of each other: a parent and its child by vfork(2) until that executes
 * a program, or whoever was made with CLONE_VM. A breakpoint for one of them is one for all.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { shareMemory } from '../../linux/kcmp.js';
import { NR } from '../../linux/numbers.js';
import { readMemory } from '../../linux/process-memory.js';

const CLONE_VFORK = 0x4000n;

/** All others than `pid`, whose memory a thread of it shows; that is asked of every process there is, for nothing else tells. */
export function sharersOf(pid: number, shownBy: number): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((other) => other !== pid && shareMemory(shownBy, other));
}

/**
 * Whether a thread waits in the system call that has made a child, for that child to let go of the memory: it stops for
 * nobody until then. proc_pid_syscall(5): number and arguments.
 */
export function waitsForChild(tid: number, memoryFd: number): boolean {
  const [nr, first = '0'] = syscallOf(tid);
  if (nr === NR.vfork) return true;
  if (nr === NR.clone) return (BigInt(first) & CLONE_VFORK) !== 0n;
  if (nr !== NR.clone3) return false;
  const flags = readMemory(memoryFd, Number(first), 8); // struct clone_args begins with its flags
  return (
    flags !== undefined &&
    (new DataView(flags.buffer, flags.byteOffset).getBigUint64(0, true) & CLONE_VFORK) !== 0n
  );
}

function syscallOf(tid: number): [number, string | undefined] {
  try {
    const [nr = '', first] = readFileSync(`/proc/${tid}/syscall`, 'latin1').split(' ');
    return [Number(nr), first];
  } catch {
    return [-1, undefined];
  }
}
