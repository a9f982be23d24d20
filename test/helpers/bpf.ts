/** The least that puts the code of the BPF back end into the kernel and attaches it. Of tests only. */
import { readFileSync } from 'node:fs';
import { execFileSync } from 'node:child_process';
import { compileBpf } from '#uprobe/handler/bpf/compile.js';
import type { BpfCode, BpfRequest, BpfTarget, MapKey, MapSpec } from '#uprobe/handler/bpf/code.js';
import { syscall } from '#uprobe/linux/ffi.js';
import { mapRegion, type Region, viewRegion } from '#uprobe/linux/memory.js';

const NR = { close: 3, mmap: 9, bpf: 321 };
const COMMAND = { mapCreate: 0, mapLookup: 1, mapUpdate: 2, mapNextKey: 4, progLoad: 5, linkCreate: 28 };
const MAP_TYPE = { array: 2, hash: 1, lruHash: 9, ring: 27 };
const PROG_TYPE_KPROBE = 2;
const TRACE_UPROBE_MULTI = 48;
const TRACE_UPROBE_SESSION = 57;
const F_SLEEPABLE = 16;
const F_MMAPABLE = 1024;
const F_UPROBE_MULTI_RETURN = 1;

/** bpf(2), with an attribute of 32- and 64-bit words at their offsets. */
let scratch: Region | undefined;
function bpf(command: number, attribute: (view: DataView) => void): number {
  scratch ??= mapRegion(4096);
  scratch.bytes.fill(0);
  attribute(new DataView(scratch.bytes.buffer, scratch.bytes.byteOffset));
  return syscall(NR.bpf, command, scratch.address, 128);
}

const check = (result: number, what: string): number => {
  if (result < 0) throw new Error(`${what}: errno ${-result}`);
  return result;
};

export class KernelMap {
  readonly fd: number;
  #value: Uint8Array | undefined;

  constructor(readonly spec: MapSpec) {
    this.fd = check(
      bpf(COMMAND.mapCreate, (view) => {
        view.setUint32(0, MAP_TYPE[spec.type], true);
        view.setUint32(4, spec.keyBytes, true);
        view.setUint32(8, spec.valueBytes, true);
        view.setUint32(12, spec.entries, true);
        view.setUint32(16, spec.type === 'array' && spec.mapped ? F_MMAPABLE : 0, true);
      }),
      `a map of ${spec.key.of}`,
    );
    if (spec.initial) this.value.set(spec.initial);
  }

  /** Of an array that is mapped. */
  get value(): Uint8Array {
    this.#value ??= new Uint8Array(viewRegion(this.#map(this.spec.valueBytes, 0, 3), this.spec.valueBytes));
    return this.#value;
  }
  words(): BigInt64Array {
    return new BigInt64Array(this.value.slice().buffer);
  }

  /** Of an array that is not mapped: all bytes. */
  fill(byte: number): void {
    const memory = mapRegion(8 + this.spec.valueBytes);
    memory.bytes.fill(byte, 8);
    const attribute = (view: DataView): void => {
      view.setUint32(0, this.fd, true);
      view.setBigUint64(8, BigInt(memory.address), true);
      view.setBigUint64(16, BigInt(memory.address + 8), true);
    };
    check(bpf(COMMAND.mapUpdate, attribute), 'filling');
  }

  entries(): { key: Uint8Array; cell: BigInt64Array }[] {
    const { keyBytes, valueBytes } = this.spec;
    const memory = mapRegion(keyBytes + 8 + keyBytes + 8 + valueBytes);
    const [next, value] = [keyBytes + 8, 2 * (keyBytes + 8)];
    const found: { key: Uint8Array; cell: BigInt64Array }[] = [];
    let isFirst = true;
    const ask = (command: number, key: number, to: number): number =>
      bpf(command, (view) => {
        view.setUint32(0, this.fd, true);
        if (key >= 0) view.setBigUint64(8, BigInt(memory.address + key), true);
        view.setBigUint64(16, BigInt(memory.address + to), true);
      });
    while (ask(COMMAND.mapNextKey, isFirst ? -1 : 0, next) === 0) {
      isFirst = false;
      memory.bytes.copyWithin(0, next, next + keyBytes);
      check(ask(COMMAND.mapLookup, 0, value), 'looking up');
      found.push({
        key: memory.bytes.slice(0, keyBytes),
        cell: new BigInt64Array(memory.bytes.slice(value, value + valueBytes).buffer),
      });
    }
    return found;
  }

  /** Of a ring that nobody reads: all records, each with its header. */
  records(): Uint8Array {
    const size = this.spec.entries;
    const producer = new Uint8Array(viewRegion(this.#map(4096 + 2 * size, 4096, 1), 4096 + 2 * size));
    const position = Number(new DataView(producer.buffer).getBigUint64(0, true));
    return producer.slice(4096, 4096 + position);
  }

  #map(length: number, offset: number, protection: number): number {
    return check(syscall(NR.mmap, 0, length, protection, 1, this.fd, offset), 'mmap of a map');
  }
  close(): void {
    syscall(NR.close, this.fd);
  }
}

export class VerifierError extends Error {}

/** A program with its maps; maps of the same key are one. */
export class Loaded {
  readonly maps: KernelMap[] = [];
  readonly #fds: number[] = [];

  map(of: MapKey['of'], aggregate?: unknown): KernelMap {
    const found = this.maps.find(
      ({ spec: { key } }) =>
        key.of === of && (aggregate === undefined || ('aggregate' in key && key.aggregate === aggregate)),
    );
    if (!found) throw new Error(`no map of ${of}`);
    return found;
  }

  load(request: BpfRequest, target: BpfTarget): { code: BpfCode; fd: number } {
    const result = compileBpf(request, target);
    if (!result.ok) throw new Error(`${result.refusal.code}: ${result.refusal.reason}`);
    return { code: result.code, fd: this.loadCode(result.code, request.attach) };
  }

  loadCode(code: BpfCode, attach: BpfRequest['attach']): number {
    const own = code.maps.map((spec) => this.#mapFor(spec));
    const memory = mapRegion(code.instructions.length + 8 + 1024 * 1024);
    memory.bytes.set(code.instructions);
    const view = new DataView(memory.bytes.buffer, memory.bytes.byteOffset);
    for (const { at, map, offset } of code.uses) {
      view.setInt32(at * 8 + 4, own[map]!.fd, true);
      view.setInt32(at * 8 + 12, offset ?? 0, true);
    }
    const [license, log] = [code.instructions.length, code.instructions.length + 8];
    memory.bytes.set(Buffer.from('GPL\0'), license);
    const load = (logLevel: number): number =>
      bpf(COMMAND.progLoad, (attribute) => {
        attribute.setUint32(0, PROG_TYPE_KPROBE, true);
        attribute.setUint32(4, code.instructions.length / 8, true);
        attribute.setBigUint64(8, BigInt(memory.address), true);
        attribute.setBigUint64(16, BigInt(memory.address + license), true);
        attribute.setUint32(24, logLevel, true);
        attribute.setUint32(28, logLevel ? 1024 * 1024 : 0, true);
        attribute.setBigUint64(32, logLevel ? BigInt(memory.address + log) : 0n, true);
        attribute.setUint32(44, code.sleeps ? F_SLEEPABLE : 0, true);
        attribute.setUint32(68, attach === 'session' ? TRACE_UPROBE_SESSION : TRACE_UPROBE_MULTI, true);
      });
    let fd = load(0);
    if (fd < 0) {
      const errno = -fd;
      fd = load(1);
      const text = Buffer.from(memory.bytes.subarray(log)).toString('latin1').split('\0', 1)[0]!;
      if (fd < 0) throw new VerifierError(`errno ${errno}\n${text.slice(-6000)}`);
    }
    this.#fds.push(fd);
    return fd;
  }

  #mapFor(spec: MapSpec): KernelMap {
    const { key } = spec;
    const known = this.maps.find(
      ({ spec: { key: other } }) =>
        key.of !== 'scratch' &&
        other.of === key.of &&
        (!('aggregate' in key) || ('aggregate' in other && other.aggregate === key.aggregate)),
    );
    if (known) return known;
    const made = new KernelMap(spec);
    this.maps.push(made);
    return made;
  }

  attach(
    fd: number,
    kind: BpfRequest['attach'],
    path: string,
    places: readonly { offset: number; cookie: bigint }[],
  ): void {
    const memory = mapRegion(4096 + places.length * 16);
    memory.bytes.set(Buffer.from(`${path}\0`));
    const view = new DataView(memory.bytes.buffer, memory.bytes.byteOffset);
    places.forEach(({ offset, cookie }, i) => {
      view.setBigUint64(4096 + i * 8, BigInt(offset), true);
      view.setBigUint64(4096 + places.length * 8 + i * 8, cookie, true);
    });
    this.#fds.push(
      check(
        bpf(COMMAND.linkCreate, (attribute) => {
          attribute.setUint32(0, fd, true);
          attribute.setUint32(8, kind === 'session' ? TRACE_UPROBE_SESSION : TRACE_UPROBE_MULTI, true);
          attribute.setBigUint64(16, BigInt(memory.address), true);
          attribute.setBigUint64(24, BigInt(memory.address + 4096), true);
          attribute.setBigUint64(40, BigInt(memory.address + 4096 + places.length * 8), true);
          attribute.setUint32(48, places.length, true);
          attribute.setUint32(52, kind === 'return' ? F_UPROBE_MULTI_RETURN : 0, true);
        }),
        `attaching to ${path}`,
      ),
    );
  }

  /** Links first: what was attached last. */
  close(): void {
    for (const fd of this.#fds.toReversed()) syscall(NR.close, fd);
    for (const map of this.maps) map.close();
  }
}

/** BTF ids of functions of the kernel, asked of bpftool; undefined where it or they are missing. */
export function sessionIds(): BpfTarget['session'] {
  try {
    const text = execFileSync(
      'bpftool',
      ['btf', 'dump', 'file', '/sys/kernel/btf/vmlinux', 'format', 'raw'],
      {
        encoding: 'latin1',
        maxBuffer: 1 << 28,
        stdio: ['ignore', 'pipe', 'ignore'],
      },
    );
    const idOf = (name: string): number => Number(new RegExp(`\\[(\\d+)\\] FUNC '${name}'`).exec(text)?.[1]);
    const ids = { cookie: idOf('bpf_session_cookie'), isReturn: idOf('bpf_session_is_return') };
    return Number.isNaN(ids.cookie + ids.isReturn) ? undefined : ids;
  } catch {
    return undefined;
  }
}

export const possibleCpus = (): number =>
  Number(/(\d+)\s*$/.exec(readFileSync('/sys/devices/system/cpu/possible', 'latin1'))![1]) + 1;

/** For `skip`: why no program can be loaded here. */
export function whyNoBpf(): string | false {
  const loaded = new Loaded();
  const request: BpfRequest = { attach: 'entry', pre: undefined, return: undefined, uprobes: 1 };
  try {
    loaded.load(request, {
      cpus: possibleCpus(),
      sleepable: false,
      session: undefined,
      ownPid: process.pid,
      pidNamespace: undefined,
    });
    return false;
  } catch (error) {
    return `the kernel takes no program for uprobe_multi: ${String(error).slice(0, 100)}`;
  } finally {
    loaded.close();
  }
}
