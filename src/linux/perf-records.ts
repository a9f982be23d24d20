/**
 * Records of perf rings (include/uapi/linux/perf_event.h, enum perf_event_type), of events whose samples begin with BASE_SAMPLE
 * (perf-event.ts). Every record has its time: samples at a fixed place, all others in what sample_id_all puts at their end.
 */
export const RECORD = { lost: 2, comm: 3, exit: 4, fork: 7, sample: 9 } as const;

/** struct perf_event_header: type, misc, size. */
const HEADER = 8;
/** Of a sample, from the record's start: id, pid, tid, time, cpu, then what else was asked for. */
const AT = { id: 8, pid: 16, tid: 20, time: 24, cpu: 32, rest: 40 } as const;
/** Of the end of any other record (struct sample_id): pid, tid, time, cpu, id. */
const TRAILER = 32;
const TRAILER_TIME = 24;

export interface PerfRecord {
  readonly type: number;
  /** CLOCK_MONOTONIC, ns; exact for 104 days. */
  readonly time: number;
  readonly view: DataView;
  readonly at: number;
  readonly end: number;
}

const word = (view: DataView, at: number): number =>
  view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;

/** Those of a chunk that are of these types, appended to `to`. */
export function readRecords(chunk: Uint8Array, to: PerfRecord[]): void {
  const view = new DataView(chunk.buffer, chunk.byteOffset, chunk.byteLength);
  for (let at = 0; at + HEADER <= chunk.length;) {
    const type = view.getUint32(at, true);
    const end = at + view.getUint16(at + 6, true);
    if (end < at + HEADER + TRAILER || end > chunk.length) return;
    const time = word(view, type === RECORD.sample ? at + AT.time : end - TRAILER_TIME);
    to.push({ type, time, view, at, end });
    at = end;
  }
}

/** PERF_EVENT_IOC_ID of the event it is of. */
export const idOf = ({ view, at }: PerfRecord): number => word(view, at + AT.id);
/** 0: of a process that has no number where we are. */
export const pidOf = ({ view, at }: PerfRecord): number => view.getInt32(at + AT.pid, true);
export const tidOf = ({ view, at }: PerfRecord): number => view.getInt32(at + AT.tid, true);
export const timeOf = ({ view, at }: PerfRecord): bigint => view.getBigUint64(at + AT.time, true);
export const cpuOf = ({ view, at }: PerfRecord): number => view.getUint32(at + AT.cpu, true);

const REGS_ABI_NONE = 0n;
const NO_WORDS = new BigUint64Array(0);

/** What samples have behind the base. */
export interface SampleLayout {
  /** How many. */
  readonly registers: number;
  readonly stackBytes: number;
  readonly cgroup: boolean;
}

export interface SampleRest {
  /** In the order of their numbers. */
  readonly registers: BigUint64Array;
  /** Words, from the stack pointer up, as many as could be read. */
  readonly stack: BigUint64Array;
  readonly cgroup: bigint;
}

/** Undefined: there were no registers. */
export function restOf({ view, at, end }: PerfRecord, layout: SampleLayout): SampleRest | undefined {
  let next = at + AT.rest;
  const words = (count: number): BigUint64Array => {
    const found = new BigUint64Array(count);
    for (let i = 0; i < count; i++, next += 8) found[i] = view.getBigUint64(next, true);
    return found;
  };
  const isThere = (count: number): boolean => next + count * 8 <= end;
  if (layout.registers > 0 && (!isThere(1) || words(1)[0] === REGS_ABI_NONE)) return undefined;
  if (!isThere(layout.registers)) return undefined;
  const registers = words(layout.registers);
  let stack: BigUint64Array = NO_WORDS;
  if (layout.stackBytes > 0 && isThere(1)) {
    // Its room, the room, and how much of that is filled; nothing behind a room of 0.
    const room = Number(words(1)[0]) / 8;
    if (!isThere(room + 1)) return undefined;
    if (room > 0) {
      const all = words(room);
      stack = all.subarray(0, Number(words(1)[0]) / 8);
    }
  }
  return { registers, stack, cgroup: layout.cgroup && isThere(1) ? words(1)[0]! : 0n };
}

/** PERF_RECORD_COMM: pid, tid, name. */
export function renamed({ view, at, end }: PerfRecord): { readonly tid: number; readonly comm: Uint8Array } {
  const bytes = new Uint8Array(view.buffer, view.byteOffset + at + 16, end - TRAILER - (at + 16));
  const nul = bytes.indexOf(0);
  return { tid: view.getInt32(at + 12, true), comm: nul < 0 ? bytes : bytes.subarray(0, nul) };
}

/** PERF_RECORD_FORK, PERF_RECORD_EXIT: pid, ppid, tid, ptid, time. */
export const relatives = ({ view, at }: PerfRecord) => ({
  parentPid: view.getInt32(at + 12, true),
  tid: view.getInt32(at + 16, true),
  parentTid: view.getInt32(at + 20, true),
});
