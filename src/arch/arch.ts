import type { Refusal } from '../base/errors.js';
import type { VirtualAddress } from '../base/address.js';

/** One decoded instruction. Plain data: it travels to the tracer thread as it is. */
export interface Instruction {
  /** Link-time address it was decoded at. */
  readonly address: VirtualAddress;
  /** Its bytes, as the file has them (1–15 on x86-64). */
  readonly bytes: Uint8Array;
}

/**
 * How a displaced instruction runs out of line: a template of machine code that is copied into an XOL slot and
 * bound to the slot's own address and the site's. It always ends in a jump back (or in the instruction's own
 * transfer of control), so that a thread inside it needs nobody's help to go on.
 */
export interface SlotTemplate {
  /** Length of the original instruction, in bytes. */
  readonly length: number;
  /** The code with zeroes where the fix-ups go; at most `SLOT_SIZE` bytes. */
  readonly code: Uint8Array;
  /** 32-bit pc-relative fields: at `at` goes (site + delta) − (slot + end). */
  readonly rel32: readonly { readonly at: number; readonly end: number; readonly delta: number }[];
  /** 64-bit absolute fields: at `at` goes site + delta. */
  readonly abs64: readonly { readonly at: number; readonly delta: number }[];
  /** Where a thread may be found stopped in the slot, in ascending order, beginning with { at: 0, resume: 0, undoSp: 0 }. */
  readonly stops: readonly SlotStop[];
  /** The instruction pushes the flags: a single step leaves the trap flag in the pushed image; it must be cleared. */
  readonly pushesFlags: boolean;
  /** It loads the flags, and with them perhaps the program's own trap flag. */
  readonly loadsFlags?: true;
  /**
   * It asks the kernel for something (a system call) and may wait in there for a signal: one that comes before it is not
   * held back until it has ended.
   */
  readonly entersKernel?: true;
  /** It raises SIGTRAP by itself: the program's own breakpoint. */
  readonly raisesTrap?: true;
  /** It is a call. */
  readonly calls?: true;
  /**
   * It can run nowhere but at its own place: there is no code. Every other thread of the address space stands still while
   * it is stepped there with its own byte in place of the breakpoint.
   */
  readonly inPlace?: true;
}

/** A state in which a thread may be stopped in its slot. */
export interface SlotStop {
  /** Offset in the slot. */
  readonly at: number;
  /**
   * The instruction has not begun (0) or has ended (`length`): the program's own address for that state is site + resume.
   * `undefined`: it is half done; one more step leads to a defined state.
   */
  readonly resume: number | undefined;
  /** What to add to the stack pointer to take back a half-done instruction (when its second half faults). */
  readonly undoSp: number;
  /** A program that steps itself has no trap here: in its own place the instruction is followed by none. */
  readonly silent?: true;
  /** Here rcx holds the address behind a `syscall`, and r11 the flags, as it leaves them. */
  readonly afterSyscall?: true;
}

/** Bytes reserved for one slot. */
export const SLOT_SIZE = 64;

export type Displaced =
  { readonly ok: true; readonly template: SlotTemplate } | { readonly ok: false; readonly refusal: Refusal };

/** What an instruction says of another place, by link-time address. */
export type CodeReference =
  | {
      /**
       * `address`: it makes this address; `immediate`: it loads this constant, which may be one where programs are
       * linked at fixed addresses; `pointer`: it loads the word there; `jump`: it jumps there, perhaps.
       */
      readonly kind: 'address' | 'immediate' | 'pointer' | 'jump';
      readonly address: number;
    }
  /** It calls or jumps to what a register or a word in memory holds, where that may be anything. */
  | { readonly kind: 'unknown' };

/** What an architecture fills in. */
export interface Arch {
  readonly name: 'x64';
  /** The bytes of a breakpoint instruction. */
  readonly breakpoint: Uint8Array;
  /** Longest instruction, in bytes. */
  readonly maxInstruction: number;
  /** Whether an instruction does nothing but mark a place that may be jumped to. */
  isLandingPad(instruction: Instruction): boolean;
  /** Decode the one instruction at the start of `bytes`, or undefined when they are none. */
  decode(bytes: Uint8Array, address: VirtualAddress): Instruction | undefined;
  /**
   * Its text in the assembler's usual syntax, e.g. `mov rdi,[rip+0x2f1c]`. Apart from `decode` because it costs
   * more than decoding and is wanted for few of the instructions that are decoded.
   */
  format(instruction: Instruction): string;
  /**
   * The offsets (from the start of `code`) at which instructions start, decoding straight on from its start, and
   * the offset at which decoding failed (equal to `code.length` when it did not).
   */
  boundaries(
    code: Uint8Array,
    address: VirtualAddress,
  ): { readonly starts: Uint32Array; readonly end: number };
  /** What an instruction says of another place; undefined where it says nothing. */
  reference(instruction: Instruction): CodeReference | undefined;
  /**
   * How many of the last instructions of a function, as `boundaries` found them, are none of it but fill the room up to the
   * next one.
   */
  countPadding(code: Uint8Array, found: { readonly starts: Uint32Array; readonly end: number }): number;
  /** Whether an address, with up to 7 bytes that stand before it, may be one that a function returns to. */
  mayBeReturnAddress(address: number, before: Uint8Array): boolean;
  /** How the instruction runs out of line, or the named refusal. */
  displace(instruction: Instruction): Displaced;
}
