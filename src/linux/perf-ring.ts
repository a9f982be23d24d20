/**
 * Rings of perf events (perf_event_open(2), "MMAP layout"; kernel/events/ring_buffer.c), one for each CPU. An event that does nothing
 * itself (PERF_COUNT_SW_DUMMY) owns the ring, and has the kernel tell in it of threads that begin, end and change their names; other events of
 * the CPU write their samples there (PERF_EVENT_IOC_SET_OUTPUT).
 */
import { closeFd } from './fds.js';
import { syscall } from './ffi.js';
import { viewRegion } from './memory.js';
import { ERRNO, MAP, NR, PROT } from './numbers.js';
import { openDummyEvent } from './perf-event.js';
import { SyscallError } from './syscall-error.js';

const PAGE = 4096;
/** struct perf_event_mmap_page, in words: data_head, data_tail. */
const [HEAD, TAIL] = [1024 / 8, 1032 / 8];
const LEAST_BYTES = 16 * PAGE;

/** What another thread needs to read it. */
export interface PerfRing {
  /** Of the page with the positions; the data is behind it. */
  readonly address: number;
  /** Of the data: a power of two. */
  readonly bytes: number;
}

export interface OpenRing extends PerfRing {
  readonly fd: number;
}

/** A ring for each CPU, all of one size: smaller ones where the kernel does not lock so much memory for this user. */
export function openPerfRings(cpus: readonly number[], bytes: number): OpenRing[] {
  const rings: OpenRing[] = [];
  try {
    for (const cpu of cpus) rings.push(openPerfRing(cpu, bytes));
    return rings;
  } catch (e) {
    rings.forEach(closePerfRing);
    const isTooMuch = e instanceof SyscallError && (e.errno === ERRNO.EPERM || e.errno === ERRNO.ENOMEM);
    if (!isTooMuch || bytes / 2 < LEAST_BYTES) throw e;
    return openPerfRings(cpus, bytes / 2);
  }
}

function openPerfRing(cpu: number, bytes: number): OpenRing {
  const fd = openDummyEvent(cpu);
  const address = syscall(NR.mmap, 0, PAGE + bytes, PROT.read | PROT.write, MAP.shared, fd, 0);
  if (address >= 0) return { fd, address, bytes };
  closeFd(fd);
  throw new SyscallError(
    `mmap(${bytes} bytes of a perf event)`,
    -address,
    'Raise kernel.perf_event_mlock_kb (sysctl), or run with CAP_IPC_LOCK',
  );
}

export function closePerfRing({ fd, address, bytes }: OpenRing): void {
  syscall(NR.munmap, address, PAGE + bytes);
  closeFd(fd);
}

export class PerfRingReader {
  readonly #positions: BigInt64Array;
  readonly #data: Uint8Array;
  readonly #mask: number;

  constructor({ address, bytes }: PerfRing) {
    this.#positions = new BigInt64Array(viewRegion(address, PAGE));
    this.#data = new Uint8Array(viewRegion(address + PAGE, bytes));
    this.#mask = bytes - 1;
  }

  /** A copy of all records that are finished. They are out of the ring. */
  take(): Uint8Array | undefined {
    const head = Atomics.load(this.#positions, HEAD);
    const tail = Atomics.load(this.#positions, TAIL);
    const length = Number(head - tail);
    if (length === 0) return undefined;
    const copy = new Uint8Array(length);
    const start = Number(tail & BigInt(this.#mask));
    const first = Math.min(length, this.#mask + 1 - start);
    copy.set(this.#data.subarray(start, start + first));
    copy.set(this.#data.subarray(0, length - first), first);
    Atomics.store(this.#positions, TAIL, head);
    return copy;
  }
}
