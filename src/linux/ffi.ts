/**
 * The only importer of the foreign function interface: raw system calls and raw memory, for the other files of this
 * room. Nothing from here leaves `linux/`.
 */
import koffi from 'koffi';

const libc = koffi.load(null);

/** A pointer argument: an address, or a view whose memory stays put for the length of the call. */
export type Pointer = number | bigint | ArrayBufferView | null;

const signature = (args: string[]): ((...args: unknown[]) => number) =>
  libc.func('syscall', 'long', ['long', ...args]) as (...args: unknown[]) => number;

const rawInts = signature(['long', 'long', 'long', 'long', 'long', 'long']);
const rawPointer1 = signature(['void *', 'long', 'long', 'long', 'long', 'long']);
const rawPointer2 = signature(['long', 'void *', 'long', 'long', 'long', 'long']);
const rawPointer3 = signature(['long', 'long', 'void *', 'long', 'long', 'long']);
const rawPointer4 = signature(['long', 'long', 'long', 'void *', 'long', 'long']);

type Int = number | bigint;

/** syscall(2) with integers (addresses among them): the result, or minus the errno. */
export function syscall(
  nr: number,
  a: Int = 0,
  b: Int = 0,
  c: Int = 0,
  d: Int = 0,
  e: Int = 0,
  f: Int = 0,
): number {
  const result = rawInts(nr, a, b, c, d, e, f);
  return result === -1 ? -koffi.errno() : result;
}

const pointerForms = [rawPointer1, rawPointer2, rawPointer3, rawPointer4] as const;

/** syscall(2) whose argument number `position` (0–3) is memory of ours. */
export function syscallWithMemory(
  nr: number,
  position: 0 | 1 | 2 | 3,
  args: readonly (Int | ArrayBufferView | null)[],
): number {
  const six = [0, 1, 2, 3, 4, 5].map((i) => args[i] ?? (i === position ? null : 0));
  const result = pointerForms[position](nr, ...six);
  return result === -1 ? -koffi.errno() : result;
}

/** The bytes at an address of this process, as an ArrayBuffer without a copy. The memory must outlive the view. */
export function viewMemory(address: number, length: number): ArrayBuffer {
  return koffi.view(address, length);
}

/** A callable for machine code of ours at `address`; `prototype` is written as in C. */
export function functionAt(address: number, prototype: string): (...args: number[]) => number {
  return koffi.decode(address, koffi.proto(prototype)) as (...args: number[]) => number;
}
