/**
 * Perf events of uprobes (perf_event_open(2), include/uapi/linux/perf_event.h): one event for each place, of the dynamic PMU that the
 * kernel calls `uprobe` (kernel/events/core.c, perf_uprobe_event_init). The uprobe is there as long as the event.
 */
import { readFileSync } from 'node:fs';
import { closeFd } from './fds.js';
import { mapRegion } from './memory.js';
import { syscall, syscallWithMemory } from './ffi.js';
import { ERRNO, NR } from './numbers.js';
import { check, SyscallError } from './syscall-error.js';

const PMU = '/sys/bus/event_source/devices/uprobe';
const ATTR_BYTES = 112; // PERF_ATTR_SIZE_VER5: Linux 4.1
const PERF_FLAG_FD_CLOEXEC = 8;
const NO_GROUP = -1;

interface Pmu {
  readonly type: number;
  /** Of `config`: an event of returns. */
  readonly returnBit: bigint;
}

let pmu: Pmu | undefined;

/** Throws where the kernel has no such events: built without them, or sysfs is not mounted. */
function thePmu(): Pmu {
  return (pmu ??= {
    type: Number(readPmu('type')),
    returnBit: 1n << BigInt(/^config:(\d+)$/m.exec(readPmu('format/retprobe'))?.[1] ?? 0),
  });
}

function readPmu(name: string): string {
  try {
    return readFileSync(`${PMU}/${name}`, 'latin1');
  } catch {
    throw new SyscallError(
      `open(${PMU}/${name})`,
      ERRNO.ENOENT,
      'The kernel has no perf events of uprobes (CONFIG_UPROBE_EVENTS, CONFIG_PERF_EVENTS), or /sys is not mounted',
    );
  }
}

/** attr.flags (a bit field in the header). */
const FLAG = {
  disabled: 1n,
  comm: 1n << 9n,
  task: 1n << 13n,
  sampleIdAll: 1n << 18n,
  useClockid: 1n << 25n,
} as const;
const SAMPLE = { tid: 2n, time: 4n, cpu: 0x80n, userRegs: 0x1000n, userStack: 0x2000n, identifier: 0x1_0000n, cgroup: 0x20_0000n } as const; // prettier-ignore
/** What every record of a ring has: perf-records.ts. */
const BASE_SAMPLE = SAMPLE.identifier | SAMPLE.tid | SAMPLE.time | SAMPLE.cpu;
/** include/uapi/linux/time.h */
const CLOCK_MONOTONIC = 1;
const PERF_FORMAT_LOST = 1n << 4n; // Linux 6.0

/** What is recorded of each hit, in a ring (PERF_EVENT_IOC_SET_OUTPUT): BASE_SAMPLE and this. */
export interface Sampling {
  /** PERF_REG_X86_* as bits. */
  readonly registers: bigint;
  /** So much of the stack, from the stack pointer up: a multiple of eight. */
  readonly stackBytes: number;
  /** The id of the thread's cgroup. */
  readonly cgroup: boolean;
}

export interface UprobeEvent {
  /** A path of the file as whoever makes the call sees it. */
  readonly path: string;
  readonly offset: number;
  readonly isReturn: boolean;
  /** The process (its first thread), or 0: all, which wants a CPU. */
  readonly pid: number;
  /** Where hits are counted and sampled, or -1: everywhere, which wants a process. Programs run for hits on all CPUs. */
  readonly cpu: number;
  readonly sampling?: Sampling;
  /** For `readCount`. It begins when it is enabled. */
  readonly counts?: boolean;
}

/** The arguments of perf_event_open, in memory that must stay until the call has been made. */
export interface PreparedEvent {
  readonly args: readonly [attr: number, pid: number, cpu: number, group: number, flags: number];
  readonly free: () => void;
}

const PATH_AT = 128;
const PAGE = 4096;

export function prepareUprobeEvent(event: UprobeEvent): PreparedEvent {
  const { type, returnBit } = thePmu();
  const { pid, cpu, sampling } = event;
  const path = Buffer.from(`${event.path}\0`);
  const region = mapRegion(Math.ceil((PATH_AT + path.length) / PAGE) * PAGE);
  const view = new DataView(region.bytes.buffer);
  region.bytes.set(path, PATH_AT);
  view.setUint32(0, type, true);
  view.setUint32(4, ATTR_BYTES, true);
  view.setBigUint64(8, event.isReturn ? returnBit : 0n, true);
  view.setBigUint64(56, BigInt(region.address + PATH_AT), true); // config1: uprobe_path
  view.setBigUint64(64, BigInt(event.offset), true); // config2: probe_offset
  let flags = event.counts === true ? FLAG.disabled : 0n;
  if (event.counts === true && countsLost()) view.setBigUint64(32, PERF_FORMAT_LOST, true);
  if (sampling !== undefined) {
    const { registers, stackBytes, cgroup } = sampling;
    view.setBigUint64(16, 1n, true); // sample_period
    const more =
      (registers === 0n ? 0n : SAMPLE.userRegs) |
      (stackBytes === 0 ? 0n : SAMPLE.userStack) |
      (cgroup ? SAMPLE.cgroup : 0n);
    view.setBigUint64(24, BASE_SAMPLE | more, true);
    view.setBigUint64(80, registers, true);
    view.setUint32(88, stackBytes, true);
    view.setInt32(92, CLOCK_MONOTONIC, true);
    flags |= FLAG.sampleIdAll | FLAG.useClockid;
  }
  view.setBigUint64(40, flags, true);
  return {
    args: [region.address, pid === 0 ? -1 : pid, cpu, NO_GROUP, PERF_FLAG_FD_CLOEXEC],
    free: () => void syscall(NR.munmap, region.address, region.length),
  };
}

/** As messages have it. */
export const EVENT_CALL = 'perf_event_open(uprobe)';

/** Without a keeper: of a file that nobody maps. A descriptor, or minus the errno. */
export function openUprobeEvent(event: UprobeEvent): number {
  const { args, free } = prepareUprobeEvent(event);
  try {
    return syscall(NR.perfEventOpen, ...args);
  } finally {
    free();
  }
}

const PERF_TYPE_SOFTWARE = 1;
const PERF_COUNT_SW_DUMMY = 9n;

/** An event of a CPU that does nothing itself, and has the kernel tell of threads that begin, end and change their names. */
export function openDummyEvent(cpu: number): number {
  const attr = dummy();
  attr.setBigUint64(24, BASE_SAMPLE, true);
  attr.setBigUint64(40, FLAG.comm | FLAG.task | FLAG.sampleIdAll | FLAG.useClockid, true);
  attr.setInt32(92, CLOCK_MONOTONIC, true);
  const fd = syscallWithMemory(NR.perfEventOpen, 0, [attr, -1, cpu, NO_GROUP, PERF_FLAG_FD_CLOEXEC]);
  return check(fd, `perf_event_open(PERF_COUNT_SW_DUMMY, cpu ${cpu})`);
}

function dummy(): DataView {
  const attr = new DataView(new ArrayBuffer(ATTR_BYTES));
  attr.setUint32(0, PERF_TYPE_SOFTWARE, true);
  attr.setUint32(4, ATTR_BYTES, true);
  attr.setBigUint64(8, PERF_COUNT_SW_DUMMY, true);
  return attr;
}

let knowsLost: boolean | undefined;

/** Whether this kernel counts, for each event, what found no room in a ring. */
export function countsLost(): boolean {
  if (knowsLost !== undefined) return knowsLost;
  const attr = dummy();
  attr.setBigUint64(32, PERF_FORMAT_LOST, true);
  const fd = syscallWithMemory(NR.perfEventOpen, 0, [attr, 0, -1, NO_GROUP, PERF_FLAG_FD_CLOEXEC]);
  if (fd >= 0) closeFd(fd);
  return (knowsLost = fd >= 0);
}

// Of an event's descriptor

/** include/uapi/linux/perf_event.h: PERF_EVENT_IOC_* */
const IOC = { enable: 0x2400, disable: 0x2401, setOutput: 0x2405, setFilter: 0x4008_2406, id: 0x8008_2407 } as const; // prettier-ignore

const ioctl = (fd: number, name: keyof typeof IOC, argument = 0): void =>
  void check(syscall(NR.ioctl, fd, IOC[name], argument), `ioctl(perf event, ${name})`);

export const enableEvent = (fd: number): void => ioctl(fd, 'enable');
/** Another CPU may be in the middle of a last sample. */
export const disableEvent = (fd: number): void => ioctl(fd, 'disable');
/** Its samples go to the ring of another event, of the same CPU. */
export const setOutput = (fd: number, ring: number): void => ioctl(fd, 'setOutput', ring);

/** What its samples have, to tell whose they are. */
export function eventId(fd: number): number {
  const id = new BigUint64Array(1);
  check(syscallWithMemory(NR.ioctl, 2, [fd, IOC.id, id]), 'ioctl(perf event, id)');
  return Number(id[0]);
}

/** Of these threads (as the whole machine counts them) hits neither count nor are recorded. Once for an event. */
export function leaveOut(fd: number, tids: readonly number[]): void {
  const filter = Buffer.from(`${tids.map((tid) => `common_pid != ${tid}`).join(' && ')}\0`);
  check(syscallWithMemory(NR.ioctl, 2, [fd, IOC.setFilter, filter]), 'ioctl(perf event, setFilter)');
}

/** Hits so far, and how many of them found no room in the ring (0 where that is not counted). */
export function readCount(fd: number): { readonly count: number; readonly lost: number } {
  const words = new BigUint64Array(2);
  check(syscallWithMemory(NR.read, 1, [fd, words, countsLost() ? 16 : 8]), 'read(perf event)');
  return { count: Number(words[0]), lost: Number(words[1]) };
}
