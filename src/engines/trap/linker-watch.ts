/**
 * Noticing system calls of a program that concern us: breakpoints on the stubs in its libraries that load the call's number
 * and enter the kernel. They cost nothing where the call is not made.
 *
 * Noticing that a program maps or unmaps a file. Nearly all of that is done by the dynamic linker, at start-up and in
 * dlopen and dlclose, through its own two system call stubs, which load the call's number and enter the kernel:
 * breakpoints on these tell us of every mapping before an instruction in it has run, and cost nothing otherwise.
 */
import { readFileSync } from 'node:fs';
import type { SlotTemplate } from '../../arch/arch.js';
import { NR } from '../../linux/numbers.js';
import type { Mapping } from '../../process/maps.js';
import type { AddressSpace, ArmRequest, WatchedCall } from './address-space.js';

const AT_ENTRY = 9;
const AT_BASE = 7;
const MAX_TEXT = 64 << 20;

/** `mov eax, nr` followed by `syscall`. */
const stub = (nr: number): Uint8Array => Uint8Array.of(0xb8, nr, 0, 0, 0, 0x0f, 0x05);
const LOAD_LENGTH = 5;
/** A stub: the load and the system call. */
export const STUB_LENGTH = LOAD_LENGTH + 2;

/** `mov eax, nr; jmp back`. */
function loadTemplate(nr: number): SlotTemplate {
  return {
    length: LOAD_LENGTH,
    code: Uint8Array.of(0xb8, nr, 0, 0, 0, 0xe9, 0, 0, 0, 0),
    rel32: [{ at: LOAD_LENGTH + 1, end: LOAD_LENGTH + 5, delta: LOAD_LENGTH }],
    abs64: [],
    stops: [
      { at: 0, resume: 0, undoSp: 0 },
      { at: LOAD_LENGTH, resume: LOAD_LENGTH, undoSp: 0 },
    ],
    pushesFlags: false,
  };
}

/** Breakpoints for the linker's stubs, or none when it has no such code (musl's differs) and calls must be traced. */
export function linkerStubs(space: AddressSpace, maps: readonly Mapping[]): ArmRequest[] {
  const text = linkerText(space.pid, maps);
  if (text === undefined || text.end - text.start > MAX_TEXT) return [];
  const bytes = space.memory.read(text.start, text.end - text.start);
  if (bytes === undefined) return [];
  const map = stubsAt(findStubs(bytes, NR.mmap), text.start, NR.mmap, 'map');
  if (map.length === 0) return [];
  return [...map, ...stubsAt(findStubs(bytes, NR.munmap), text.start, NR.munmap, 'unmap')];
}

/** Libraries whose sigaction is the program's, whatever they are called besides. */
const C_LIBRARY = /\/(?:libc|libpthread)[.-][^/]*$/;
/** Where the stubs are in a mapping of a file: it is looked through once. */
const known = new Map<string, readonly number[]>();

/** Breakpoints for the stub of sigaction in the C library, or in the program itself where it has none. */
export function actionStubs(space: AddressSpace, maps: readonly Mapping[]): ArmRequest[] {
  const libraries = maps.filter((m) => m.perms[2] === 'x' && m.ino !== 0n && C_LIBRARY.test(m.path));
  const itself = libraries.length > 0 ? undefined : linkerText(space.pid, maps);
  const texts = itself === undefined ? libraries : [itself];
  return texts.flatMap((text) => {
    const key = `${text.dev} ${text.ino} ${text.offset}`;
    let offsets = known.get(key);
    if (offsets === undefined && text.end - text.start <= MAX_TEXT) {
      const bytes = space.memory.read(text.start, text.end - text.start);
      if (bytes !== undefined) known.set(key, (offsets = findStubs(bytes, NR.rtSigaction)));
    }
    return stubsAt(offsets ?? [], text.start, NR.rtSigaction, 'sigaction');
  });
}

function findStubs(bytes: Uint8Array, nr: number): number[] {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const pattern = stub(nr);
  const found: number[] = [];
  for (let at = text.indexOf(pattern); at >= 0; at = text.indexOf(pattern, at + 1)) found.push(at);
  return found;
}

const stubsAt = (offsets: readonly number[], start: number, nr: number, watch: WatchedCall): ArmRequest[] =>
  offsets.map((offset) => ({
    address: start + offset,
    bytes: stub(nr).subarray(0, LOAD_LENGTH),
    template: loadTemplate(nr),
    want: undefined,
    watch,
  }));

/** The executable mapping of the dynamic linker; of the program itself when it has none (static, or the linker run as a program). */
function linkerText(pid: number, maps: readonly Mapping[]): Mapping | undefined {
  const aux = auxiliaryVector(pid);
  const base = aux.get(AT_BASE) ?? 0;
  const inside = base === 0 ? (aux.get(AT_ENTRY) ?? 0) : base;
  const file = maps.find((m) => inside >= m.start && inside < m.end);
  if (file === undefined || file.ino === 0n) return undefined;
  return maps.find(
    (m) => m.perms[2] === 'x' && m.ino === file.ino && m.dev === file.dev && (base === 0 || m.start >= base),
  );
}

function auxiliaryVector(pid: number): Map<number, number> {
  const bytes = readFileSync(`/proc/${pid}/auxv`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const result = new Map<number, number>();
  for (let at = 0; at + 16 <= bytes.length; at += 16) {
    result.set(Number(view.getBigUint64(at, true)), Number(view.getBigUint64(at + 8, true)));
  }
  return result;
}
