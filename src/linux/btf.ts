/** The kernel's own types (/sys/kernel/btf/vmlinux; Documentation/bpf/btf.rst), only as far as functions have numbers there. */
import { readFileSync } from 'node:fs';

const VMLINUX = '/sys/kernel/btf/vmlinux';
const MAGIC = 0xeb9f;
const KIND_FUNC = 12;
/** Bytes behind the twelve of each type, by its kind: so many, and so many more for each member. */
// prettier-ignore
const BEHIND: readonly (readonly [fixed: number, each: number])[] = [
  [0, 0], [4, 0], [0, 0], [12, 0], [0, 12], [0, 12], [0, 8], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 8],
  [4, 0], [0, 12], [0, 0], [4, 0], [0, 0], [0, 12],
];

/** The numbers of functions that programs may call; undefined where one is not there. */
export function kernelFunctions(names: readonly string[]): number[] | undefined {
  let file: Buffer;
  try {
    file = readFileSync(VMLINUX);
  } catch {
    return undefined; // a kernel without them
  }
  if (file.readUInt16LE(0) !== MAGIC) return undefined;
  const header = file.readUInt32LE(4);
  const types = file.subarray(header + file.readUInt32LE(8)).subarray(0, file.readUInt32LE(12));
  const strings = file.subarray(header + file.readUInt32LE(16)).subarray(0, file.readUInt32LE(20));
  const wanted = names.map((name) => strings.indexOf(`\0${name}\0`) + 1);
  if (wanted.includes(0)) return undefined;
  const found = functionsNamed(types, new Set(wanted));
  const ids = wanted.map((name) => found.get(name));
  return ids.every((id) => id !== undefined) ? ids : undefined;
}

/** By the offsets of their names. */
function functionsNamed(types: Uint8Array, names: ReadonlySet<number>): Map<number, number> {
  const view = new DataView(types.buffer, types.byteOffset, types.byteLength);
  const found = new Map<number, number>();
  const length = types.length;
  for (let id = 1, at = 0; at + 12 <= length && found.size < names.size; id++) {
    const info = view.getUint32(at + 4, true);
    const kind = (info >>> 24) & 0x1f;
    if (kind === KIND_FUNC) {
      const name = view.getUint32(at, true);
      if (names.has(name)) found.set(name, id);
    }
    const behind = BEHIND[kind];
    if (behind === undefined) break; // a kind that did not exist when this was written
    at += 12 + behind[0] + behind[1] * (info & 0xffff);
  }
  return found;
}
