/** What a sequence is made of besides single instructions: jumps, calls, the stack, strings, the kernel, traps. */
import type { Random } from './random.js';
import { FUEL, type Item, type Label, type Piece, type Tables } from './x64-sequence.js';
import { memoryOperand, type Roles } from './x64-sequence-pool.js';
import { RSP } from './x64-sequence-run.js';

/** Where an item stands. */
export interface Context {
  readonly random: Random;
  readonly roles: Roles;
  readonly tables: Tables;
  /** Of the part it is in: 0 is no function, and the stack pointer need not come back. */
  readonly part: number;
  readonly item: number;
  /** The number of items of this part, the one that ends it not counted. */
  readonly items: number;
  /** The number of parts. */
  readonly parts: number;
}

type Make = (c: Context) => Item | undefined;

const le32 = (n: number): number[] => [n & 255, (n >> 8) & 255, (n >> 16) & 255, (n >> 24) & 255];
const plain = (...bytes: number[]): Piece => ({ bytes });
/** A branch or an operand whose last bytes are relative. */
const relative = (bytes: readonly number[], size: 1 | 4, to: Label | number): Piece => ({
  bytes: [...bytes, ...Array.from({ length: size }, () => 0)],
  field: { at: bytes.length, size, to },
});

const forward = ({ random, part, item, items }: Context): Label => ({
  part,
  item: Math.min(items, item + 1 + random.below(4)),
});
const backward = ({ random, part, item }: Context): Label => ({
  part,
  item: Math.max(0, item - random.below(4)),
});
/** A function behind this part: calls do not recurse. */
const someFunction = ({ random, part, parts }: Context): Label | undefined =>
  part + 1 < parts ? { part: part + 1 + random.below(parts - part - 1), item: 0 } : undefined;

const hint = (random: Random): number[] => random.pick([[], [], [], [0x3e], [0xf2], [0x2e]]);
const has = ({ roles }: Context, ...registers: number[]): boolean =>
  registers.every((r) => roles.data.includes(r));
const someData = ({ random, roles }: Context): number => random.pick(roles.data);

// Encodings with a register.
const push = (r: number): Piece => (r > 7 ? plain(0x41, 0x50 | (r & 7)) : plain(0x50 | r));
const pop = (r: number): Piece => (r > 7 ? plain(0x41, 0x58 | (r & 7)) : plain(0x58 | r));
const lea = (r: number, to: Label): Piece =>
  relative([0x48 | ((r >> 3) << 2), 0x8d, ((r & 7) << 3) | 5], 4, to);
const through = (r: number, extension: number): number[] => [
  ...(r > 7 ? [0x41] : []),
  0xff,
  0xc0 | (extension << 3) | (r & 7),
];
const load = (r: number, n: number): Piece => plain(...(r > 7 ? [0x41] : []), 0xb8 | (r & 7), ...le32(n));
/** `mov r32, segment` and back. */
const fromSegment = (r: number, segment: number): Piece =>
  plain(...(r > 7 ? [0x41] : []), 0x8c, 0xc0 | (segment << 3) | (r & 7));
const toSegment = (r: number, segment: number): Piece =>
  plain(...(r > 7 ? [0x41] : []), 0x8e, 0xc0 | (segment << 3) | (r & 7));
const CS = 1;
const SS = 2;
/** `op qword [r*8 + table]`, for a jump or a call. */
const indexed = (r: number, extension: number, table: number): Piece =>
  plain(...(r > 7 ? [0x42] : []), 0xff, (extension << 3) | 4, (3 << 6) | ((r & 7) << 3) | 5, ...le32(table));
const masked = (r: number, mask: number): Piece =>
  plain(...(r > 7 ? [0x41] : []), 0x83, 0xe0 | (r & 7), mask);
const alu8 = (extension: number, n: number): Piece =>
  plain(0x48, 0x83, 0xc0 | (extension << 3) | RSP, n & 255);

const JUMP = 4;
const CALL = 2;

/** Ways to get to a place: as a jump, or as a call. */
function transfers(c: Context, to: Label, kind: typeof JUMP | typeof CALL): Item {
  const { random, tables } = c;
  const r = someData(c);
  return random.pick([
    () => [relative([...hint(random), kind === CALL ? 0xe8 : 0xe9], 4, to)],
    () => [lea(r, to), plain(...(random.once(3) ? [0x3e] : []), ...through(r, kind))],
    () => [relative([...hint(random), 0xff, (kind << 3) | 5], 4, tables.add([to]))],
    () => [plain(0xff, (kind << 3) | 4, 0x25, ...le32(tables.add([to])))],
    () => [masked(r, 3), indexed(r, kind, tables.add([to, to, to, to]))],
  ])();
}

const shortJump: Make = (c) => [relative([...hint(c.random), 0xeb], 1, forward(c))];
const anyJump: Make = (c) => transfers(c, forward(c), JUMP);
const shortConditional: Make = (c) => [
  relative([...hint(c.random), 0x70 | c.random.below(16)], 1, forward(c)),
];
const nearConditional: Make = (c) => [
  relative([...hint(c.random), 0x0f, 0x80 | c.random.below(16)], 4, forward(c)),
];
/** loopne, loope, loop, jrcxz; by ecx with 67. */
const counted: Make = (c) => [
  relative([...c.random.pick([[], [], [0x67], [0x48]]), 0xe0 | c.random.below(4)], 1, forward(c)),
];

const jumpTable: Make = (c) => {
  const r = someData(c);
  const table = c.tables.add(Array.from({ length: 4 }, () => forward(c)));
  return [masked(r, 3), indexed(r, JUMP, table)];
};

/** What goes back pays for it, so that every sequence ends. */
const loopBack: Make = (c) => {
  const end = { part: c.part, item: c.items };
  const branch = c.random.pick([
    () => relative([0x0f, 0x80 | c.random.below(16)], 4, backward(c)),
    () => relative([0xe9], 4, backward(c)),
    () => relative([0xe0 | c.random.below(4)], 1, backward(c)),
  ])();
  return [plain(0x83, 0x2c, 0x25, ...le32(FUEL), 1), relative([0x0f, 0x88], 4, end), branch];
};

const callFunction: Make = (c) => {
  const to = someFunction(c);
  if (to === undefined) return undefined;
  const { random } = c;
  const r = someData(c);
  const away = 0x10 + 8 * random.below(8);
  return random.pick([
    () => transfers(c, to, CALL),
    () => transfers(c, to, CALL),
    () => [lea(r, to), push(r), plain(0xff, 0x14, 0x24), alu8(0, 8)], // call [rsp]
    // mov [rsp-away], r; call [rsp-away]
    () => [
      lea(r, to),
      plain(r > 7 ? 0x4c : 0x48, 0x89, 0x44 | ((r & 7) << 3), 0x24, -away & 255),
      plain(0xff, 0x54, 0x24, -away & 255),
    ],
  ])();
};

/** call to the next instruction, as old position-independent code does. */
const callNext: Make = (c) => [plain(0xe8, 0, 0, 0, 0), pop(someData(c))];

const pushRet: Make = (c) => {
  const r = someData(c);
  return [
    lea(r, forward(c)),
    push(r),
    plain(...c.random.pick([[0xc3], [0xf3, 0xc3], [0xf2, 0xc3], [0x48, 0xc3], [0xc2, 0, 0]])),
  ];
};

function memoryPiece(c: Context, opcode: number, extension: number): Piece {
  const { bytes, b, x, prefix, ripTo } = memoryOperand(c.random, c.roles);
  const head = [...prefix, ...((b | x) !== 0 ? [0x40 | (x << 1) | b] : []), opcode];
  const [modrm = 0, ...rest] = bytes;
  const made = [...head, modrm | (extension << 3), ...rest];
  return ripTo === undefined
    ? { bytes: made }
    : { bytes: made, field: { at: head.length + 1, size: 4, to: ripTo } };
}

const pushPop: Make = (c) => {
  const { random } = c;
  const pushed = random.pick([
    () => push(random.below(16)),
    () => plain(0x6a, random.below(256)),
    () => plain(0x68, ...random.bytes(4)),
    () => plain(0x9c),
    () => memoryPiece(c, 0xff, 6),
    () => plain(0x0f, random.pick([0xa0, 0xa8])), // fs, gs
  ])();
  return [pushed, random.once(3) ? memoryPiece(c, 0x8f, 0) : pop(someData(c))];
};

const pushPop16: Make = (c) => {
  const r = someData(c) & 7;
  return c.roles.data.includes(r) ? [plain(0x66, 0x50 | r), plain(0x66, 0x58 | r)] : undefined;
};

const frame: Make = ({ random }) => [plain(0xc8, 16 * random.below(4), 0, random.below(3)), plain(0xc9)];

/** Only where it need not come back. */
const moveStack: Make = ({ random, part }) =>
  part !== 0
    ? undefined
    : [
        random.pick([
          () => alu8(5, 8 * random.below(8)),
          () => alu8(0, 8 * random.below(4)),
          () => alu8(4, -16),
          () => plain(0x48, 0x8d, 0x64, 0x24, (-8 * random.below(16)) & 255),
          () => push(random.below(16)),
        ])(),
      ];

const strings: Make = (c) => {
  const { random, roles } = c;
  if (!roles.pointers.includes(6) || !roles.pointers.includes(7) || !has(c, 1)) return undefined;
  const repeat = random.pick([[], [0xf3], [0xf2], [0xf3, 0x67], [0xf3, 0x66]]);
  const op = random.pick([0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf]);
  const isLoad = op === 0xac || op === 0xad;
  if (isLoad && !has(c, 0)) return undefined;
  const wide = random.once(3) ? [0x48] : [];
  return [load(1, random.below(9)), plain(random.pick([0xfc, 0xfc, 0xfd])), plain(...repeat, ...wide, op)];
};

const NOPS: readonly (readonly number[])[] = [
  [0x90],
  [0x66, 0x90],
  [0x0f, 0x1f, 0x00],
  [0x0f, 0x1f, 0x40, 0],
  [0x0f, 0x1f, 0x44, 0, 0],
  [0x66, 0x0f, 0x1f, 0x44, 0, 0],
  [0x0f, 0x1f, 0x80, 0, 0, 0, 0],
  [0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
  [0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
  [0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
  [0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
  [0xf3, 0x0f, 0x1e, 0xfa], // endbr64
  [0xf3, 0x90],
];
const nop: Make = ({ random }) => [plain(...random.pick(NOPS))];

/** lahf, sahf, clc, stc, cmc, cld, std. */
const flags: Make = (c) => [
  plain(c.random.pick([...(has(c, 0) ? [0x9f] : []), 0x9e, 0xf8, 0xf9, 0xf5, 0xfc, 0xfd])),
];

const cpuid: Make = (c) =>
  has(c, 0, 1, 2, 3) ? [load(0, c.random.pick([0, 0x8000_0000])), load(1, 0), plain(0x0f, 0xa2)] : undefined;

const divide: Make = (c) => {
  if (!has(c, 0, 2)) return undefined;
  const by = c.roles.data.find((r) => r !== 0 && r !== 2);
  if (by === undefined) return undefined;
  const wide = [0x40 | (by >> 3) | (c.random.once(2) ? 8 : 0), 0xf7];
  return [
    load(2, 0),
    load(by, 1 + c.random.below(1000)),
    plain(...wide, 0xf0 | (c.random.below(2) << 3) | (by & 7)),
  ];
};

const exchange16: Make = (c) => {
  if (!has(c, 0, 2)) return undefined;
  const r = c.random.pick(c.roles.pointers);
  const rex = 0x48 | (r >> 3);
  const operand = (r & 7) === 4 ? [0x4c, 0x24] : [0x48 | (r & 7)];
  return [plain(...(c.random.once(2) ? [0xf0] : []), rex, 0x0f, 0xc7, ...operand, 64 * c.random.below(2))];
};

/** getuid, sched_yield, and close of no descriptor. */
const systemCall: Make = (c) =>
  has(c, 0, 1, 11, 7) || (has(c, 0, 1, 11) && !c.random.once(3))
    ? [
        ...(has(c, 7) ? [load(7, -1)] : []),
        load(0, c.random.pick(has(c, 7) ? [102, 24, 3] : [102, 24])),
        plain(0x0f, 0x05),
      ]
    : undefined;
/** getuid of the 32-bit table; the kernel keeps r8 to r11, or clears them. */
const softwareInterrupt: Make = (c) =>
  has(c, 0, 8, 9, 10, 11) ? [load(0, 24), plain(0xcd, 0x80)] : undefined;

const popFlags: Make = ({ random }) => {
  const image = random.u32() & 0x24_0cd5; // with AC and ID not: 0x200000 is ID, 0x40000 AC
  const value = image & 0x20_0cd5;
  return random.once(4)
    ? [plain(0x66, 0x68, value & 255, (value >> 8) & 0x0d), plain(0x66, 0x9d)]
    : [plain(0x68, ...le32(value | 0x202)), plain(0x9d)];
};

const loadStackSegment: Make = (c) => {
  const r = someData(c);
  return [fromSegment(r, SS), toSegment(r, SS), plain(...c.random.pick(NOPS))];
};

const farReturn: Make = (c) => {
  const r = someData(c);
  const far = c.random.once(3) ? [0x48, 0xca, 0, 0] : [0x48, 0xcb];
  return [fromSegment(r, CS), push(r), lea(r, forward(c)), push(r), plain(...far)];
};

const interruptReturn: Make = (c) => {
  const [r, sp] = [c.roles.data[0]!, c.roles.data[1]!];
  const movSp = plain(0x48 | (sp >> 3), 0x89, 0xe0 | (sp & 7));
  return [
    movSp,
    fromSegment(r, SS),
    push(r),
    push(sp),
    plain(0x9c),
    fromSegment(r, CS),
    push(r),
    lea(r, forward(c)),
    push(r),
    plain(0x48, 0xcf),
  ];
};

/** Through a far pointer of 16:32 on the stack. */
const farJump: Make = (c) => {
  const r = someData(c);
  const moved = (at: number): Piece =>
    plain(...(r > 7 ? [0x44] : []), 0x89, 0x44 | ((r & 7) << 3), 0x24, at & 255);
  return [lea(r, forward(c)), moved(-32), fromSegment(r, CS), moved(-28), plain(0xff, 0x6c, 0x24, -32 & 255)];
};

/** A prefix that Intel's processors ignore; AMD's cut the target to 16 bits, and shorten the near forms. */
const prefixedBranch: Make = (c) => [
  relative([0x66, c.random.once(4) ? 0xeb : 0x70 | c.random.below(16)], 1, forward(c)),
];

/** int3, ud2, hlt, int 0x2d, a jump to nowhere, a division by zero. */
const trap: Make = (c) => {
  const r = someData(c);
  return c.random.pick<() => Item>([
    () => [plain(0xcc)],
    () => [plain(0x0f, 0x0b)],
    () => [plain(0xf4)],
    () => [plain(0xcd, 0x2d)],
    () => [load(r, c.random.below(4096)), plain(...through(r, c.random.pick([CALL, JUMP])))],
    () => [load(r, 0), plain(...(r > 7 ? [0x41] : []), 0xf7, 0xf0 | (r & 7))],
  ])();
};

const WEIGHTED: readonly (readonly [weight: number, make: Make])[] = [
  [3, shortJump],
  [6, anyJump],
  [12, shortConditional],
  [8, nearConditional],
  [6, counted],
  [4, jumpTable],
  [4, loopBack],
  [12, callFunction],
  [2, callNext],
  [3, pushRet],
  [10, pushPop],
  [1, pushPop16],
  [3, frame],
  [4, moveStack],
  [10, strings],
  [4, nop],
  [3, flags],
  [2, cpuid],
  [3, divide],
  [2, exchange16],
  [3, systemCall],
  [1, softwareInterrupt],
  [2, popFlags],
  [1, loadStackSegment],
  [1, farReturn],
  [1, interruptReturn],
  [1, farJump],
  [2, prefixedBranch],
  [1, trap],
];
const MAKERS = WEIGHTED.flatMap(([weight, make]) => Array.from({ length: weight }, () => make));

export function someItem(c: Context): Item {
  for (;;) {
    const made = c.random.pick(MAKERS)(c);
    if (made !== undefined) return made;
  }
}

/** The end of a part: of the sequence, or of a function. */
export function lastItem({ random, part, tables }: Context, end: number): Item {
  if (part > 0) return [plain(...random.pick([[0xc3], [0xc3], [0xf3, 0xc3], [0xf2, 0xc3], [0xc2, 0, 0]]))];
  return [random.once(2) ? relative([0xe9], 4, end) : relative([0xff, 0x25], 4, tables.end)];
}
