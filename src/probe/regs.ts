import { UprobeError } from '../base/errors.js';

/** Where each register is among the 27 words of the kernel's `struct user_regs_struct` (x86-64 uapi sys/user.h). */
const R15 = 0;
const R14 = 1;
const R13 = 2;
const R12 = 3;
const BP = 4;
const BX = 5;
const R11 = 6;
const R10 = 7;
const R9 = 8;
const R8 = 9;
const AX = 10;
const CX = 11;
const DX = 12;
const SI = 13;
const DI = 14;
const ORIG_AX = 15;
const IP = 16;
const CS = 17;
const FLAGS = 18;
const SP = 19;
const SS = 20;
const FS_BASE = 21;
const GS_BASE = 22;
const DS = 23;
const ES = 24;
const FS = 25;
const GS = 26;

/** How many 64-bit words the registers take. */
export const REGISTER_WORDS = 27;

const wrap = (value: bigint | number): bigint => BigInt.asUintN(64, BigInt(value));

/** What a PtRegs stands on when its hit is over: whatever is asked of it throws. */
const OVER = new Proxy(new BigUint64Array(0), {
  get: () => {
    throw hitIsOver();
  },
  set: () => {
    throw hitIsOver();
  },
});

export const hitIsOver = (): UprobeError =>
  new UprobeError(
    'hit-is-over',
    'the hit is over: it is valid only until its handler returns; keep values (hit.arg(0), hit.regs.ax), not the hit',
  );

/** The registers before the handler that runs now changed one. One for all hits: they are handled one at a time. */
const before = new BigUint64Array(REGISTER_WORDS);

// Only for who made a PtRegs:

/** A handler begins. */
export let beginChanges: (regs: PtRegs) => void;
/** Whether the handler has written a register. */
export let haveChanged: (regs: PtRegs) => boolean;
/** Take back what the handler wrote. */
export let undoChanges: (regs: PtRegs) => void;
/** Take the words away. */
export let endRegs: (regs: PtRegs) => void;

/**
 * The registers of a stopped thread, by the kernel's `pt_regs` names. All are unsigned 64-bit values. What is
 * written wraps to 64 bits (`regs.ax = -1` stores 0xffffffffffffffff) and is what the thread goes on with.
 */
export class PtRegs {
  #words: BigUint64Array;
  #changed = false;

  /** @param words 27 words in the order of the kernel's user_regs_struct; written through. */
  constructor(words: BigUint64Array) {
    if (words.length < REGISTER_WORDS) throw new RangeError(`PtRegs needs ${REGISTER_WORDS} words`);
    this.#words = words;
  }

  static {
    beginChanges = (regs) => {
      regs.#changed = false;
    };
    haveChanged = (regs) => regs.#changed;
    undoChanges = (regs) => {
      if (regs.#changed) regs.#words.set(before);
      regs.#changed = false;
    };
    endRegs = (regs) => {
      regs.#words = OVER;
    };
  }

  /** Most handlers write none: what was there is kept at the first write only. */
  #set(register: number, value: bigint | number): void {
    const wrapped = wrap(value);
    if (!this.#changed) before.set(this.#words);
    this.#words[register] = wrapped;
    this.#changed = true;
  }

  /** The return value of a function that has just returned. */
  get ax(): bigint {
    return this.#words[AX]!;
  }
  set ax(value: bigint | number) {
    this.#set(AX, value);
  }
  get bx(): bigint {
    return this.#words[BX]!;
  }
  set bx(value: bigint | number) {
    this.#set(BX, value);
  }
  get cx(): bigint {
    return this.#words[CX]!;
  }
  set cx(value: bigint | number) {
    this.#set(CX, value);
  }
  get dx(): bigint {
    return this.#words[DX]!;
  }
  set dx(value: bigint | number) {
    this.#set(DX, value);
  }
  get si(): bigint {
    return this.#words[SI]!;
  }
  set si(value: bigint | number) {
    this.#set(SI, value);
  }
  /** The first integer argument at a function's entry. */
  get di(): bigint {
    return this.#words[DI]!;
  }
  set di(value: bigint | number) {
    this.#set(DI, value);
  }
  get bp(): bigint {
    return this.#words[BP]!;
  }
  set bp(value: bigint | number) {
    this.#set(BP, value);
  }
  /** The stack pointer. */
  get sp(): bigint {
    return this.#words[SP]!;
  }
  set sp(value: bigint | number) {
    this.#set(SP, value);
  }
  get r8(): bigint {
    return this.#words[R8]!;
  }
  set r8(value: bigint | number) {
    this.#set(R8, value);
  }
  get r9(): bigint {
    return this.#words[R9]!;
  }
  set r9(value: bigint | number) {
    this.#set(R9, value);
  }
  get r10(): bigint {
    return this.#words[R10]!;
  }
  set r10(value: bigint | number) {
    this.#set(R10, value);
  }
  get r11(): bigint {
    return this.#words[R11]!;
  }
  set r11(value: bigint | number) {
    this.#set(R11, value);
  }
  get r12(): bigint {
    return this.#words[R12]!;
  }
  set r12(value: bigint | number) {
    this.#set(R12, value);
  }
  get r13(): bigint {
    return this.#words[R13]!;
  }
  set r13(value: bigint | number) {
    this.#set(R13, value);
  }
  get r14(): bigint {
    return this.#words[R14]!;
  }
  set r14(value: bigint | number) {
    this.#set(R14, value);
  }
  get r15(): bigint {
    return this.#words[R15]!;
  }
  set r15(value: bigint | number) {
    this.#set(R15, value);
  }
  /** The instruction pointer: at a pre handler the probed instruction, after it what runs next. */
  get ip(): bigint {
    return this.#words[IP]!;
  }
  set ip(value: bigint | number) {
    this.#set(IP, value);
  }
  /** RFLAGS. */
  get flags(): bigint {
    return this.#words[FLAGS]!;
  }
  set flags(value: bigint | number) {
    this.#set(FLAGS, value);
  }
  /** The number of the system call the thread is in, or -1 (as unsigned). */
  get origAx(): bigint {
    return this.#words[ORIG_AX]!;
  }
  set origAx(value: bigint | number) {
    this.#set(ORIG_AX, value);
  }
  get cs(): bigint {
    return this.#words[CS]!;
  }
  set cs(value: bigint | number) {
    this.#set(CS, value);
  }
  get ss(): bigint {
    return this.#words[SS]!;
  }
  set ss(value: bigint | number) {
    this.#set(SS, value);
  }
  get ds(): bigint {
    return this.#words[DS]!;
  }
  set ds(value: bigint | number) {
    this.#set(DS, value);
  }
  get es(): bigint {
    return this.#words[ES]!;
  }
  set es(value: bigint | number) {
    this.#set(ES, value);
  }
  get fs(): bigint {
    return this.#words[FS]!;
  }
  set fs(value: bigint | number) {
    this.#set(FS, value);
  }
  get gs(): bigint {
    return this.#words[GS]!;
  }
  set gs(value: bigint | number) {
    this.#set(GS, value);
  }
  /** The thread pointer. */
  get fsBase(): bigint {
    return this.#words[FS_BASE]!;
  }
  set fsBase(value: bigint | number) {
    this.#set(FS_BASE, value);
  }
  get gsBase(): bigint {
    return this.#words[GS_BASE]!;
  }
  set gsBase(value: bigint | number) {
    this.#set(GS_BASE, value);
  }
  /** Every register as `0x…`, for JSON.stringify and logs. */
  toJSON(): Record<string, string> {
    const out: Record<string, string> = {};
    for (const name of REGISTER_NAMES) out[name] = `0x${this[name].toString(16)}`;
    return out;
  }
}

/** The names of all registers, in the order people print them. */
export const REGISTER_NAMES = [
  'ax',
  'bx',
  'cx',
  'dx',
  'si',
  'di',
  'bp',
  'sp',
  'r8',
  'r9',
  'r10',
  'r11',
  'r12',
  'r13',
  'r14',
  'r15',
  'ip',
  'flags',
  'origAx',
  'cs',
  'ss',
  'ds',
  'es',
  'fs',
  'gs',
  'fsBase',
  'gsBase',
] as const satisfies readonly (keyof PtRegs)[];

/** A register's name. */
export type RegisterName = (typeof REGISTER_NAMES)[number];
