/**
 * Noticing system calls of a program that concern us: breakpoints on the stubs in its libraries that load the call's number
 * and enter the kernel. They cost nothing where the call is not made. Nearly all mapping and unmapping of files is done by
 * the dynamic linker, at start-up and in dlopen and dlclose, through two stubs of its own: so we are told of every mapping
 * before an instruction in it has run.
 */
import { readFileSync } from 'node:fs';
import type { SlotTemplate } from '../../arch/arch.js';
import { NR } from '../../linux/numbers.js';
import type { Mapping } from '../../process/maps.js';
import type { AddressSpace, ArmRequest, WatchedCall } from './address-space.js';

const AT_ENTRY = 9;
const AT_BASE = 7;
const MAX_TEXT = 64 << 20;

/** A stub: its load of the number, followed by `syscall`. */
const SYSCALL = [0x0f, 0x05] as const;
/** `mov eax, nr` */
const load = (nr: number): Uint8Array => Uint8Array.of(0xb8, nr, 0, 0, 0);
/** `mov rax, nr`: how debuggers know the end of a signal handler, which is why all libraries write it so. */
const LOAD_SIGRETURN = Uint8Array.of(0x48, 0xc7, 0xc0, NR.rtSigreturn, 0, 0, 0);
/** Bytes of a stub that begins with a load like the first one. */
export const STUB_LENGTH = load(0).length + SYSCALL.length;

/** The load, and a jump back. */
function loadTemplate(bytes: Uint8Array): SlotTemplate {
  const { length } = bytes;
  return {
    length,
    code: Uint8Array.of(...bytes, 0xe9, 0, 0, 0, 0),
    rel32: [{ at: length + 1, end: length + 5, delta: length }],
    abs64: [],
    stops: [
      { at: 0, resume: 0, undoSp: 0 },
      { at: length, resume: length, undoSp: 0 },
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
  const find = (nr: number, watch: WatchedCall): ArmRequest[] =>
    stubsAt(findStubs(bytes, load(nr)), text.start, load(nr), watch);
  const map = find(NR.mmap, 'map');
  return map.length === 0 ? [] : [...map, ...find(NR.munmap, 'unmap')];
}

/** Libraries whose sigaction is the program's, whatever they are called besides. */
const C_LIBRARY = /\/(?:libc|libpthread)[.-][^/]*$/;
/** Where the stubs are in a mapping of a file: it is looked through once. */
const known = new Map<string, Stubs>();

interface Stubs {
  readonly actions: readonly number[];
  readonly masks: readonly number[];
  readonly returns: readonly number[];
}
const NO_STUBS: Stubs = { actions: [], masks: [], returns: [] };

/** Breakpoints for the stubs of sigaction and sigprocmask in the C library, or in the program itself where it has none. */
export function signalStubs(space: AddressSpace, maps: readonly Mapping[]): ArmRequest[] {
  const libraries = maps.filter((m) => m.perms[2] === 'x' && m.ino !== 0n && C_LIBRARY.test(m.path));
  const itself = libraries.length > 0 ? undefined : linkerText(space.pid, maps);
  const texts = itself === undefined ? libraries : [itself];
  return texts.flatMap((text) => {
    const { actions, masks, returns } = stubsOf(space, text);
    const action = stubsAt(actions, text.start, load(NR.rtSigaction), 'sigaction');
    if (!space.watchesMasks) return action;
    return [
      ...action,
      ...stubsAt(masks, text.start, load(NR.rtSigprocmask), 'sigmask'),
      ...stubsAt(returns, text.start, LOAD_SIGRETURN, 'sigreturn'),
    ];
  });
}

function stubsOf(space: AddressSpace, text: Mapping): Stubs {
  const key = `${text.dev} ${text.ino} ${text.offset}`;
  const found = known.get(key);
  if (found !== undefined || text.end - text.start > MAX_TEXT) return found ?? NO_STUBS;
  const bytes = space.memory.read(text.start, text.end - text.start);
  if (bytes === undefined) return NO_STUBS;
  const stubs = {
    actions: findStubs(bytes, load(NR.rtSigaction)),
    masks: findStubs(bytes, load(NR.rtSigprocmask)),
    returns: findStubs(bytes, LOAD_SIGRETURN),
  };
  known.set(key, stubs);
  return stubs;
}

function findStubs(bytes: Uint8Array, loading: Uint8Array): number[] {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const pattern = Uint8Array.of(...loading, ...SYSCALL);
  const found: number[] = [];
  for (let at = text.indexOf(pattern); at >= 0; at = text.indexOf(pattern, at + 1)) found.push(at);
  return found;
}

const stubsAt = (
  offsets: readonly number[],
  start: number,
  loading: Uint8Array,
  watch: WatchedCall,
): ArmRequest[] =>
  offsets.map((offset) => ({
    address: start + offset,
    bytes: loading,
    template: loadTemplate(loading),
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
