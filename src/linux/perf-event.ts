/**
 * Perf events of uprobes (perf_event_open(2), include/uapi/linux/perf_event.h): one event for each place, of the dynamic PMU that the
 * kernel calls `uprobe` (kernel/events/core.c, perf_uprobe_event_init). The uprobe is there as long as the event.
 */
import { readFileSync } from 'node:fs';
import { mapRegion } from './memory.js';
import { syscall } from './ffi.js';
import { ERRNO, NR } from './numbers.js';
import { SyscallError } from './syscall-error.js';

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

/** What is written for each hit; words as struct perf_event_attr has them. */
export interface Sampling {
  /** PERF_SAMPLE_* */
  readonly type: number;
  /** Of so many hits one is written. */
  readonly period: number;
  /** PERF_REG_X86_* as bits. */
  readonly userRegs: bigint;
  readonly userStackBytes: number;
  /** What wakes a reader: so many samples. */
  readonly wakeupEvents: number;
  /** CLOCK_*: of the times in samples. */
  readonly clock: number;
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
}

/** The arguments of perf_event_open, in memory that must stay until the call has been made. */
export interface PreparedEvent {
  readonly args: readonly [attr: number, pid: number, cpu: number, group: number, flags: number];
  readonly free: () => void;
}

/** attr.flags (a bit field in the header) */
const USE_CLOCKID = 1n << 25n;
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
  if (sampling !== undefined) {
    view.setBigUint64(16, BigInt(sampling.period), true);
    view.setBigUint64(24, BigInt(sampling.type), true);
    view.setBigUint64(40, USE_CLOCKID, true);
    view.setUint32(48, sampling.wakeupEvents, true);
    view.setBigUint64(80, sampling.userRegs, true);
    view.setUint32(88, sampling.userStackBytes, true);
    view.setInt32(92, sampling.clock, true);
  }
  return {
    args: [region.address, pid === 0 ? -1 : pid, cpu, NO_GROUP, PERF_FLAG_FD_CLOEXEC],
    free: () => void syscall(NR.munmap, region.address, region.length),
  };
}

/** Without a keeper: of a file that nobody maps. A descriptor, or minus the errno. */
export function openUprobeEvent(event: UprobeEvent): number {
  const { args, free } = prepareUprobeEvent(event);
  try {
    return syscall(NR.perfEventOpen, ...args);
  } finally {
    free();
  }
}
