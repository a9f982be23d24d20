/** BPF instructions, one after the other, with labels. */
import {
  ALU,
  ATOMIC,
  CALL,
  CLASS,
  EXIT,
  HELPER,
  INSTRUCTION_BYTES,
  JUMP,
  JUMP_ALWAYS,
  MODE,
  PSEUDO,
  SIZE,
  SOURCE_REGISTER,
  type AluOperation,
  type AtomicOperation,
  type Helper,
  type JumpOperation,
  type Size,
} from './opcodes.js';

/**
 * r0: results; r1–r5: arguments of calls, which destroy them; r6–r9 survive calls; r10: the end of the stack, read only.
 * Operands that are numbers are registers, those that are bigints immediates: 32 bits, sign-extended.
 */
export type Reg = 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10;
export const R0 = 0;
export const R1 = 1;
export const R2 = 2;
export const R3 = 3;
export const R4 = 4;
export const R5 = 5;
export const R6 = 6;
export const R7 = 7;
export const R8 = 8;
export const R9 = 9;
export const R10 = 10;
type Operand = Reg | bigint;

/** A place in the program, before or after it is known. */
export interface Label {
  at: number | undefined;
  /** Something jumps there. */
  isUsed: boolean;
}

/** Where a 16-byte load wants a map: its file descriptor, or the address of a byte of its first value. */
export interface MapReference {
  readonly at: number;
  readonly map: number;
  readonly offset: number | undefined;
}

/** A jump that its 16 bits do not reach. */
export class JumpTooFar extends Error {}

/** Whether an instruction's 32-bit immediate, which is sign-extended, can be this number. */
export const isImmediate = (value: bigint): boolean => BigInt.asIntN(32, value) === BigInt.asIntN(64, value);

function immediate(value: bigint): number {
  if (!isImmediate(value)) throw new RangeError(`${value} is no 32-bit immediate`);
  return Number(BigInt.asIntN(32, value));
}

/** `Origin`: what each instruction is said to come from. */
export class Assembler<Origin> {
  readonly #words: { opcode: number; registers: number; offset: number; imm: number }[] = [];
  readonly #jumps: { readonly at: number; readonly to: Label }[] = [];
  readonly references: MapReference[] = [];
  readonly origins: (Origin | undefined)[] = [];
  /** The verifier refuses instructions that nothing leads to: they are left out. */
  #isReached = true;
  /** Of the instructions that come next. */
  origin: Origin | undefined;

  /** How many there are, in units of eight bytes. */
  get length(): number {
    return this.#words.length;
  }

  label(): Label {
    return { at: undefined, isUsed: false };
  }
  /** The label is here. */
  place(label: Label): void {
    label.at = this.length;
    if (label.isUsed) this.#isReached = true;
  }

  mov(to: Reg, from: Operand): void {
    this.alu('mov', to, from);
  }
  /** Any 64-bit number. */
  load64(to: Reg, value: bigint): void {
    if (isImmediate(value)) this.mov(to, BigInt.asIntN(32, value));
    else this.#wide(to, 0, Number(BigInt.asIntN(32, value)), Number(BigInt.asIntN(32, value >> 32n)));
  }
  loadMap(to: Reg, map: number): void {
    if (this.#isReached) this.references.push({ at: this.length, map, offset: undefined });
    this.#wide(to, PSEUDO.mapFd, 0, 0);
  }
  loadMapValue(to: Reg, map: number, offset: number): void {
    if (this.#isReached) this.references.push({ at: this.length, map, offset });
    this.#wide(to, PSEUDO.mapValue, 0, offset);
  }

  alu(operation: AluOperation, to: Reg, by: Operand): void {
    this.#operate(CLASS.alu64 | ALU[operation], to, by);
  }
  /** On the lower 32 bits; the upper ones become 0. */
  alu32(operation: AluOperation, to: Reg, by: Operand): void {
    this.#operate(CLASS.alu32 | ALU[operation], to, by);
  }
  neg(to: Reg): void {
    this.#add(CLASS.alu64 | ALU.neg, to, 0, 0, 0);
  }

  load(size: Size, to: Reg, base: Reg, offset: number): void {
    this.#add(CLASS.ldx | MODE.mem | SIZE[size], to, base, offset, 0);
  }
  store(size: Size, base: Reg, offset: number, value: Operand): void {
    if (typeof value === 'bigint')
      this.#add(CLASS.st | MODE.mem | SIZE[size], base, 0, offset, immediate(value));
    else this.#add(CLASS.stx | MODE.mem | SIZE[size], base, value, offset, 0);
  }
  /** On eight bytes. `xchg` leaves the old value in `value`; `cmpxchg` compares with r0 and leaves the old value there. */
  atomic(operation: AtomicOperation, base: Reg, offset: number, value: Reg): void {
    this.#add(CLASS.stx | MODE.atomic | SIZE[8], base, value, offset, ATOMIC[operation]);
  }

  jump(to: Label): void {
    this.#jumpsTo(to);
    this.#add(CLASS.jmp | JUMP_ALWAYS, 0, 0, 0, 0);
    this.#isReached = false;
  }
  jumpIf(operation: JumpOperation, left: Reg, right: Operand, to: Label): void {
    this.#jumpsTo(to);
    this.#operate(CLASS.jmp | JUMP[operation], left, right);
  }

  call(helper: Helper): void {
    this.#add(CLASS.jmp | CALL, 0, 0, 0, HELPER[helper]);
  }
  /** A function of the kernel's own, by its BTF id. */
  callKernel(id: number): void {
    this.#add(CLASS.jmp | CALL, 0, PSEUDO.kfunc, 0, id);
  }
  exit(): void {
    this.#add(CLASS.jmp | EXIT, 0, 0, 0, 0);
    this.#isReached = false;
  }

  /** The program, with its jumps bound. */
  finish(): Uint8Array {
    for (const { at, to } of this.#jumps) {
      const offset = (to.at ?? Number.NaN) - (at + 1); // from the instruction behind the jump
      if (Number.isNaN(offset)) throw new TypeError(`the label of the jump at ${at} has no place`);
      if (offset < -0x8000 || offset > 0x7fff) throw new JumpTooFar(`${offset} instructions`);
      this.#words[at]!.offset = offset;
    }
    const view = new DataView(new ArrayBuffer(this.length * INSTRUCTION_BYTES));
    this.#words.forEach(({ opcode, registers, offset, imm: value }, i) => {
      view.setUint8(i * INSTRUCTION_BYTES, opcode);
      view.setUint8(i * INSTRUCTION_BYTES + 1, registers);
      view.setInt16(i * INSTRUCTION_BYTES + 2, offset, true);
      view.setInt32(i * INSTRUCTION_BYTES + 4, value, true);
    });
    return new Uint8Array(view.buffer);
  }

  #jumpsTo(to: Label): void {
    if (!this.#isReached) return;
    this.#jumps.push({ at: this.length, to });
    to.isUsed = true;
  }
  #operate(opcode: number, to: Reg, by: Operand): void {
    if (typeof by === 'bigint') this.#add(opcode, to, 0, 0, immediate(by));
    else this.#add(opcode | SOURCE_REGISTER, to, by, 0, 0);
  }
  /** BPF_LD | BPF_IMM | BPF_DW: two units. */
  #wide(to: Reg, kind: number, low: number, high: number): void {
    this.#add(CLASS.ld | MODE.imm | SIZE[8], to, kind, 0, low);
    this.#add(0, 0, 0, 0, high);
  }
  #add(opcode: number, destination: number, source: number, offset: number, value: number): void {
    if (!this.#isReached) return;
    if (offset < -0x8000 || offset > 0x7fff)
      throw new RangeError(`an offset of ${offset} does not fit 16 bits`);
    this.#words.push({ opcode, registers: destination | (source << 4), offset, imm: value });
    this.origins.push(this.origin);
  }
}
