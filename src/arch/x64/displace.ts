/**
 * How an instruction runs out of line. One whose effect does not depend on where it is runs as it is; a pc-relative
 * field is pointed at what it meant; a call pushes the program's own return address.
 *
 * What this cannot hide:
 * - x87 instructions leave their own address (the slot's) in the FPU's instruction pointer, which fnstenv, fnsave,
 *   fxsave and xsave show.
 * - A call through memory reads its target after the push, not before. Through a register that points right below
 *   the stack it would jump to its own return address; and where neither the target can be read nor the stack be
 *   written, the fault is the stack's.
 * - A call that faults has written its return address below the stack pointer, where nothing lives.
 * - An instruction that reads its own bytes sees the breakpoint in them.
 * A thread with a shadow stack (CET) must not run displaced calls: a push and a jump do not write it.
 */
import type { Refusal } from '../../base/errors.js';
import type { Displaced } from '../arch.js';
import { SlotWriter } from './slot-writer.js';
import type { Iced } from './iced.js';
import { modOf, parseEncoding, regOf, REX_B, REX_X, rmOf, type Encoding } from './encoding.js';
import * as refused from './refused.js';

/** An instruction of 64-bit mode and what is known of it. */
interface Subject {
  readonly bytes: Uint8Array;
  readonly encoding: Encoding;
  /** Offset of the displacement from rip, where there is one. */
  readonly ipRelativeAt: number | undefined;
}

const refuse = (refusal: Refusal): Displaced => ({ ok: false, refusal });

export function displace(decoder: Iced, bytes: Uint8Array): Displaced {
  decoder.load(bytes);
  if (decoder.next() !== bytes.length) return refuse(refused.NOT_AN_INSTRUCTION);
  const encoding = parseEncoding(bytes);
  const listed = refused.refusalOf(encoding);
  if (listed !== undefined) return refuse(listed);
  if (decoder.isPrivileged()) return refuse(refused.PRIVILEGED);
  const ipRelativeAt = decoder.ipRelativeAt();
  if (ipRelativeAt !== undefined && encoding.addressSize32) return refuse(refused.EIP_RELATIVE);
  return templateOf({ bytes, encoding, ipRelativeAt });
}

function templateOf(subject: Subject): Displaced {
  const { opcode, modrm, operandSize16 } = subject.encoding;
  const group = opcode === 0xff ? regOf(modrm) : undefined;
  const isReturn = opcode === 0xc2 || opcode === 0xc3;
  // These do not depend on their own address: running them is exact whatever a 66 prefix means to the processor.
  if (isReturn || group === 4) return transfer(subject);
  const displaceBranch = group === 2 ? callIndirect : relativeBranch(subject);
  if (displaceBranch === undefined) return plain(subject);
  return operandSize16 ? refuse(refused.AMBIGUOUS_PREFIX) : displaceBranch(subject);
}

/** How to displace a branch whose target is relative to it; undefined for what is none. */
function relativeBranch({ bytes, encoding }: Subject): ((subject: Subject) => Displaced) | undefined {
  const opcode = encoding.opcode ?? 0;
  const short = (): number => bytes.length + (((bytes.at(-1) as number) << 24) >> 24);
  const near = (): number => bytes.length + int32At(bytes, bytes.length - 4);
  if (opcode === 0xe8) return (subject) => call(subject, near());
  if (opcode === 0xe9) return (subject) => jump(subject, near());
  if (opcode === 0xeb) return (subject) => jump(subject, short());
  if (opcode >= 0x70 && opcode <= 0x7f) return (subject) => conditional(subject, short());
  if (opcode >= 0x0f80 && opcode <= 0x0f8f) return (subject) => conditional(subject, near());
  if (opcode >= 0xe0 && opcode <= 0xe3) return (subject) => loop(subject, short());
  return undefined;
}

/** The instruction as it is, then back. */
function plain(subject: Subject): Displaced {
  const slot = new SlotWriter(subject.bytes.length);
  copy(slot, subject);
  slot.stop(subject.bytes.length).jumpTo(subject.bytes.length);
  return slot.finish({ pushesFlags: subject.encoding.opcode === 0x9c });
}

/** An instruction that goes where it goes by itself. */
function transfer(subject: Subject): Displaced {
  const slot = new SlotWriter(subject.bytes.length);
  copy(slot, subject);
  return slot.finish();
}

function copy(slot: SlotWriter, { bytes, ipRelativeAt }: Subject): void {
  if (ipRelativeAt === undefined) {
    slot.copy(bytes, 0, bytes.length);
    return;
  }
  const behind = ipRelativeAt + 4;
  slot.copy(bytes, 0, ipRelativeAt);
  slot.relative(bytes.length + int32At(bytes, ipRelativeAt), bytes.length - behind);
  slot.copy(bytes, behind, bytes.length);
}

/** Prefixes of direct jumps are dropped: branch hints and `bnd` mean nothing where MPX is not enabled. */
function jump({ bytes }: Subject, target: number): Displaced {
  return new SlotWriter(bytes.length).jumpTo(target).finish();
}

function conditional({ bytes, encoding: { opcode = 0 } }: Subject, target: number): Displaced {
  const slot = new SlotWriter(bytes.length);
  slot.emit(0x0f, 0x80 | (opcode & 0x0f)).relative(target);
  return slot.stop(bytes.length).jumpTo(bytes.length).finish();
}

/** loop, loope, loopne, jrcxz: short only, so it chooses between two jumps. Its prefixes choose ecx or rcx. */
function loop({ bytes }: Subject, target: number): Displaced {
  const slot = new SlotWriter(bytes.length);
  slot.copy(bytes, 0, bytes.length - 1).emit(JUMP_LENGTH);
  slot.stop(bytes.length).jumpTo(bytes.length);
  slot.stop(undefined).jumpTo(target);
  return slot.finish();
}
const JUMP_LENGTH = 5;

function call({ bytes }: Subject, target: number): Displaced {
  const slot = new SlotWriter(bytes.length);
  slot.pushReturnAddress(JUMP_LENGTH).jumpTo(target);
  return slot.finish();
}

/** `call r/m` as the push it does, and `jmp r/m` (the same encoding with 4 for 2 in ModRM.reg). */
function callIndirect(subject: Subject): Displaced {
  const operand = afterPush(subject);
  if (operand === undefined) return refuse(refused.CALL_THROUGH_STACK_POINTER);
  const { bytes } = subject;
  const { opcodeAt } = subject.encoding;
  const jmp = Uint8Array.of(...bytes.subarray(0, opcodeAt + 1), ...operand);
  const slot = new SlotWriter(bytes.length);
  slot.pushReturnAddress(jmp.length);
  // Same length as the call wherever the operand is relative to rip: only rsp-based ones are rewritten.
  copy(slot, { ...subject, bytes: jmp });
  return slot.finish();
}

/**
 * The operand of an indirect call (ModRM and what follows) for a jump that comes after the push: based on rsp it
 * is 8 further up. Undefined where it is rsp, or where the push overwrites it. Intel SDM vol. 2, CALL: the target
 * is read before the return address is pushed.
 */
function afterPush({ bytes, encoding }: Subject): Uint8Array | undefined {
  const { opcodeAt, modrm, rex } = encoding;
  const mod = modOf(modrm);
  const operand = Uint8Array.from(bytes.subarray(opcodeAt + 1));
  operand[0] = (modrm & ~0x38) | (4 << 3);
  if (rmOf(modrm) !== 4) return operand;
  if (mod === 3) return (rex & REX_B) === 0 ? undefined : operand;
  const sib = operand[1] as number;
  if (rmOf(sib) !== 4 || (rex & REX_B) !== 0) return operand;
  const displacement = mod === 0 ? 0 : mod === 1 ? ((operand[2] as number) << 24) >> 24 : int32At(operand, 2);
  const hasIndex = regOf(sib) !== 4 || (rex & REX_X) !== 0;
  const overwritten = !hasIndex && displacement > -16 && displacement < 0;
  if (overwritten || displacement + 8 > 0x7fff_ffff) return undefined;
  const rewritten = Uint8Array.of(0x80 | (4 << 3) | 4, sib, 0, 0, 0, 0);
  new DataView(rewritten.buffer).setInt32(2, displacement + 8, true);
  return rewritten;
}

const int32At = (bytes: Uint8Array, at: number): number =>
  (bytes[at] as number) |
  ((bytes[at + 1] as number) << 8) |
  ((bytes[at + 2] as number) << 16) |
  ((bytes[at + 3] as number) << 24);
