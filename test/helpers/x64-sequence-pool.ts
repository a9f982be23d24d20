/**
 * Random single instructions for sequences, over all opcode maps. Registers have roles in a sequence, so that it runs
 * on for long, and reads no code: addresses of memory are only made from pointers, which point at data and are
 * not written, and small numbers; all other registers hold anything.
 */
import iced from 'iced-x86';
import { x64 } from '#uprobe/arch/x64/x64.js';
import { asAddress } from '#uprobe/base/address.js';
import type { Random } from './random.js';
import { DATA, GEN, type Piece } from './x64-sequence.js';
import { RBP, RSP } from './x64-sequence-run.js';

export interface Roles {
  readonly pointers: readonly number[];
  readonly small: readonly number[];
  readonly data: readonly number[];
}

const without = (from: readonly number[], ...drop: readonly number[]): number[] =>
  from.filter((r) => !drop.includes(r));

export function someRoles(random: Random): Roles {
  const rest = without(
    Array.from({ length: 16 }, (_, i) => i),
    RSP,
    RBP,
  );
  const take = (n: number): number[] =>
    Array.from({ length: n }, () => rest.splice(random.below(rest.length), 1)[0]!);
  // where string instructions and implicit operands have theirs, every other time
  const isUsual = random.once(2);
  const usual = isUsual ? [6, 7] : [];
  rest.splice(0, rest.length, ...without(rest, ...usual, ...(isUsual ? [0, 1, 2] : [])));
  const pointers = [...usual, ...take(4 - usual.length)];
  const small = take(2);
  return { pointers, small, data: [...rest, ...(isUsual ? [0, 1, 2] : [])] };
}

/**
 * What gives other results each time, what waits, hypercalls; what shows where the FPU's last instruction was
 * (docs/limits.md), or the state of its save area; what takes away our access to memory.
 */
const INCOMPARABLE =
  /\b(rdtscp?|rdpmc|rdrand|rdseed|cpuid|rdpid|rdpru|xgetbv|u?monitorx?|u?mwaitx?|tpause|vm\w*call|vmgexit|vmfunc|tdcall|seamcall|fn?stenv|fn?save|fldenv|frstor|fxsave(64)?|fxrstor(64)?|xsave\w*|xrstor\w*|[rw]rpkru|wr[fg]sbase|s[gil]dt|str|smsw|syscall|sysenter|sysexit|sysret|into?|u?iret|clui|stui|senduipi|x(begin|end|abort)|encl[suv]|getsec)\b/;

const le32 = (n: number): number[] => [n & 255, (n >> 8) & 255, (n >> 16) & 255, (n >> 24) & 255];

interface Operand {
  /** ModRM with `reg` left 0, SIB, displacement. */
  readonly bytes: number[];
  readonly b: number;
  readonly x: number;
  readonly prefix: readonly number[];
  /** An absolute address for the displacement, which is the last of the bytes. */
  readonly ripTo?: number;
}

const noBase = (to: number, prefix: readonly number[] = []): Operand => ({
  bytes: [0x04, 0x25, ...le32(to)],
  b: 0,
  x: 0,
  prefix,
});

function based(random: Random, base: number, index: number | undefined, displacement: number): Operand {
  const isShort = displacement >= -128 && displacement < 128;
  const mod = displacement === 0 && (base & 7) !== 5 ? 0 : isShort && !random.once(8) ? 1 : 2;
  const behind = [[], [displacement & 255], le32(displacement)][mod]!;
  const needsSib = index !== undefined || (base & 7) === 4;
  const sib = (random.below(4) << 6) | (((index ?? 4) & 7) << 3) | (base & 7);
  const bytes = needsSib ? [(mod << 6) | 4, sib, ...behind] : [(mod << 6) | (base & 7), ...behind];
  return { bytes, b: base >> 3, x: index === undefined ? 0 : index >> 3, prefix: [] };
}

/** A memory operand that can be reached. Vector instructions often want it aligned. */
export function memoryOperand(random: Random, { pointers, small }: Roles): Operand {
  const displacement = random.once(3)
    ? random.below(0x200) - 0x100
    : random.pick([0, 64, -64, 256, 0x140, -0x180]);
  switch (random.below(10)) {
    case 0:
    case 1: {
      const to = DATA + 0x400 + (random.once(2) ? 64 * random.below(0x40) : random.below(0x1000));
      return { bytes: [0x05, 0, 0, 0, 0], b: 0, x: 0, prefix: [], ripTo: to };
    }
    case 2:
      return noBase(DATA + 0x400 + 16 * random.below(0x100));
    case 3:
      return random.once(2)
        ? noBase(64 * random.below(16), [random.pick([0x64, 0x65])])
        : {
            ...based(random, random.pick(small), undefined, displacement),
            prefix: [random.pick([0x64, 0x65])],
          };
    case 4: // the red zone, and below
      return based(random, random.pick([RSP, RBP]), undefined, -8 * (1 + random.below(24)));
    case 5:
    case 6:
      return based(random, random.pick(pointers), random.pick(small), displacement);
    default:
      return based(random, random.pick(pointers), undefined, displacement);
  }
}

function registerOperand(random: Random, roles: Roles): Operand {
  const r = random.once(5) ? random.below(16) : random.pick(roles.data);
  return { bytes: [0xc0 | (r & 7)], b: r >> 3, x: random.below(2), prefix: [] };
}

const someOperand = (random: Random, roles: Roles): Operand =>
  random.once(2) ? registerOperand(random, roles) : memoryOperand(random, roles);

interface Shape {
  readonly prefixes: readonly number[];
  readonly opcode: readonly number[];
  readonly reg: number;
  readonly operand: Operand;
  readonly behind: readonly number[];
}

/** The bytes, and an absolute address that the operand names relative to rip. */
interface Encoded {
  readonly bytes: number[];
  readonly rip?: { readonly at: number; readonly to: number };
}

function withOperand(
  head: readonly number[],
  { reg, operand, behind }: Omit<Shape, 'prefixes' | 'opcode'>,
): Encoded {
  const [modrm = 0, ...rest] = operand.bytes;
  const bytes = [...head, modrm | ((reg & 7) << 3), ...rest, ...behind];
  const at = head.length + 1;
  return operand.ripTo === undefined ? { bytes } : { bytes, rip: { at, to: operand.ripTo } };
}

function legacy(random: Random, shape: Shape): Encoded {
  const { prefixes, opcode, reg, operand } = shape;
  const rex = ((reg >> 3) << 2) | (operand.x << 1) | operand.b | (random.once(2) ? 8 : 0);
  const needed = rex !== 0 || random.once(4);
  return withOperand([...operand.prefix, ...prefixes, ...(needed ? [0x40 | rex] : []), ...opcode], shape);
}

function vex(
  random: Random,
  map: number,
  opcode: number,
  shape: Omit<Shape, 'prefixes' | 'opcode'>,
): Encoded {
  const { reg, operand } = shape;
  const inverted = ((~(reg >> 3) & 1) << 7) | ((~operand.x & 1) << 6) | ((~operand.b & 1) << 5);
  const vvvv = random.once(2) ? 15 : random.below(16);
  const last = (random.below(2) << 7) | (vvvv << 3) | random.below(8);
  return withOperand([...operand.prefix, 0xc4, inverted | map, last, opcode], shape);
}

function evex(
  random: Random,
  map: number,
  opcode: number,
  shape: Omit<Shape, 'prefixes' | 'opcode'>,
): Encoded {
  const { reg, operand } = shape;
  const inverted = ((~(reg >> 3) & 1) << 7) | ((~operand.x & 1) << 6) | ((~operand.b & 1) << 5);
  const p0 = inverted | (random.below(2) << 4) | map;
  const p1 = (random.below(2) << 7) | ((random.once(2) ? 15 : random.below(16)) << 3) | 4 | random.below(4);
  const p2 =
    (random.once(4) ? 0x80 : 0) | (random.below(3) << 5) | (random.once(8) ? 16 : 0) | 8 | random.below(8);
  return withOperand([...operand.prefix, 0x62, p0, p1, p2, opcode], shape);
}

const PREFIXES: readonly (readonly number[])[] = [
  [],
  [],
  [],
  [],
  [0x66],
  [0xf2],
  [0xf3],
  [0x67],
  [0x2e],
  [0x66, 0xf3],
];
/** Those that `lock` may stand before; with their immediates. */
const LOCKED = [
  0x00, 0x01, 0x09, 0x11, 0x19, 0x21, 0x29, 0x31, 0x80, 0x81, 0x83, 0x86, 0x87, 0xf6, 0xf7, 0xfe, 0xff,
];
const LOCKED_0F = [0xb0, 0xb1, 0xc0, 0xc1, 0xab, 0xb3, 0xbb, 0xba, 0xc7];

function candidate(random: Random, roles: Roles): Encoded {
  const operand = someOperand(random, roles);
  const reg = random.once(4) ? random.below(16) : random.pick(roles.data);
  const shape = { prefixes: random.pick(PREFIXES), reg, operand, behind: random.bytes(8) };
  switch (random.below(12)) {
    case 0:
    case 1:
    case 2:
      return legacy(random, { ...shape, opcode: [random.below(256)] });
    case 3:
    case 4:
    case 5:
      return legacy(random, { ...shape, opcode: [0x0f, random.below(256)] });
    case 6:
      return legacy(random, { ...shape, opcode: [0x0f, random.pick([0x38, 0x3a]), random.below(256)] });
    case 7:
      return legacy(random, { ...shape, opcode: [0xd8 | random.below(8)], prefixes: [] });
    case 8: {
      const opcode = random.once(2) ? [random.pick(LOCKED)] : [0x0f, random.pick(LOCKED_0F)];
      const locked = { operand: memoryOperand(random, roles), reg: random.below(16), prefixes: [0xf0] };
      return legacy(random, { ...shape, ...locked, opcode });
    }
    case 9:
    case 10:
      return vex(random, random.pick([1, 1, 2, 3]), random.below(256), shape);
    default:
      return evex(random, random.pick([1, 1, 2, 3, 5, 6]), random.below(256), shape);
  }
}

/** A random instruction that keeps to the roles, or undefined when what came out does not. */
function somePiece(random: Random, roles: Roles): Piece | undefined {
  const { bytes, rip } = candidate(random, roles);
  if (bytes.length < 15) bytes.push(0);
  const decoder = new iced.Decoder(64, Uint8Array.from(bytes), iced.DecoderOptions.None);
  const instruction = decoder.decode();
  try {
    const { length } = instruction;
    if (instruction.code === iced.Code.INVALID || !keepsToRoles(instruction, roles)) return undefined;
    const kept = bytes.slice(0, length);
    const decoded = x64.decode(Uint8Array.from(kept), asAddress(GEN));
    if (decoded === undefined || INCOMPARABLE.test(x64.format(decoded))) return undefined;
    if (!instruction.isIpRelMemoryOperand || rip === undefined)
      return instruction.isIpRelMemoryOperand ? undefined : { bytes: kept };
    return { bytes: kept, field: { at: rip.at, size: 4, to: rip.to } };
  } finally {
    instruction.free();
    decoder.free();
  }
}

const info = new iced.InstructionInfoFactory();
const READS: ReadonlySet<iced.OpAccess> = new Set([
  iced.OpAccess.None,
  iced.OpAccess.Read,
  iced.OpAccess.CondRead,
  iced.OpAccess.NoMemAccess,
]);

const numberOf = (register: iced.Register): number =>
  iced.RegisterExt.number(iced.RegisterExt.fullRegister(register));

function keepsToRoles(instruction: iced.Instruction, roles: Roles): boolean {
  if (instruction.flowControl !== iced.FlowControl.Next || instruction.isStackInstruction) return false;
  if (instruction.isVsib || instruction.isPrivileged) return false;
  const used = info.info(instruction);
  const { pointers, small, data } = roles;
  try {
    for (const { register, access } of used.usedRegisters() as iced.UsedRegister[]) {
      if (READS.has(access)) continue;
      if (iced.RegisterExt.isSegmentRegister(register)) return false;
      if (iced.RegisterExt.isGPR(register) && !data.includes(numberOf(register))) return false;
    }
    for (const { base, index, segment } of used.usedMemory() as iced.UsedMemory[]) {
      const isElsewhere = segment === iced.Register.FS || segment === iced.Register.GS;
      const bases = isElsewhere ? small : [...pointers, RSP, RBP];
      if (index !== iced.Register.None && !small.includes(numberOf(index))) return false;
      if (!iced.RegisterExt.isGPR(base)) continue; // rip, or none
      if (!bases.includes(numberOf(base))) return false;
    }
    return !indexesBits(instruction, small);
  } finally {
    used.free();
  }
}

/** `bt [memory], register` and its like reach far from their operand. */
function indexesBits(instruction: iced.Instruction, small: readonly number[]): boolean {
  const { Bt, Bts, Btr, Btc } = iced.Mnemonic;
  if (![Bt, Bts, Btr, Btc].includes(instruction.mnemonic) || instruction.op0Kind !== iced.OpKind.Memory)
    return false;
  return instruction.op1Kind === iced.OpKind.Register && !small.includes(numberOf(instruction.op1Register));
}

export function somePieces(random: Random, roles: Roles, count: number): Piece[] {
  const pieces: Piece[] = [];
  for (let tries = 0; pieces.length < count && tries < 50 * count; tries++) {
    const piece = somePiece(random, roles);
    if (piece !== undefined) pieces.push(piece);
  }
  return pieces;
}
