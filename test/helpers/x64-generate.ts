/** Random instructions for the slots' property tests, as bytes. */
import { DATA, SITE, SIZE } from './x64-slots.js';
import type { Random } from './random.js';

export type Generator = (random: Random) => number[];

const le32 = (n: number): number[] => [n & 255, (n >> 8) & 255, (n >> 16) & 255, (n >> 24) & 255];
const rex = (random: Random): number[] => (random.once(2) ? [0x40 | random.below(16)] : []);
const hint = (random: Random): number[] => random.pick([[], [], [0x3e], [0xf2], [0x2e], [0x65]]);
/** A displacement from the middle of the site's region to some of the data, its ends included. */
const toData = (random: Random): number[] => le32(DATA - SITE - 0xc00 + random.below(SIZE));
/** A branch to another place: into or onto itself it would not end, or run bytes that a breakpoint replaces. */
const away8 = (random: Random): number => random.pick([0x10, 0x30, 0x7f, 0x80, 0xa0, 0xe0]);
const away32 = (random: Random): number[] =>
  le32(random.pick([0, 0x40, -0x200, 0x300, 0x0400_0000, -0x2000_0000, 0x1200_0000]));

/** ModRM and what follows, with `reg`, for a memory operand. */
function memory(random: Random, reg: number): number[] {
  const mod = random.below(3);
  const rm = random.below(8);
  const modrm = (mod << 6) | (reg << 3) | rm;
  if (mod === 0 && rm === 5) return [modrm, ...toData(random)];
  const sib = rm === 4 ? [random.pick([0x24, 0x24, random.below(256)])] : [];
  const isBare = mod === 0 && ((sib[0] ?? 0) & 7) === 5 && rm === 4;
  if (isBare) return [modrm, ...sib, ...le32(DATA + random.below(SIZE))];
  const displacement = [[], [random.below(256)], le32(random.below(0x400) - 0x200)][mod] ?? [];
  return [modrm, ...sib, ...displacement];
}

const register = (random: Random, reg: number): number[] => [0xc0 | (reg << 3) | random.below(8)];
const operand = (random: Random, reg: number): number[] =>
  random.once(3) ? register(random, reg) : memory(random, reg);

export const generators: Readonly<Record<string, Generator>> = {
  'short conditional jumps': (r) => [...hint(r), 0x70 | r.below(16), away8(r)],
  'near conditional jumps': (r) => [...hint(r), 0x0f, 0x80 | r.below(16), ...away32(r)],
  'loop, loope, loopne and jrcxz': (r) => [
    ...r.pick([[], [0x67], [0x48], [0x66, 0x48]]),
    0xe0 | r.below(4),
    away8(r),
  ],
  'short jumps': (r) => [...hint(r), 0xeb, away8(r)],
  'near jumps': (r) => [...hint(r), 0xe9, ...away32(r)],
  'near calls': (r) => [...r.pick([[], [0xf2], [0x66, 0x66, 0x48]]), 0xe8, ...away32(r)],
  'calls through registers': (r) => [...hint(r), ...rex(r), 0xff, ...register(r, 2)],
  'calls through memory': (r) => [...hint(r), ...r.pick([[], [0x67]]), ...rex(r), 0xff, ...memory(r, 2)],
  'calls relative to rip': (r) => [...hint(r), ...rex(r), 0xff, 0x15, ...toData(r)],
  'calls relative to rsp': (r) => [
    0xff,
    ...r.pick([
      [0x14, 0x24],
      [0x54, 0x24, r.below(256)],
    ]),
  ],
  'calls relative to rsp, far': (r) => [0xff, 0x94, 0x24, ...le32(r.below(0x800) - 0x400)],
  'calls through tables on the stack': (r) => [0xff, 0x54, 0xcc, 0x10 + 8 * r.below(8)],
  'jumps through registers': (r) => [...hint(r), ...rex(r), 0xff, ...register(r, 4)],
  'jumps through memory': (r) => [...hint(r), ...rex(r), 0xff, ...memory(r, 4)],
  'jumps relative to rip': (r) => [...hint(r), 0xff, 0x25, ...toData(r)],
  returns: (r) =>
    r.pick([[0xc3], [0xf3, 0xc3], [0xf2, 0xc3], [0x48, 0xc3], [0xc2, r.below(256), r.below(4)]]),
  'push and pop of registers': (r) => [...r.pick([[], [0x66], [0x41]]), 0x50 | r.below(16)],
  'push and pop of memory': (r) => [
    ...r.pick([[], [0x66], [0x41], [0x64]]),
    ...(r.once(2) ? [0xff, ...memory(r, 6)] : [0x8f, ...memory(r, 0)]),
  ],
  'push of immediates and flags': (r) =>
    r.pick([[0x6a, r.below(256)], [0x68, ...r.bytes(4)], [0x9c], [0x66, 0x9c]]),
  'enter and leave': (r) => r.pick([[0xc9], [0xc8, r.below(256), r.below(2), r.below(4)]]),
  'operands relative to rip': ripRelative,
  'operands relative to rip, VEX': (r) => {
    // pmulld, paddd, vmovdqu, vbroadcastss, vpshufd imm8, vinserti128 imm8, vmovdqu store, blsr, rorx imm8
    const [map, pp, op, immediate, w, l = r.below(2)] = r.pick([
      [2, 1, 0x40, 0, 0],
      [1, 1, 0xfe, 0, 0],
      [1, 2, 0x6f, 0, 0],
      [2, 1, 0x18, 0, 0],
      [1, 1, 0x70, 1, 0],
      [3, 1, 0x38, 1, 0, 1],
      [1, 2, 0x7f, 0, 0],
      [2, 0, 0xf2, 0, 1, 0],
      [3, 3, 0xf0, 1, 1, 0],
    ] as [number, number, number, number, number, number?][]);
    const hasNoSource = [0x6f, 0x7f, 0x18, 0x70, 0xf0].includes(op);
    const vvvv = hasNoSource ? 0xf : r.below(16);
    const modrm = ((op === 0xf2 ? 1 : r.below(8)) << 3) | 5;
    const start = [0xc4, 0x60 | (r.below(2) << 7) | map, (w << 7) | (vvvv << 3) | (l << 2) | pp];
    return [...start, op, modrm, ...toData(r), ...(immediate ? [r.below(256)] : [])];
  },
  'string instructions': (r) => [
    ...r.pick([[], [0xf3], [0xf2], [0xf3, 0x67], [0xf3, 0x64], [0xf3, 0x66]]),
    ...r.pick([[], [0x48]]),
    r.pick([0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf]),
  ],
  'locked instructions': (r) => [
    0xf0,
    ...rex(r),
    ...r.pick([[0x01], [0x29], [0x31], [0x0f, 0xb1], [0x0f, 0xc1], [0x0f, 0xab], [0x87]]),
    ...memory(r, r.below(8)),
  ],
  'what faults': (r) =>
    r.pick([
      [0x0f, 0x0b],
      [0x0f, 0xff, 0xc0],
      [0xf6, ...operand(r, 6)],
      [0x8e, 0xd8],
      [0x48, 0xf7, 0xf1],
    ]),
  'one-byte opcodes': (r) => opcode(r, [r.below(256)]),
  'two-byte opcodes': (r) => opcode(r, [0x0f, r.below(256)]),
  'three-byte opcodes': (r) => opcode(r, [0x0f, r.pick([0x38, 0x3a]), r.below(256)]),
  'VEX opcodes': (r) => [
    ...(r.once(3) ? [0xc5, r.below(256)] : [0xc4, (r.below(8) << 5) | r.pick([1, 2, 3]), r.below(256)]),
    r.below(256),
    ...operand(r, r.below(8)),
    ...r.bytes(1),
  ],
  'EVEX opcodes': (r) => [
    0x62,
    (r.below(16) << 4) | r.pick([1, 2, 3]),
    r.below(256) | 4,
    r.below(256),
    r.below(256),
    ...operand(r, r.below(8)),
    ...r.bytes(1),
  ],
};

function ripRelative(r: Random): number[] {
  const modrm = (r.below(8) << 3) | 5;
  const body = r.pick([
    [0x8b, modrm, ...toData(r)], // mov
    [0x8d, modrm, ...toData(r)], // lea
    [0x89, modrm, ...toData(r)],
    [0x01, modrm, ...toData(r)],
    [0x81, modrm, ...toData(r), ...r.bytes(4)], // with a 32-bit immediate behind
    [0x83, modrm, ...toData(r), ...r.bytes(1)],
    [0xc7, 0x05, ...toData(r), ...r.bytes(4)],
    [0xc6, 0x05, ...toData(r), ...r.bytes(1)],
    [0xf7, 0x05, ...toData(r), ...r.bytes(4)], // test
    [0x0f, 0xb6, modrm, ...toData(r)], // movzx
    [0x0f, 0xb1, modrm, ...toData(r)], // cmpxchg
    [0x0f, 0xa4, modrm, ...toData(r), ...r.bytes(1)], // shld
    [0x0f, 0x28, modrm, ...toData(r)], // movaps
    [0x0f, 0x3a, 0x0f, modrm, ...toData(r), ...r.bytes(1)], // palignr
    [0x69, modrm, ...toData(r), ...r.bytes(4)], // imul
    [0xff, 0x35, ...toData(r)], // push
    [0x8f, 0x05, ...toData(r)], // pop
    [0xdd, 0x05, ...toData(r)], // fld
  ]);
  return [...r.pick([[], [0x64]]), ...rex(r), ...body];
}

/** Any operands, and more bytes than it can have. */
function opcode(r: Random, bytes: readonly number[]): number[] {
  const prefixes = r.pick([[], [], [], [0x66], [0xf2], [0xf3], [0x67], [0x64], [0xf0]]);
  return [...prefixes, ...rex(r), ...bytes, ...operand(r, r.below(8)), ...r.bytes(8)];
}
