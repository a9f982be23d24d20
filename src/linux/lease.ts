/**
 * fcntl(2) leases: the kernel tells us before somebody else opens a file for writing or truncates it, and holds
 * that opener back until we gave the lease up (at most /proc/sys/fs/lease-break-time, 45 s). A limit: our own process
 * is held back like any other, so opening such a file for writing synchronously on the main thread waits that long,
 * for the listener cannot run meanwhile.
 */
import { isMainThread } from 'node:worker_threads';
import { syscall } from './ffi.js';
import { errnoName } from './syscall-error.js';

const NR_FCNTL = 72;
const F_SETSIG = 10;
const F_SETLEASE = 1024;
const F_RDLCK = 0;
const F_UNLCK = 2;
const F_GETLEASE = 1025;

/**
 * The signal that announces a break. Its default action is to be ignored (signal(7)), so one that arrives when nobody
 * listens any more harms nothing; the default, SIGIO, would end the process.
 */
const SIGNAL = 'SIGURG';
const SIGNAL_NUMBER = 23;

/** A held read lease. */
export interface Lease {
  readonly release: () => void;
}

const holders = new Map<number, () => void>();

/**
 * Take a read lease on `fd` (open for reading only). `onBreak` is called once, when somebody wants to change the file;
 * the lease is held until `release`. Where none can be had, the reason: `EAGAIN` (open for writing by somebody),
 * `EACCES` (not our file and no CAP_LEASE), `EINVAL` (a filesystem without leases), or `not-main-thread` (Node
 * hands signals to the main thread only).
 */
export function takeReadLease(fd: number, onBreak: () => void): Lease | string {
  if (!isMainThread) return 'not-main-thread';
  // The listener comes first, then the signal's number, then the lease: none may break into a default action.
  if (holders.size === 0) process.on(SIGNAL, onSignal);
  holders.set(fd, onBreak);
  const failed = fcntl(fd, F_SETSIG, SIGNAL_NUMBER) ?? fcntl(fd, F_SETLEASE, F_RDLCK);
  if (failed !== undefined) {
    forget(fd);
    return failed;
  }
  let held = true;
  return {
    release: () => {
      if (!held) return;
      held = false;
      fcntl(fd, F_SETLEASE, F_UNLCK);
      forget(fd);
    },
  };
}

const fcntl = (fd: number, command: number, argument: number): string | undefined => {
  const result = syscall(NR_FCNTL, fd, command, argument);
  return result < 0 ? errnoName(-result) : undefined;
};

function forget(fd: number): void {
  holders.delete(fd);
  if (holders.size === 0) process.off(SIGNAL, onSignal);
}

/**
 * Ordinary signals are not queued and do not say which file: ask every lease. F_GETLEASE answers what the lease is
 * being broken down to, so anything but F_RDLCK is a break.
 */
function onSignal(): void {
  for (const [fd, onBreak] of [...holders]) if (syscall(NR_FCNTL, fd, F_GETLEASE, 0) !== F_RDLCK) onBreak();
}
