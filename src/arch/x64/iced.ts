/**
 * The few functions of iced-x86's WebAssembly module that we need, called directly. Its own JavaScript is 900 KB
 * of classes and enumerations that cost 20 ms of every start to read; and it allocates an object, to be freed by
 * hand, for every value. Here one decoder and one instruction live as long as the process and nothing else is
 * allocated, but for what `ipRelativeAt` and `format` free again.
 *
 * The module's calling convention is that of wasm-bindgen 0.2: arrays are handed over as (pointer, length) of
 * memory from `__wbindgen_malloc`, results that do not fit one value are written at a pointer given first.
 * `selfTest` notices a release that differs.
 */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { UprobeError } from '../../base/errors.js';
import { withExports } from './wasm-exports.js';

/** What we use of the global of that name: @types/node 20 leaves it to the browser's types. */
declare const WebAssembly: {
  readonly Module: {
    new (bytes: Uint8Array): object;
    imports(module: object): readonly { readonly module: string; readonly name: string }[];
  };
  readonly Instance: new (module: object, imports: object) => { readonly exports: unknown };
};

interface Exports {
  readonly memory: { readonly buffer: ArrayBuffer };
  __wbindgen_malloc(size: number, align: number): number;
  __wbindgen_free(pointer: number, size: number, align: number): void;
  __wbg_constantoffsets_free(offsets: number): void;
  decoder_new(result: number, bitness: number, data: number, length: number, options: number): void;
  decoder_set_position(result: number, decoder: number, position: number): void;
  decoder_set_ip(decoder: number, ip: bigint): void;
  decoder_decodeOut(decoder: number, instruction: number): void;
  decoder_getConstantOffsets(decoder: number, instruction: number): number;
  constantoffsets_displacementOffset(offsets: number): number;
  instruction_new(): number;
  instruction_code(instruction: number): number;
  instruction_length(instruction: number): number;
  instruction_isIpRelMemoryOperand(instruction: number): number;
  fastformatter_new(): number;
  fastformatter_format(result: number, formatter: number, instruction: number): void;
  fastformatter_set_useHexPrefix(formatter: number, value: number): void;
  fastformatter_set_uppercaseHex(formatter: number, value: number): void;
  fastformatter_set_ripRelativeAddresses(formatter: number, value: number): void;
}

const EXPORTS: Readonly<Record<keyof Exports, true>> = {
  memory: true,
  __wbindgen_malloc: true,
  __wbindgen_free: true,
  __wbg_constantoffsets_free: true,
  decoder_new: true,
  decoder_set_position: true,
  decoder_set_ip: true,
  decoder_decodeOut: true,
  decoder_getConstantOffsets: true,
  constantoffsets_displacementOffset: true,
  instruction_new: true,
  instruction_code: true,
  instruction_length: true,
  instruction_isIpRelMemoryOperand: true,
  fastformatter_new: true,
  fastformatter_format: true,
  fastformatter_set_useHexPrefix: true,
  fastformatter_set_uppercaseHex: true,
  fastformatter_set_ripRelativeAddresses: true,
};

/** Bytes that can be loaded at once. */
export const WINDOW = 0x1_0000;
/** Up to here a loop copies faster than a call. */
const SHORT = 16;

export class Iced {
  readonly #wasm: Exports;
  readonly #decoder: number;
  readonly #instruction: number;
  /** The decoder's own bytes, which it reads anew for every instruction: what is written here is what it decodes. */
  readonly #window: number;
  #formatter = 0;
  /** Room for a result of two or three words. */
  readonly #result: number;
  #memory: Uint8Array;

  constructor(wasm: Exports) {
    this.#wasm = wasm;
    this.#memory = new Uint8Array(wasm.memory.buffer);
    this.#result = wasm.__wbindgen_malloc(16, 8);
    this.#window = wasm.__wbindgen_malloc(WINDOW, 1);
    wasm.decoder_new(this.#result, 64, this.#window, WINDOW, 0);
    this.#decoder = this.#resultWord(0);
    this.#instruction = wasm.instruction_new();
  }

  /** Put bytes (at most WINDOW of them) where `next` decodes from, and start at the first. */
  load(bytes: Uint8Array): void {
    const memory = this.#bytes();
    if (bytes.length > SHORT) memory.set(bytes, this.#window);
    else for (let i = 0; i < bytes.length; i++) memory[this.#window + i] = bytes[i] as number;
    // The result could only be that position 0 lies outside the window.
    this.#wasm.decoder_set_position(this.#result, this.#decoder, 0);
  }

  /**
   * Decode the next instruction and say how long it is; 0 when it is none. Beyond the bytes loaded it decodes
   * whatever was loaded earlier: a length that reaches there means that the instruction is cut short.
   */
  next(): number {
    this.#wasm.decoder_decodeOut(this.#decoder, this.#instruction);
    // Code.INVALID is 0.
    return this.#wasm.instruction_code(this.#instruction) === 0
      ? 0
      : this.#wasm.instruction_length(this.#instruction);
  }

  /** Of the instruction last decoded: the offset of its 32-bit displacement from rip or eip, or undefined. */
  ipRelativeAt(): number | undefined {
    if (this.#wasm.instruction_isIpRelMemoryOperand(this.#instruction) === 0) return undefined;
    const offsets = this.#wasm.decoder_getConstantOffsets(this.#decoder, this.#instruction);
    try {
      return this.#wasm.constantoffsets_displacementOffset(offsets);
    } finally {
      this.#wasm.__wbg_constantoffsets_free(offsets);
    }
  }

  /** The text of one instruction of the given bytes, at the given address. */
  format(bytes: Uint8Array, address: number): string {
    this.load(bytes);
    this.#wasm.decoder_set_ip(this.#decoder, BigInt(address));
    if (this.next() === 0) return '(bad)';
    this.#formatter ||= this.#newFormatter();
    this.#wasm.fastformatter_format(this.#result, this.#formatter, this.#instruction);
    const text = this.#resultWord(0);
    const length = this.#resultWord(1);
    try {
      return String.fromCharCode(...this.#bytes().subarray(text, text + length));
    } finally {
      this.#wasm.__wbindgen_free(text, length, 1);
    }
  }

  #newFormatter(): number {
    const formatter = this.#wasm.fastformatter_new();
    this.#wasm.fastformatter_set_useHexPrefix(formatter, 1);
    this.#wasm.fastformatter_set_uppercaseHex(formatter, 0);
    this.#wasm.fastformatter_set_ripRelativeAddresses(formatter, 1);
    return formatter;
  }

  #resultWord(index: number): number {
    return new DataView(this.#wasm.memory.buffer).getUint32(this.#result + 4 * index, true);
  }

  /** The module's memory: a view of it dies whenever the module grows it. */
  #bytes(): Uint8Array {
    if (this.#memory.byteLength === 0) this.#memory = new Uint8Array(this.#wasm.memory.buffer);
    return this.#memory;
  }
}

let loaded: Iced | undefined;

/** The decoder, loaded when first asked for (about 20 ms). */
export function iced(): Iced {
  return (loaded ??= load());
}

function load(): Iced {
  const path = createRequire(import.meta.url).resolve('iced-x86/iced_x86_bg.wasm');
  let cause: unknown;
  try {
    const made = new Iced(instantiate(readFileSync(path)));
    if (passesSelfTest(made)) return made;
  } catch (e) {
    cause = e;
  }
  const message = `${path} is not the release of iced-x86 this program was written for: install iced-x86 1.21.0`;
  throw new UprobeError('wrong-decoder', message, { cause });
}

function instantiate(bytes: Buffer): Exports {
  // V8 compiles each function when it is first called (its default since version 11): compiling all takes 50 ms.
  const module = new WebAssembly.Module(withExports(bytes, new Set(Object.keys(EXPORTS))));
  const imports: Record<string, Record<string, () => never>> = {};
  for (const { module: from, name } of WebAssembly.Module.imports(module)) {
    // All of them make JavaScript objects for functions we do not call, or throw.
    (imports[from] ??= {})[name] = () => {
      throw new Error(`iced-x86 failed in ${name}`);
    };
  }
  return new WebAssembly.Instance(module, imports).exports as Exports;
}

/** `mov dword ptr [rip+0x12345678],1`: its length and displacement prove the calling convention. */
const SELF_TEST = Uint8Array.of(0xc7, 0x05, 0x78, 0x56, 0x34, 0x12, 1, 0, 0, 0);

function passesSelfTest(made: Iced): boolean {
  made.load(SELF_TEST);
  return made.next() === SELF_TEST.length && made.ipRelativeAt() === 2;
}
