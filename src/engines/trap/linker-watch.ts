/**
 * Noticing that a program maps or unmaps a file. Nearly all of that is done by the dynamic linker, at start-up and in
 * dlopen and dlclose, through its own two system call stubs, which load the call's number and enter the kernel:
 * breakpoints on these tell us of every mapping before an instruction in it has run, and cost nothing otherwise.
 */
import { readFileSync } from 'node:fs';
import type { SlotTemplate } from '../../arch/arch.js';
import { NR } from '../../linux/numbers.js';
import type { Mapping } from '../../process/maps.js';
import type { AddressSpace, ArmRequest, MappingCall } from './address-space.js';

const AT_ENTRY = 9;
const AT_BASE = 7;
const MAX_TEXT = 64 << 20;

/** `mov eax, nr` followed by `syscall`. */
const stub = (nr: number): Uint8Array => Uint8Array.of(0xb8, nr, 0, 0, 0, 0x0f, 0x05);
const LOAD_LENGTH = 5;

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
  const text = linkerText(space.shownBy, maps);
  if (text === undefined || text.end - text.start > MAX_TEXT) return [];
  const bytes = space.memory.read(text.start, text.end - text.start);
  if (bytes === undefined) return [];
  const map = findStubs(bytes, text.start, NR.mmap, 'map');
  return map.length === 0 ? [] : [...map, ...findStubs(bytes, text.start, NR.munmap, 'unmap')];
}

function findStubs(bytes: Uint8Array, start: number, nr: number, watch: MappingCall): ArmRequest[] {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const pattern = stub(nr);
  const found: ArmRequest[] = [];
  for (let at = text.indexOf(pattern); at >= 0; at = text.indexOf(pattern, at + 1)) {
    const address = start + at;
    found.push({
      address,
      bytes: pattern.subarray(0, LOAD_LENGTH),
      template: loadTemplate(nr),
      want: undefined,
      watch,
    });
  }
  return found;
}

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
