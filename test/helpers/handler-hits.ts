/** Hits over a few bytes of memory, for handlers that are run without any program to probe. */
import { decodeUtf8 } from '#uprobe/base/utf8.js';
import { REGISTERS } from '#uprobe/handler/ir.js';
import type { IntType, Register } from '#uprobe/handler/ir.js';

/** Where the memory is; everything else is unreadable. */
export const MEMORY = 0x1000n;

export interface HitValues {
  readonly args: readonly bigint[];
  readonly memory: Uint8Array;
  readonly pid?: number;
  readonly tid?: number;
  readonly cpu?: number;
  readonly comm?: string;
  readonly time?: bigint;
  readonly cgroup?: bigint;
  readonly uprobe?: { readonly id: number };
  readonly returnValue?: bigint;
  readonly duration?: bigint;
  readonly entryArgs?: readonly bigint[];
  readonly call?: bigint | undefined;
}

const ARGUMENTS = ['di', 'si', 'dx', 'cx', 'r8', 'r9'] as const;

type Words = Record<string, bigint>;

/** Registers that remember which of them were written. */
class FakeRegs {
  readonly words: Words;
  readonly written: Words = {};
  constructor(words: Words) {
    this.words = words;
  }
  static {
    for (const name of REGISTERS)
      Object.defineProperty(this.prototype, name, {
        get(this: FakeRegs) {
          return this.words[name];
        },
        set(this: FakeRegs, value: bigint | number) {
          this.words[name] = this.written[name] = BigInt.asUintN(64, BigInt(value));
        },
      });
  }
}

const START: Words = Object.fromEntries(REGISTERS.map((name, i) => [name, BigInt(i) * 0x1111n]));

/** What a plain handler would be given. The seventh argument and those behind it are on a stack that is as long as `args`. */
export class FakeHit {
  readonly regs: Record<Register, bigint>;
  /** Registers that were written, as they were left. */
  readonly written: Readonly<Words>;
  call: bigint | undefined;
  readonly #values: HitValues;

  constructor(values: HitValues) {
    this.#values = values;
    this.call = values.call;
    const words = { ...START };
    for (const [i, name] of ARGUMENTS.entries()) words[name] = values.args[i] ?? 0n;
    if (values.returnValue !== undefined) words['ax'] = values.returnValue;
    const regs = new FakeRegs(words);
    this.regs = regs as unknown as Record<Register, bigint>;
    this.written = regs.written;
  }

  get pid(): number {
    return this.#values.pid ?? 42;
  }
  get tid(): number {
    return this.#values.tid ?? 43;
  }
  get cpu(): number {
    return this.#values.cpu ?? 1;
  }
  get comm(): string {
    return this.#values.comm ?? 'redis-server';
  }
  get time(): bigint {
    return this.#values.time ?? 1_000_000_000n;
  }
  get cgroup(): bigint {
    return this.#values.cgroup ?? 77n;
  }
  get uprobe(): { readonly id: number } {
    return this.#values.uprobe ?? { id: 3 };
  }
  get returnValue(): bigint {
    return this.regs.ax;
  }
  set returnValue(value: bigint) {
    this.regs.ax = value;
  }
  get duration(): bigint {
    return this.#values.duration ?? 1234n;
  }
  get entryArgs(): readonly bigint[] {
    return this.#values.entryArgs ?? this.#values.args.slice(0, 6);
  }

  arg(n: number): bigint {
    const register = ARGUMENTS[n];
    if (register !== undefined) return this.regs[register];
    const value = this.#values.args[n];
    if (value === undefined) throw new Error('the argument is not readable');
    return value;
  }
  floatArg(n: number): number {
    return n + 0.5;
  }
  #bytes(address: bigint, length: number): Uint8Array | undefined {
    const at = BigInt.asUintN(64, address) - MEMORY;
    const { memory } = this.#values;
    if (at < 0n || at + BigInt(length) > memory.length) return undefined;
    return memory.subarray(Number(at), Number(at) + length);
  }
  read(address: bigint, type: IntType): bigint | undefined {
    const bits = Number(type.slice(1));
    const found = this.#bytes(address, bits / 8);
    if (found === undefined) return undefined;
    const value = BigInt(`0x${Buffer.from(found).reverse().toString('hex')}`);
    return type.startsWith('i') ? BigInt.asIntN(bits, value) : value;
  }
  readBytes(address: bigint, length: number): Uint8Array | undefined {
    return this.#bytes(address, length);
  }
  readString(address: bigint, max = 256): string | undefined {
    if (max === 0) return '';
    const at = BigInt.asUintN(64, address);
    const room = MEMORY + BigInt(this.#values.memory.length) - at;
    if (room <= 0n) return undefined;
    const bytes = this.#bytes(at, Number(room < BigInt(max) ? room : BigInt(max)));
    const end = bytes?.indexOf(0) ?? -1;
    if (bytes === undefined || (end < 0 && bytes.length < max)) return undefined;
    return decodeUtf8(end < 0 ? bytes : bytes.subarray(0, end));
  }
}
