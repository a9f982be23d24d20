/** x86-64, 64-bit mode. */
import type { VirtualAddress } from '../../base/address.js';
import type { Arch, CodeReference, Displaced, Instruction } from '../arch.js';
import { displace } from './displace.js';
import { iced, WINDOW } from './iced.js';
import { referenceOf } from './references.js';
import { plainLength } from './plain-length.js';
import { countPadding } from './padding.js';
import { mayBeReturnAddress } from './return-address.js';

/** Intel SDM vol. 2, 2.3.11: longer ones raise #GP. */
const MAX_INSTRUCTION = 15;

export const x64: Arch = {
  name: 'x64',
  breakpoint: Uint8Array.of(0xcc),
  maxInstruction: MAX_INSTRUCTION,

  decode(bytes: Uint8Array, address: VirtualAddress): Instruction | undefined {
    const length = plainLength(bytes) ?? decodedLength(bytes);
    if (length === 0 || length > bytes.length) return undefined;
    return { address, bytes: shared(bytes, length) };
  },

  format: ({ bytes, address }: Instruction): string => iced().format(bytes, address),

  boundaries(code: Uint8Array): { readonly starts: Uint32Array; readonly end: number } {
    const decoder = iced();
    const starts = new GrowingUint32Array();
    let at = 0;
    while (at < code.length) {
      const window = code.subarray(at, at + WINDOW);
      decoder.load(window);
      const isLast = at + window.length === code.length;
      const stop = at + (isLast ? window.length : window.length - MAX_INSTRUCTION);
      while (at < stop) {
        const length = decoder.next();
        if (length === 0 || at + length > code.length) return { starts: starts.toArray(), end: at };
        starts.push(at);
        at += length;
      }
    }
    return { starts: starts.toArray(), end: at };
  },

  // Intel SDM 2A: ENDBR64
  isLandingPad: ({ bytes }) => Buffer.compare(bytes, ENDBR64) === 0,

  reference: ({ bytes, address }: Instruction): CodeReference | undefined => referenceOf(bytes, address),
  countPadding: (code, { starts, end }) => countPadding(code, starts, end),

  mayBeReturnAddress: (address, before) => mayBeReturnAddress(iced(), address, before),
  displace: ({ bytes }: Instruction): Displaced => displace(iced(), bytes),
};

function decodedLength(bytes: Uint8Array): number {
  const decoder = iced();
  decoder.load(bytes.length > MAX_INSTRUCTION ? copyOf(bytes, MAX_INSTRUCTION) : bytes);
  return decoder.next();
}

const ENDBR64 = Uint8Array.of(0xf3, 0x0f, 0x1e, 0xfa);

/**
 * The first bytes. Not a view, which would take all of the file's bytes along to the tracer thread; nor slice(),
 * which makes a view when it is Buffer's.
 */
function copyOf(bytes: Uint8Array, length: number): Uint8Array {
  const copy = new Uint8Array(length);
  for (let i = 0; i < length; i++) copy[i] = bytes[i] as number;
  return copy;
}

/** Most instructions are short, and functions begin with the same few: these are kept once, by their bytes as a number. */
const SHORT = 6;
const MOST_SHARED = 4096;
const known = new Map<number, Uint8Array>();

function shared(bytes: Uint8Array, length: number): Uint8Array {
  if (length > SHORT) return copyOf(bytes, length);
  let key = length;
  for (let i = 0; i < length; i++) key = key * 256 + (bytes[i] as number);
  let found = known.get(key);
  if (found === undefined) {
    if (known.size >= MOST_SHARED) known.clear();
    known.set(key, (found = copyOf(bytes, length)));
  }
  return found;
}

/** A Uint32Array of unknown length: a whole program's text has millions of instructions. */
class GrowingUint32Array {
  #items = new Uint32Array(256);
  #length = 0;

  push(item: number): void {
    if (this.#length === this.#items.length) {
      const larger = new Uint32Array(this.#length * 2);
      larger.set(this.#items);
      this.#items = larger;
    }
    this.#items[this.#length++] = item;
  }

  toArray(): Uint32Array {
    return this.#items.slice(0, this.#length);
  }
}
