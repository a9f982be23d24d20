import { readFileSync, readdirSync } from 'node:fs';
import { syscall, syscallWithMemory } from './ffi.js';
import { NR } from './numbers.js';
import { check } from './syscall-error.js';

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0o2000000;
const F_DUPFD_CLOEXEC = 1030;

/** Two connected stream sockets, closed on exec: [ours, the child's]. Node reads and writes them without threads. */
export function socketpair(): [number, number] {
  const fds = new Int32Array(2);
  check(syscallWithMemory(NR.socketpair, 3, [AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds]), 'socketpair');
  return [fds[0]!, fds[1]!];
}

/** A pipe, closed on exec: [read end, write end]. */
export function pipe(): [number, number] {
  const fds = new Int32Array(2);
  check(syscallWithMemory(NR.pipe2, 0, [fds, SOCK_CLOEXEC]), 'pipe2');
  return [fds[0]!, fds[1]!];
}

/** A duplicate numbered `min` or above, closed on exec. */
export function duplicateAbove(fd: number, min: number): number {
  return check(syscall(NR.fcntl, fd, F_DUPFD_CLOEXEC, min), `fcntl(${fd}, F_DUPFD_CLOEXEC)`);
}

export function closeFd(fd: number): void {
  syscall(NR.close, fd);
}

/** Descriptors that others need. */
const SPARE = 64;

/** Why so many more descriptors cannot be had: how many are open, how many may be (ulimit -n), and what it would take. */
export function tooFewDescriptors(
  wanted: number,
): { readonly open: number; readonly limit: number; readonly enough: number } | undefined {
  const limit = Number(/^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'latin1'))?.[1]);
  const open = readdirSync('/proc/self/fd').length;
  if (Number.isNaN(limit) || open + wanted + SPARE <= limit) return undefined;
  return { open, limit, enough: open + wanted + 2 * SPARE };
}
