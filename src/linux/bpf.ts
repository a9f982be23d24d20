/** bpf(2): maps, programs and what they are attached to. Attributes as include/uapi/linux/bpf.h has them (union bpf_attr). */
import { syscall, syscallWithMemory } from './ffi.js';
import { mapRegion, viewRegion, type Region } from './memory.js';
import { ERRNO, MAP, NR, PROT } from './numbers.js';
import { SyscallError, check } from './syscall-error.js';

const CMD = {
  mapCreate: 0,
  mapLookup: 1,
  mapUpdate: 2,
  mapDelete: 3,
  mapNextKey: 4,
  progLoad: 5,
  mapLookupBatch: 24,
  linkCreate: 28,
} as const;
export const BPF_LINK_CREATE = CMD.linkCreate;

const MAP_TYPE = { hash: 1, array: 2, lruHash: 9, ring: 27 } as const;
export type MapType = keyof typeof MAP_TYPE;
const BPF_F_NO_PREALLOC = 1;
const BPF_F_MMAPABLE = 1 << 10;
const PROG_TYPE_KPROBE = 2;
const BPF_F_SLEEPABLE = 1 << 4;
/** BPF_TRACE_UPROBE_MULTI, BPF_TRACE_UPROBE_SESSION; programs on perf events have none. */
const ATTACH_TYPE = { entry: 48, return: 48, session: 57, event: 0 } as const;
export type AttachKind = keyof typeof ATTACH_TYPE;
const BPF_PERF_EVENT = 41;
const BPF_F_UPROBE_MULTI_RETURN = 1;

/** struct bpf_insn, and the two forms of a 64-bit load that want a map's descriptor. */
export const INSTRUCTION_BYTES = 8;
const PSEUDO_MAP_FD = 1;
const PSEUDO_MAP_VALUE = 2;

const ATTR_BYTES = 168;
const PAGE = 4096;
const LOG_BYTES = 1 << 20;

export const NEEDS_CAPABILITIES =
  'The kernel lets only root, or a program with CAP_BPF and CAP_PERFMON, load programs for it';

/** The words of a union bpf_attr. */
class Attr {
  readonly bytes = new Uint8Array(ATTR_BYTES);
  readonly #view = new DataView(this.bytes.buffer);
  u32(at: number, value: number): this {
    this.#view.setUint32(at, value, true);
    return this;
  }
  u64(at: number, value: number | bigint): this {
    this.#view.setBigUint64(at, BigInt(value), true);
    return this;
  }
  name(at: number, name: string): this {
    this.bytes.set(Buffer.from(name.slice(0, 15)), at); // BPF_OBJ_NAME_LEN with its NUL
    return this;
  }
  get32(at: number): number {
    return this.#view.getUint32(at, true);
  }
}

/** The result, or minus the errno. EAGAIN: the verifier was interrupted by a signal (BPF_PROG_LOAD), five times at most. */
function bpf(cmd: number, attr: Attr): number {
  for (let tries = 0; ; tries++) {
    const result = syscallWithMemory(NR.bpf, 1, [cmd, attr.bytes, ATTR_BYTES]);
    if (result !== -ERRNO.EAGAIN || tries === 4) return result;
  }
}

const hintFor = (result: number): string | undefined =>
  result === -ERRNO.EPERM ? NEEDS_CAPABILITIES : undefined;

const checked = (result: number, what: string): number => check(result, what, hintFor(result));

// Memory that the kernel is pointed at

/** Memory whose address the kernel is told. */
export function withMemory<T>(length: number, body: (region: Region) => T): T {
  const region = mapRegion(Math.max(PAGE, (length + PAGE - 1) & -PAGE));
  try {
    return body(region);
  } finally {
    syscall(NR.munmap, region.address, region.length);
  }
}

export const unmap = (address: number, length: number): void =>
  void syscall(NR.munmap, address, pages(length));

const pages = (length: number): number => Math.ceil(length / PAGE) * PAGE;

// Maps

export interface MapShape {
  readonly type: MapType;
  readonly keyBytes: number;
  readonly valueBytes: number;
  /** A ring's: its bytes. */
  readonly entries: number;
  /** It will be mapped into our memory (an array, a ring). */
  readonly mapped: boolean;
  /** A hash that takes memory only for what is in it. */
  readonly sparse?: boolean;
}

/** A descriptor. */
export function createMap(shape: MapShape, name: string): number {
  const flags =
    shape.mapped && shape.type === 'array' ? BPF_F_MMAPABLE : shape.sparse === true ? BPF_F_NO_PREALLOC : 0;
  const attr = new Attr()
    .u32(0, MAP_TYPE[shape.type])
    .u32(4, shape.keyBytes)
    .u32(8, shape.valueBytes)
    .u32(12, shape.entries)
    .u32(16, flags)
    .name(28, name);
  return checked(bpf(CMD.mapCreate, attr), `bpf(BPF_MAP_CREATE, ${shape.type} of ${shape.entries})`);
}

/** The value of an array of one, in our memory. */
export function mapArray(fd: number, bytes: number): Region {
  const length = pages(bytes);
  const prot = PROT.read | PROT.write;
  const address = check(syscall(NR.mmap, 0, length, prot, MAP.shared, fd, 0), `mmap(map ${fd})`);
  return { address, length, bytes: new Uint8Array(viewRegion(address, length)) };
}

/** The parts of a ring in our memory (kernel/bpf/ringbuf.c, ringbuf_map_mmap_user): two positions, and the data twice in a row. */
export interface Ring {
  readonly consumer: number;
  readonly producer: number;
  /** Of the data alone: a power of two. */
  readonly bytes: number;
}

export function mapRing(fd: number, bytes: number): Ring {
  const both = PROT.read | PROT.write;
  const consumer = check(syscall(NR.mmap, 0, PAGE, both, MAP.shared, fd, 0), `mmap(ring ${fd})`);
  const length = PAGE + 2 * bytes;
  const producer = syscall(NR.mmap, 0, length, PROT.read, MAP.shared, fd, PAGE);
  if (producer < 0) unmap(consumer, PAGE);
  return { consumer, producer: check(producer, `mmap(ring ${fd})`), bytes };
}

export function unmapRing({ consumer, producer, bytes }: Ring): void {
  unmap(consumer, PAGE);
  unmap(producer, PAGE + 2 * bytes);
}

/** Where the data of a ring begins. */
export const ringData = (ring: Ring): number => ring.producer + PAGE;

export function updateMap(fd: number, key: Uint8Array, value: Uint8Array): void {
  withMemory(key.length + value.length, ({ address, bytes }) => {
    bytes.set(key);
    bytes.set(value, key.length);
    const attr = new Attr()
      .u32(0, fd)
      .u64(8, address)
      .u64(16, address + key.length);
    checked(bpf(CMD.mapUpdate, attr), `bpf(BPF_MAP_UPDATE_ELEM, ${fd})`);
  });
}

/** Undefined: there is no such key. */
export function lookupMap(fd: number, key: Uint8Array, valueBytes: number): Uint8Array | undefined {
  return withMemory(key.length + valueBytes, ({ address, bytes }) => {
    bytes.set(key);
    const attr = new Attr()
      .u32(0, fd)
      .u64(8, address)
      .u64(16, address + key.length);
    const result = bpf(CMD.mapLookup, attr);
    if (result === -ERRNO.ENOENT) return undefined;
    checked(result, `bpf(BPF_MAP_LOOKUP_ELEM, ${fd})`);
    return bytes.slice(key.length, key.length + valueBytes);
  });
}

export function deleteFromMap(fd: number, key: Uint8Array): boolean {
  return withMemory(key.length, ({ address, bytes }) => {
    bytes.set(key);
    return bpf(CMD.mapDelete, new Attr().u32(0, fd).u64(8, address)) === 0;
  });
}

/** Everything that is in a hash, as it is found while it is being changed. */
export function readHash(
  fd: number,
  shape: Pick<MapShape, 'keyBytes' | 'valueBytes' | 'entries'>,
): { readonly key: Uint8Array; readonly value: Uint8Array }[] {
  const { keyBytes, valueBytes, entries } = shape;
  const cursor = Math.max(8, keyBytes); // in_batch and out_batch are a bucket's number, or a key
  const room = entries + 16;
  return withMemory(2 * cursor + room * (keyBytes + valueBytes), ({ address, bytes }) => {
    const [before, after] = [address, address + cursor];
    const keys = after + cursor;
    const values = keys + room * keyBytes;
    const found: { key: Uint8Array; value: Uint8Array }[] = [];
    for (let first = true; found.length < room; first = false) {
      const attr = new Attr()
        .u64(0, first ? 0 : before)
        .u64(8, after)
        .u64(16, keys)
        .u64(24, values)
        .u32(32, room)
        .u32(36, fd);
      const result = bpf(CMD.mapLookupBatch, attr);
      if (result < 0 && result !== -ERRNO.ENOENT) checked(result, `bpf(BPF_MAP_LOOKUP_BATCH, ${fd})`);
      for (let i = 0; i < attr.get32(32); i++)
        found.push({
          key: bytes.slice(keys - address + i * keyBytes, keys - address + (i + 1) * keyBytes),
          value: bytes.slice(values - address + i * valueBytes, values - address + (i + 1) * valueBytes),
        });
      if (result < 0) break; // ENOENT: that was all
      bytes.copyWithin(0, cursor, 2 * cursor);
    }
    return found;
  });
}

// Programs

/** Where an instruction wants a map. */
export interface MapPatch {
  readonly at: number;
  readonly fd: number;
  /** Of a byte in the map's first value; undefined: the map itself. */
  readonly offset: number | undefined;
}

/** With the maps in their places. */
export function patched(instructions: Uint8Array, patches: readonly MapPatch[]): Uint8Array {
  const bytes = instructions.slice();
  const view = new DataView(bytes.buffer);
  for (const { at, fd, offset } of patches) {
    const start = at * INSTRUCTION_BYTES;
    const pseudo = offset === undefined ? PSEUDO_MAP_FD : PSEUDO_MAP_VALUE;
    view.setUint8(start + 1, (view.getUint8(start + 1) & 0x0f) | (pseudo << 4)); // src_reg
    view.setInt32(start + 4, fd, true);
    view.setInt32(start + INSTRUCTION_BYTES + 4, offset ?? 0, true);
  }
  return bytes;
}

/** The verifier has refused a program. `log` is what it says, as it says it. */
export class VerifierError extends SyscallError {
  constructor(
    errno: number,
    readonly log: string,
  ) {
    super('bpf(BPF_PROG_LOAD)', errno, lastWords(log));
  }
}

/** Without its figures (`processed 12 insns …`). */
const lastWords = (log: string): string | undefined =>
  log.split('\n').findLast((line) => line !== '' && !/^(processed|verification time|stack depth)/.test(line));

export interface ProgramCode {
  readonly instructions: Uint8Array;
  readonly kind: AttachKind;
  readonly sleeps: boolean;
}

/** A descriptor. Loaded without a log, which costs time and can itself fail; only what is refused is loaded once more for its reasons. */
export function loadProgram(code: ProgramCode, name: string): number {
  const { instructions } = code;
  const license = Buffer.from('GPL\0');
  return withMemory(instructions.length + license.length, (region) => {
    region.bytes.set(instructions);
    region.bytes.set(license, instructions.length);
    const attr = new Attr()
      .u32(0, PROG_TYPE_KPROBE)
      .u32(4, instructions.length / INSTRUCTION_BYTES)
      .u64(8, region.address)
      .u64(16, region.address + instructions.length)
      .u32(44, code.sleeps ? BPF_F_SLEEPABLE : 0)
      .name(48, name)
      .u32(68, ATTACH_TYPE[code.kind]);
    const result = bpf(CMD.progLoad, attr);
    if (result >= 0) return result;
    if (result === -ERRNO.EPERM) throw new SyscallError('bpf(BPF_PROG_LOAD)', -result, NEEDS_CAPABILITIES);
    throw new VerifierError(-result, verifierLog(attr));
  });
}

function verifierLog(attr: Attr): string {
  return withMemory(LOG_BYTES, ({ address, bytes }) => {
    const fd = bpf(CMD.progLoad, attr.u32(24, 1).u32(28, LOG_BYTES).u64(32, address));
    if (fd >= 0) syscall(NR.close, fd);
    const end = bytes.indexOf(0);
    return Buffer.from(bytes.subarray(0, end < 0 ? bytes.length : end)).toString();
  });
}

// Links

/** What a link attaches a program to: many places at once. */
export interface LinkRequest {
  readonly program: number;
  readonly kind: Exclude<AttachKind, 'event'>;
  /** A path of the file as whoever makes the call sees it. */
  readonly path: string;
  readonly offsets: readonly number[];
  readonly cookies: readonly bigint[];
  /** The process, or 0: all. */
  readonly pid: number;
}

/** The arguments of the call that makes a link, in memory that must stay until it has been made. */
export interface PreparedLink {
  readonly args: readonly [cmd: number, attr: number, bytes: number];
  readonly free: () => void;
}

export function prepareLink(request: LinkRequest): PreparedLink {
  const { offsets, cookies, kind } = request;
  const path = Buffer.from(`${request.path}\0`);
  const count = offsets.length;
  const pathAt = 256 + 16 * count;
  const region = mapRegion(pages(pathAt + path.length));
  const { address, bytes } = region;
  bytes.set(path, pathAt);
  const words = new BigUint64Array(bytes.buffer, 256, 2 * count);
  for (let i = 0; i < count; i++) {
    words[i] = BigInt(offsets[i]!);
    words[count + i] = cookies[i]!;
  }
  const attr = new Attr()
    .u32(0, request.program)
    .u32(8, ATTACH_TYPE[kind])
    .u64(16, address + pathAt)
    .u64(24, address + 256)
    .u64(40, address + 256 + 8 * count)
    .u32(48, count)
    .u32(52, kind === 'return' ? BPF_F_UPROBE_MULTI_RETURN : 0)
    .u32(56, request.pid);
  bytes.set(attr.bytes);
  return {
    args: [CMD.linkCreate, address, ATTR_BYTES],
    free: () => void syscall(NR.munmap, address, region.length),
  };
}

/** A link to a perf event, which keeps that (kernel/bpf/syscall.c, bpf_perf_link_attach: Linux 5.15). */
export function prepareEventLink(program: number, event: number, cookie: bigint): PreparedLink {
  const { address, bytes, length } = mapRegion(PAGE);
  bytes.set(new Attr().u32(0, program).u32(4, event).u32(8, BPF_PERF_EVENT).u64(16, cookie).bytes);
  return {
    args: [CMD.linkCreate, address, ATTR_BYTES],
    free: () => void syscall(NR.munmap, address, length),
  };
}

/** Attach without a keeper: to what no process meets. */
export function linkDirectly({ args, free }: PreparedLink, call: string): number {
  try {
    return check(syscall(NR.bpf, ...args), call);
  } finally {
    free();
  }
}

/** A link's call as messages have it. */
export const LINK_CALL = 'bpf(BPF_LINK_CREATE, uprobe_multi)';
export const EVENT_LINK_CALL = 'bpf(BPF_LINK_CREATE, perf_event)';

export const linkHint = (errno: number, path: string): string | undefined => {
  if (errno === ERRNO.EPERM || errno === ERRNO.EACCES) return NEEDS_CAPABILITIES;
  if (errno === ERRNO.ENOMEM) return 'There is no memory for so many places at once: probe fewer';
  return `The kernel does not take these places in ${path}`;
};
