/** What handlers see of one hit. Made at every hit of every uprobe, so it computes nothing before it is asked. */
import { readFileSync } from 'node:fs';
import { hex } from '../base/address.js';
import { UprobeError } from '../base/errors.js';
import { decodeUtf8 } from '../base/utf8.js';
import type { RawHit } from '../engines/engine.js';
import { signalName } from '../linux/signal-name.js';
import { cgroupOf } from '../process/cgroup.js';
import { statFields } from '../process/check.js';
import { hitIsOver, type PtRegs } from './regs.js';
import type { Fault, FaultHit, Hit, PreHit, ReturnHit, ScalarType } from './types.js';
import type { Uprobe } from './uprobe.js';

/** One page: reads that stay inside one succeed or fail as a whole. */
const PAGE = 4096n;
const DEFAULT_STRING = 256;
/** The longest read one call may ask for: a wrong length must not become an allocation of gigabytes. */
const LONGEST_READ = 1 << 24;
/** SysV psABI 3.2.3 sets no limit; this only tells a mistaken address from an argument's number. */
const MOST_ARGUMENTS = 256;
/** FXSAVE keeps xmm0 at byte 160, 16 bytes each (Intel SDM 1, table 10-2). */
const XMM0 = 160;

/** Ends a hit: every later access throws. Only for who made it. */
export let endHit: (hit: HitView) => void;

export class HitView implements Hit {
  /** Undefined once the handler has returned. */
  #raw: RawHit | undefined;
  readonly #uprobe: Uprobe;
  readonly #regs: PtRegs;

  constructor(raw: RawHit, uprobe: Uprobe, regs: PtRegs) {
    this.#raw = raw;
    this.#uprobe = uprobe;
    this.#regs = regs;
  }

  static {
    endHit = (hit) => {
      hit.#raw = undefined;
    };
  }

  /** Throws when the hit is over. */
  protected live(): RawHit {
    return this.#live();
  }
  #live(): RawHit {
    if (this.#raw === undefined) throw hitIsOver();
    return this.#raw;
  }

  get uprobe(): Uprobe {
    this.#live();
    return this.#uprobe;
  }
  get regs(): PtRegs {
    this.#live();
    return this.#regs;
  }
  get pid(): number {
    return this.#live().pid;
  }
  get tid(): number {
    return this.#live().tid;
  }
  get time(): bigint {
    return this.#live().time;
  }

  /** proc(5): field 39 of stat; the fields here begin with the third. -1 when the thread was killed meanwhile. */
  get cpu(): number {
    const stat = this.#readTask('stat');
    return stat === undefined ? -1 : Number(statFields(stat)[36] ?? -1);
  }

  /** Empty when the thread was killed meanwhile. */
  get comm(): string {
    return this.#readTask('comm')?.replace(/\n$/, '') ?? '';
  }

  get cgroup(): bigint {
    const { pid, tid } = this.#live();
    return cgroupOf(pid, tid) ?? 0n;
  }

  #readTask(file: 'stat' | 'comm'): string | undefined {
    const { pid, tid } = this.#live();
    try {
      return decodeUtf8(readFileSync(`/proc/${pid}/task/${tid}/${file}`));
    } catch {
      return undefined;
    }
  }

  arg(n: number): bigint {
    const raw = this.#live();
    const regs = this.#regs;
    // SysV psABI 3.2.3: rdi, rsi, rdx, rcx, r8, r9, then eightbytes on the stack, the first above the return address.
    switch (n) {
      case 0:
        return regs.di;
      case 1:
        return regs.si;
      case 2:
        return regs.dx;
      case 3:
        return regs.cx;
      case 4:
        return regs.r8;
      case 5:
        return regs.r9;
    }
    requireIndex('arg', n, MOST_ARGUMENTS);
    const at = BigInt.asUintN(64, regs.sp + 8n * BigInt(n - 5));
    const bytes = raw.read(at, 8);
    if (bytes === undefined)
      throw new UprobeError(
        'not-readable',
        `argument ${n} would be on the stack at ${hex(at)}, which is not readable`,
      );
    return view(bytes).getBigUint64(0, true);
  }

  floatArg(n: number): number {
    const raw = this.#live();
    requireIndex('floatArg', n, 8);
    return view(raw.floatRegs()).getFloat64(XMM0 + 16 * n, true);
  }

  read(address: bigint, type: ScalarType): bigint | undefined {
    const raw = this.#live();
    const length = SIZES[type];
    if (length === undefined)
      throw new UprobeError(
        'bad-type',
        `read: ${type as string} is not one of ${Object.keys(SIZES).join(', ')}`,
      );
    const bytes = raw.read(toAddress(address), length);
    return bytes === undefined ? undefined : scalar(view(bytes), type);
  }

  readBytes(address: bigint, length: number): Uint8Array | undefined {
    const raw = this.#live();
    requireLength('readBytes', length);
    if (length === 0) return new Uint8Array(0);
    return raw.read(toAddress(address), length);
  }

  readString(address: bigint, max: number = DEFAULT_STRING): string | undefined {
    const raw = this.#live();
    requireLength('readString', max);
    const bytes = readTerminated(raw, toAddress(address), max);
    return bytes === undefined ? undefined : decodeUtf8(bytes);
  }

  write(address: bigint, bytes: Uint8Array): void {
    const raw = this.#live();
    if (!(bytes instanceof Uint8Array))
      throw new UprobeError('bad-bytes', 'write: the bytes must be a Uint8Array');
    if (!raw.alive())
      throw new UprobeError(
        'deadline-passed',
        'the deadline of this hit has passed and its thread has gone on: nothing was written',
      );
    if (bytes.length > 0) raw.write(toAddress(address), bytes);
  }
}

export class PreView extends HitView implements PreHit {
  call: unknown;
}

export class ReturnView extends HitView implements ReturnHit {
  readonly call: unknown;

  constructor(raw: RawHit, uprobe: Uprobe, regs: PtRegs, call: unknown) {
    super(raw, uprobe, regs);
    this.call = call;
  }

  get returnValue(): bigint {
    return this.regs.ax;
  }
  set returnValue(value: bigint | number) {
    this.regs.ax = value;
  }
  get duration(): bigint {
    const { time, entry } = this.live();
    return time - entry.time;
  }
  get entryArgs(): readonly bigint[] {
    return [...this.live().entry.args];
  }
}

export class FaultView extends HitView implements FaultHit {
  readonly #fault: Fault | undefined;

  /** @param fault undefined: a signal of the instruction, which `raw` knows. */
  constructor(raw: RawHit, uprobe: Uprobe, regs: PtRegs, fault: Fault | undefined) {
    super(raw, uprobe, regs);
    this.#fault = fault;
  }

  get fault(): Fault {
    const raw = this.live();
    if (this.#fault !== undefined) return this.#fault;
    const { signal, code, address } = raw.fault;
    return { origin: 'instruction', signal: signalName(signal), code, address };
  }
}

const view = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

const SIZES: Readonly<Record<ScalarType, number>> = {
  u8: 1,
  i8: 1,
  u16: 2,
  i16: 2,
  u32: 4,
  i32: 4,
  u64: 8,
  i64: 8,
};

function scalar(bytes: DataView, type: ScalarType): bigint {
  switch (type) {
    case 'u8':
      return BigInt(bytes.getUint8(0));
    case 'i8':
      return BigInt(bytes.getInt8(0));
    case 'u16':
      return BigInt(bytes.getUint16(0, true));
    case 'i16':
      return BigInt(bytes.getInt16(0, true));
    case 'u32':
      return BigInt(bytes.getUint32(0, true));
    case 'i32':
      return BigInt(bytes.getInt32(0, true));
    case 'u64':
      return bytes.getBigUint64(0, true);
    case 'i64':
      return bytes.getBigInt64(0, true);
  }
}

/** The bytes before the first NUL, at most `max`. Page by page: a string may end just before memory does. */
function readTerminated(raw: RawHit, address: bigint, max: number): Uint8Array | undefined {
  const parts: Uint8Array[] = [];
  for (let done = 0; done < max;) {
    const at = address + BigInt(done);
    const length = Math.min(max - done, Number(PAGE - (at % PAGE)));
    const bytes = raw.read(at, length);
    if (bytes === undefined) return undefined;
    const end = bytes.indexOf(0);
    parts.push(end < 0 ? bytes : bytes.subarray(0, end));
    if (end >= 0) break;
    done += length;
  }
  return parts.length === 1 ? parts[0] : Buffer.concat(parts);
}

/** Addresses are unsigned and 64 bits wide, however they were computed. */
function toAddress(address: bigint): bigint {
  if (typeof address !== 'bigint')
    throw new UprobeError('bad-address', `an address must be a bigint, not ${typeof address}: write 0x1000n`);
  return BigInt.asUintN(64, address);
}

function requireIndex(what: string, n: number, count: number): void {
  if (!Number.isInteger(n) || n < 0 || n >= count)
    throw new UprobeError(
      'bad-argument-number',
      `${what}(${String(n)}): the number must be from 0 to ${count - 1}`,
    );
}

function requireLength(what: string, length: number): void {
  if (!Number.isInteger(length) || length < 0 || length > LONGEST_READ)
    throw new UprobeError(
      'bad-length',
      `${what}: the length must be from 0 to ${LONGEST_READ}, not ${String(length)}`,
    );
}
