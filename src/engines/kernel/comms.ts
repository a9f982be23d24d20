/**
 * The names that threads had at a time: what the kernel tells of new threads and new names, in the order of their times. Of a thread that
 * was there before it is read from /proc when it is first asked for, so it may be newer than the hit by a moment.
 */
import { readFileSync } from 'node:fs';
import { decodeUtf8 } from '../../base/utf8.js';
import { RECORD, relatives, renamed, type PerfRecord } from '../../linux/perf-records.js';

export class Comms {
  /** By thread. */
  readonly #known = new Map<number, string>();

  /** Anything but a sample. */
  note(record: PerfRecord): void {
    switch (record.type) {
      case RECORD.comm: {
        const { tid, comm } = renamed(record);
        if (tid > 0) this.#known.set(tid, decodeUtf8(comm));
        return;
      }
      case RECORD.fork: {
        // A new thread has the name of the one that made it. Whoever that is may be asked when the new one is.
        const { tid, parentPid, parentTid } = relatives(record);
        const comm = parentTid > 0 ? this.of(parentPid, parentTid) : '';
        if (comm === '' || tid <= 0) this.#known.delete(tid);
        else this.#known.set(tid, comm);
        return;
      }
      case RECORD.exit:
        this.#known.delete(relatives(record).tid);
        return;
    }
  }

  /** Empty where it has ended and was never seen, or has no number in our pid namespace. */
  of(pid: number, tid: number): string {
    let comm = this.#known.get(tid);
    if (comm === undefined) {
      comm = readComm(pid, tid);
      if (comm === undefined) return '';
      this.#known.set(tid, comm);
    }
    return comm;
  }
}

function readComm(pid: number, tid: number): string | undefined {
  try {
    return decodeUtf8(readFileSync(`/proc/${pid}/task/${tid}/comm`)).replace(/\n$/, '');
  } catch {
    return undefined;
  }
}
