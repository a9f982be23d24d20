/** Speaks to test/fixtures/x64-slots.c, which runs instructions in place and in their slots. */
import { spawnSync } from 'node:child_process';
import { asAddress } from '#uprobe/base/address.js';
import type { Instruction, SlotTemplate } from '#uprobe/arch/arch.js';
import { bindSlot, stopAt } from '#uprobe/arch/slot.js';
import { x64 } from '#uprobe/arch/x64/x64.js';
import { compileFixture } from './compile.js';
import type { Random } from './random.js';

/** The harness's regions, of two pages each. */
export const SITE = 0x1000_0000;
export const SLOT = 0x5000_0000;
export const DATA = 0x2000_0000;
export const STACK = 0x2010_0000;
export const SIZE = 0x2000;

export const SIGTRAP = 5;
const SI_KERNEL = 0x80;

/** General registers in the order the encoding numbers them, and where the request has them. */
const REQUEST_ORDER = [0, 2, 3, 1, 7, 6, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15];
export const RAX = 0;
export const RCX = 1;
export const RSP = 4;

export interface Case {
  readonly instruction: Instruction;
  readonly template: SlotTemplate;
  readonly slot: number;
  readonly code: Uint8Array;
  /** By register number. */
  readonly regs: bigint[];
  readonly flags: number;
  readonly seed: bigint;
}

/** A case of these bytes; undefined when they are no instruction, have no slot, enter the kernel, or the slot is out of reach. */
export function caseOf(random: Random, bytes: readonly number[], regs: bigint[]): Case | undefined {
  const site = asAddress(SITE + 0x800 + random.below(0x800));
  const slot = asAddress(SLOT + 64 * random.below(SIZE / 64));
  const instruction = x64.decode(Uint8Array.from(bytes), site);
  const displaced = instruction && x64.displace(instruction);
  if (!instruction || !displaced?.ok || displaced.template.inPlace) return undefined;
  // with registers like these the kernel might be asked for anything: kill(-1, SIGKILL), say
  if (displaced.template.entersKernel || x64.format(instruction) === 'sysenter') return undefined;
  const code = bindSlot(displaced.template, site, slot);
  // Carry, parity, adjust, zero, sign, direction, overflow.
  const flags = random.u32() & (random.once(4) ? 0xcd5 : 0x8d5);
  return code && { instruction, template: displaced.template, slot, code, regs, flags, seed: random.u64() };
}

/** Registers as programs have them: pointers into the data, numbers small and large, a stack pointer. */
export function someRegisters(random: Random): bigint[] {
  const edges = [0n, 1n, 0x7fn, 0x80n, 0x7fff_ffffn, 0xffff_ffffn, 1n << 63n, (1n << 64n) - 1n];
  const make = [
    () => BigInt(DATA + 0x100 + 8 * random.below(0x300)),
    () => BigInt(DATA + 0x100 + random.below(0x1e00)),
    () => BigInt(random.below(64)),
    () => random.pick(edges),
    () => random.u64(),
    // Code, but not the instruction itself: a jump there would not end.
    () => BigInt(SITE + 0x1000 + random.below(0x1000)),
  ];
  const regs = Array.from({ length: 16 }, () => random.pick([make[0], make[0], ...make] as typeof make)());
  regs[RSP] = BigInt(STACK + 0x800 + 16 * random.below(0x80) + (random.once(8) ? random.below(16) : 0));
  if (random.once(40)) regs[RSP] = BigInt(STACK + random.below(16)); // its next push faults
  return regs;
}

export interface Run {
  readonly signal: number;
  readonly code: number;
  readonly address: bigint;
  /** struct user_regs_struct. */
  readonly regs: BigUint64Array;
}
export interface Reply {
  readonly inPlace: Run;
  readonly inSlot: Run;
  readonly memoryDiffers: number;
  readonly first: number;
  readonly last: number;
  readonly vectorDiffers: boolean;
  readonly steps: readonly { readonly at: number; readonly sp: bigint }[];
}

const REQUEST_SIZE = 256;
const REPLY_SIZE = 584;
const RUN_SIZE = 232;
const MAX_STEPS = 8;

function encodeRequest(c: Case): Uint8Array {
  const bytes = new Uint8Array(REQUEST_SIZE);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(c.instruction.address), true);
  view.setBigUint64(8, BigInt(c.slot), true);
  view.setUint32(16, c.instruction.bytes.length, true);
  view.setUint32(20, c.code.length, true);
  view.setUint32(24, 1, true);
  bytes.set(c.instruction.bytes, 32);
  bytes.set(c.code, 48);
  c.regs.forEach((value, i) => view.setBigUint64(112 + 8 * (REQUEST_ORDER[i] ?? 0), value, true));
  view.setBigUint64(240, BigInt(c.flags), true);
  view.setBigUint64(248, c.seed, true);
  return bytes;
}

function decodeRun(bytes: Uint8Array): Run {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const regs = BigUint64Array.from({ length: 27 }, (_, i) => view.getBigUint64(16 + 8 * i, true));
  return {
    signal: view.getUint32(0, true),
    code: view.getInt32(4, true),
    address: view.getBigUint64(8, true),
    regs,
  };
}

function decodeReply(bytes: Uint8Array): Reply {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const at = 2 * RUN_SIZE;
  const steps = Array.from({ length: view.getUint32(at + 16, true) }, (_, i) => ({
    at: view.getUint32(at + 20 + 4 * i, true),
    sp: view.getBigUint64(at + 24 + 4 * MAX_STEPS + 8 * i, true),
  }));
  return {
    inPlace: decodeRun(bytes.subarray(0, RUN_SIZE)),
    inSlot: decodeRun(bytes.subarray(RUN_SIZE, at)),
    memoryDiffers: view.getUint32(at, true),
    first: view.getUint32(at + 4, true),
    last: view.getUint32(at + 8, true),
    vectorDiffers: view.getUint32(at + 12, true) !== 0,
    steps,
  };
}

export function runCases(cases: readonly Case[]): Reply[] {
  const program = compileFixture('x64-slots', { flags: ['-O1'] });
  const input = Buffer.concat(cases.map(encodeRequest));
  const { stdout, stderr, status, signal } = spawnSync(program, { input, maxBuffer: 1 << 30 });
  const n = stdout.length / REPLY_SIZE;
  if (status !== 0 || n !== cases.length) {
    const at = cases[Math.floor(n)];
    throw new Error(`x64-slots: ${signal ?? status} at case ${n} ${at ? nameOf(at) : ''}: ${String(stderr)}`);
  }
  return cases.map((_, i) => decodeReply(stdout.subarray(i * REPLY_SIZE, (i + 1) * REPLY_SIZE)));
}

export const nameOf = (c: Case): string =>
  `${Buffer.from(c.instruction.bytes).toString('hex')} (${x64.format(c.instruction)})`;

const RSP_FIELD = 19;
const RIP_FIELD = 16;
const FIELDS =
  'r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs'.split(
    ' ',
  );

/**
 * What the slot's run did otherwise than the run in place, after taking a thread that faulted in the slot back to
 * its site as an engine must. Empty when they agree.
 */
export function differences(c: Case, reply: Reply): string[] {
  const { inPlace, inSlot } = reply;
  const found: string[] = [];
  const expect = (what: string, is: unknown, should: unknown): void => {
    if (is !== should) found.push(`${what} is ${show(is)}, in place ${show(should)}`);
  };
  const regs = BigUint64Array.from(inSlot.regs);
  const offset = Number(regs[RIP_FIELD]) - c.slot;
  const isInside = offset >= 0 && offset < c.code.length;
  let undone = 0;
  let code = inSlot.code;
  if (isInside) {
    const stop = stopAt(c.template, offset);
    if (stop === undefined) found.push(`stopped at slot+${offset}, which is no stop`);
    if (stop?.resume === undefined && stop?.undoSp === 0) found.push(`cannot go back from slot+${offset}`);
    undone = stop?.undoSp ?? 0;
    regs[RIP_FIELD] = BigInt(c.instruction.address + (stop?.resume ?? 0));
    if (stop?.silent) {
      // the trap flag that popf loads: nobody is told, and the thread goes on into the int3 behind the instruction
      regs[RIP_FIELD]++;
      code = SI_KERNEL;
    }
    regs[RSP_FIELD] = (regs[RSP_FIELD] ?? 0n) + BigInt(undone);
  }
  const address = inSlot.address === BigInt(c.slot + offset) && isInside ? regs[RIP_FIELD] : inSlot.address;
  expect('signal', inSlot.signal, inPlace.signal);
  expect('si_code', code, inPlace.code);
  expect('si_addr', address, inPlace.address);
  FIELDS.forEach((name, i) => expect(name, regs[i], inPlace.regs[i]));
  // A call that is taken back has left its return address below the stack pointer, where nothing lives.
  if (reply.memoryDiffers > undone) {
    found.push(`${reply.memoryDiffers} bytes of memory differ, at ${reply.first}…${reply.last}`);
  }
  if (reply.vectorDiffers) found.push('vector or x87 state differs');
  return [...found, ...wrongSteps(c, reply)];
}

/** A thread stepped through the slot is found only at the template's stops, which say the truth about it. */
function wrongSteps(c: Case, { steps, inPlace }: Reply): string[] {
  const before = c.regs[RSP] ?? 0n;
  return steps.flatMap(({ at, sp }, i) => {
    const stop = stopAt(c.template, at);
    if (stop === undefined) return [`a step ends at slot+${at}, which is no stop`];
    if (stop.resume === undefined) {
      const wrong = BigInt.asUintN(64, sp + BigInt(stop.undoSp)) !== before || steps.length > i + 1;
      return wrong ? [`the stop at slot+${at} is not one step from the end, with undoSp ${stop.undoSp}`] : [];
    }
    const truth = stop.resume === 0 ? before : inPlace.regs[RSP_FIELD];
    const isRepeating = stop.resume === 0; // a rep prefix: each step is one round
    return sp === truth || isRepeating ? [] : [`at slot+${at} the instruction has not ended`];
  });
}

const show = (value: unknown): string =>
  typeof value === 'bigint' ? `0x${value.toString(16)}` : String(value);
