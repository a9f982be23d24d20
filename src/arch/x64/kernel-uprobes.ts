/**
 * What the kernel's uprobes do with an instruction (arch/x86/kernel/uprobes.c): which they emulate, which they step in a slot of their
 * own, which they refuse, and which they take and get wrong (found by comparing with programs that are not probed).
 */
import type { Instruction } from '../arch.js';
import { modOf, parseEncoding, regOf, rmOf } from './encoding.js';

export type KernelHandling =
  | { readonly does: 'emulates' | 'steps' }
  /** `refuses`: it takes no uprobe there. `breaks`: it does, and the program does something else. */
  | { readonly does: 'refuses' | 'breaks'; readonly what: string }
  /** It becomes a call (Linux 6.18 and later), which writes right below the stack pointer. */
  | { readonly does: 'calls' };

const EMULATES: KernelHandling = { does: 'emulates' };
const STEPS: KernelHandling = { does: 'steps' };
const refuses = (what: string): KernelHandling => ({ does: 'refuses', what });
const breaks = (what: string): KernelHandling => ({ does: 'breaks', what });

/** is_prefix_bad: es, cs, ss, ds (notrack among them), lock. */
const REFUSED_PREFIXES = new Set([0x26, 0x2e, 0x36, 0x3e, 0xf0]);
const REPEATED = new Set([0xf2, 0xf3]);
const OPERAND_SIZE = 0x66;
/** int3, int, iret; ins, outs, in, out; int1, hlt, cli, sti (good_insns_64). */
const REFUSED_OPCODES = new Set([
  0xcc, 0xcd, 0xcf, 0x6c, 0x6d, 0x6e, 0x6f, 0xe4, 0xe5, 0xe6, 0xe7, 0xec, 0xed, 0xee, 0xef, 0xf1, 0xf4, 0xfa,
  0xfb,
]);
/** Those that are none in 64-bit mode, prefixes among them. */
// prettier-ignore
const INVALID_OPCODES = new Set([
  0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37, 0x3f, 0x60, 0x61, 0x62, 0x82, 0x9a, 0xce, 0xd4, 0xd5, 0xd6, 0xea,
]);
/** nop, popf, returns, calls, jumps: each has a way of its own there. */
const SPECIAL_OPCODES = new Set([0x90, 0x9d, 0xc2, 0xc3, 0xca, 0xcb, 0xe8, 0xe9, 0xeb, 0xff]);
/** movs, cmps, stos, lods, scas. */
const STRING_OPCODES = new Set([0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf]);
const NOP5 = Uint8Array.of(0x0f, 0x1f, 0x44, 0, 0);

/** Functions begin with few instructions, and each is asked about several times: the last answer is kept. */
const MOST_KEPT = 4096;
const kept = new Map<Uint8Array, KernelHandling>();

export function kernelHandling({ bytes }: Instruction): KernelHandling {
  const known = kept.get(bytes);
  if (known !== undefined) return known;
  const handling = handlingOf(bytes);
  if (kept.size >= MOST_KEPT) kept.clear();
  kept.set(bytes, handling);
  return handling;
}

function handlingOf(bytes: Uint8Array): KernelHandling {
  const { opcode, opcodeAt, modrm } = parseEncoding(bytes);
  if (bytes.length === NOP5.length && NOP5.every((byte, i) => byte === bytes[i])) return { does: 'calls' };
  const prefixes = bytes.subarray(0, opcode !== undefined && opcode > 0xff ? opcodeAt - 1 : opcodeAt);
  if (prefixes.some((byte) => REFUSED_PREFIXES.has(byte))) return refuses('a lock or segment prefix');
  if (opcode === undefined) return vector(bytes, opcodeAt);
  return brokenBy(opcode, modrm, prefixes) ?? legacy(opcode, modrm, prefixes);
}

/** In the third VEX map: FMA4 and vpermil2, which the kernel does not know (arch/x86/lib/x86-opcode-map.txt). */
const isFma4 = (opcode: number): boolean =>
  opcode === 0x48 || opcode === 0x49 || (opcode >= 0x5c && opcode <= 0x5f) || (opcode & 0xe8) === 0x68;

/**
 * VEX, EVEX, XOP. The kernel looks at the byte of their opcode as if it were one of the first map: vmovdqu is refused as outs,
 * vzeroupper would be skipped as a jump that is not taken, and the thread would not come back from the slot of vcmpps, a return.
 * And the register that stands in for rip in a slot may be one that they use (riprel_analyze).
 */
function vector(bytes: Uint8Array, at: number): KernelHandling {
  const opcodeAt = at + { 0xc5: 2, 0xc4: 3, 0x8f: 3, 0x62: 4 }[bytes[at] as 0xc5 | 0xc4 | 0x8f | 0x62];
  const opcode = bytes[opcodeAt] ?? 0;
  const modrm = bytes[opcodeAt + 1] ?? 0xc0;
  if (bytes[at] === 0xc4 && (bytes[at + 1]! & 0x1f) === 3 && isFma4(opcode))
    return refuses('an instruction of AMD processors only');
  if (REFUSED_OPCODES.has(opcode) || INVALID_OPCODES.has(opcode))
    return refuses('a vector instruction that it takes for another one');
  if (SPECIAL_OPCODES.has(opcode) || (opcode & 0xf0) === 0x70)
    return breaks('a vector instruction that it takes for a branch or a return');
  return modOf(modrm) === 0 && rmOf(modrm) === 5 ? breaks('a vector instruction relative to rip') : STEPS;
}

function brokenBy(opcode: number, modrm: number, prefixes: Uint8Array): KernelHandling | undefined {
  switch (opcode) {
    case 0x0f05:
    case 0x0f34:
      return breaks('a system call, which leaves the address of the slot in rcx');
    case 0xca:
    case 0xcb:
      return breaks('a far return');
    case 0x9c:
      return breaks('pushf, which stores the trap flag of the step');
    case 0x9d:
      return breaks('popf, which takes the trap flag of the step away');
    case 0x0fb2:
      return breaks('lss, behind which the processor does not end a step');
    case 0xc7:
      return modrm === 0xf8 ? breaks('xbegin, whose target is relative to the slot') : undefined;
    default:
      return STRING_OPCODES.has(opcode) && prefixes.some((byte) => REPEATED.has(byte))
        ? breaks('a repeated string instruction, of which it makes a hit for each round')
        : undefined;
  }
}

function legacy(opcode: number, modrm: number, prefixes: Uint8Array): KernelHandling {
  if (REFUSED_OPCODES.has(opcode)) return refuses('an instruction that user space has no use for');
  if (opcode === 0x8e && regOf(modrm) === 2) return refuses('a load of ss');
  const isBranch =
    opcode === 0xe8 ||
    opcode === 0xe9 ||
    opcode === 0xeb ||
    (opcode & 0xf0) === 0x70 ||
    (opcode & 0xfff0) === 0x0f80;
  if (isBranch)
    return prefixes.includes(OPERAND_SIZE) ? refuses('a branch with an operand size prefix') : EMULATES;
  const isPush = isPushOfRegister(opcode, prefixes);
  return isPush || (opcode === 0x90 && prefixes.length === 0) || opcode === 0x0f1f ? EMULATES : STEPS;
}

const isPushOfRegister = (opcode: number | undefined, prefixes: Uint8Array): boolean =>
  opcode !== undefined && (opcode & ~7) === 0x50 && prefixes.every((byte) => (byte & 0xf0) === 0x40);

/** A push of a register, which the kernel emulates: a fifteenth of the time of a step. */
export function isEmulatedPush({ bytes }: Instruction): boolean {
  const { opcode, opcodeAt } = parseEncoding(bytes);
  return isPushOfRegister(opcode, bytes.subarray(0, opcodeAt));
}
