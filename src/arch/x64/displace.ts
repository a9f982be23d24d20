/**
 * How an instruction runs out of line. One whose effect does not depend on where it is runs as it is; a pc-relative
 * field is pointed at what it meant; a call pushes the program's own return address; `syscall` gets the address that
 * it leaves in rcx corrected. What depends on its place in a way that no code elsewhere can imitate is stepped in its
 * own place.
 *
 * What this cannot hide:
 * - x87 instructions leave their own address (the slot's) in the FPU's instruction pointer, which fnstenv, fnsave,
 *   fxsave and xsave show.
 * - A call through memory reads its target after the push, not before. Through a register that points right below
 *   the stack it would jump to its own return address; and where neither the target can be read nor the stack be
 *   written, the fault is the stack's.
 * - A call that faults has written its return address below the stack pointer, where nothing lives.
 * - An instruction that reads its own bytes sees the breakpoint in them.
 * A push and a jump do not write a shadow stack (CET): calls of a thread that has one must run in place.
 */
import type { Refusal } from '../../base/errors.js';
import type { Displaced } from '../arch.js';
import { inPlace } from '../slot.js';
import { SlotWriter, type Traits } from './slot-writer.js';
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
const stepInPlace = ({ bytes }: Subject): Displaced => ({ ok: true, template: inPlace(bytes.length) });

export function displace(decoder: Iced, bytes: Uint8Array): Displaced {
  decoder.load(bytes);
  if (decoder.next() !== bytes.length) return refuse(refused.NOT_AN_INSTRUCTION);
  const encoding = parseEncoding(bytes);
  const listed = refused.refusalOf(encoding);
  if (listed !== undefined) return refuse(listed);
  return templateOf({ bytes, encoding, ipRelativeAt: decoder.ipRelativeAt() });
}

function templateOf(subject: Subject): Displaced {
  const { encoding, ipRelativeAt } = subject;
  // relative to the low 32 bits of the instruction pointer, which a slot elsewhere does not share
  if (ipRelativeAt !== undefined && encoding.addressSize32) return stepInPlace(subject);
  const special = kernelEntry(subject) ?? transfers(subject) ?? flagsOrStack(subject);
  if (special !== undefined) return special;
  const displaceBranch = isNearCall(encoding) ? callIndirect : relativeBranch(subject);
  if (displaceBranch === undefined) return plain(subject);
  // With a 66 prefix Intel processors ignore the prefix and AMD's shorten the address: in its place it is what it is here.
  return encoding.operandSize16 ? stepInPlace(subject) : displaceBranch(subject);
}

const isNearCall = ({ opcode, modrm }: Encoding): boolean => opcode === 0xff && regOf(modrm) === 2;

/** Instructions that raise an exception or a system call on purpose. */
function kernelEntry(subject: Subject): Displaced | undefined {
  const { bytes, encoding } = subject;
  const { opcode } = encoding;
  if (opcode === 0x0f05) return syscall(subject);
  if (opcode === 0xcc || opcode === 0xf1) return plain(subject, { raisesTrap: true }); // int3, int1
  if (opcode !== 0xcd) return undefined;
  const vector = bytes.at(-1) as number;
  const traits: Traits = vector === 3 ? { raisesTrap: true } : { entersKernel: true };
  // Restarting it the kernel goes two bytes back (arch/x86/kernel/signal.c): without prefixes that is its start.
  return beforeNop(new SlotWriter(bytes.length).emit(0xcd, vector), subject, traits);
}

/** What goes where it goes by itself, and says nothing of where it came from. */
function transfers(subject: Subject): Displaced | undefined {
  const { opcode, modrm } = subject.encoding;
  const group = opcode === 0xff ? regOf(modrm) : undefined;
  if (group === 3) return stepInPlace(subject); // a far call pushes its own address
  // Running them is exact whatever a 66 prefix means to the processor: near and far jumps through memory,
  if (group === 4 || group === 5) return transfer(subject);
  // near and far returns, sysenter (which returns into the vDSO),
  if (opcode !== undefined && RETURNS.has(opcode)) return transfer(subject);
  // and iret and uiret
  if (opcode === 0xcf || (opcode === 0x0f01 && modrm === 0xec))
    return transfer(subject, { loadsFlags: true });
  return undefined;
}

const RETURNS: ReadonlySet<number> = new Set([0xc2, 0xc3, 0xca, 0xcb, 0x0f34]);

/**
 * popf may set the program's own trap flag, and loads of ss hold all traps back for one instruction (Intel SDM vol. 3,
 * 6.8.3): what comes after them in the slot must not be the jump back, whose trap could not be told from one of the
 * program's.
 */
function flagsOrStack(subject: Subject): Displaced | undefined {
  const { bytes, encoding } = subject;
  const { opcode, modrm } = encoding;
  const isPopf = opcode === 0x9d;
  const loadsSs = opcode === 0x0fb2 || (opcode === 0x8e && regOf(modrm) === 2);
  if (isPopf || loadsSs) {
    const slot = new SlotWriter(bytes.length);
    copy(slot, subject);
    return beforeNop(slot, subject, isPopf ? { loadsFlags: true } : {});
  }
  if (opcode === 0xc7 && modrm === 0xf8) return beginTransaction(subject);
  return undefined;
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
function plain(subject: Subject, traits: Traits = {}): Displaced {
  const slot = new SlotWriter(subject.bytes.length);
  copy(slot, subject);
  slot.stop(subject.bytes.length).jumpTo(subject.bytes.length);
  return slot.finish({ pushesFlags: subject.encoding.opcode === 0x9c, ...traits });
}

/** An instruction that goes where it goes by itself. */
function transfer(subject: Subject, traits?: Traits): Displaced {
  const slot = new SlotWriter(subject.bytes.length);
  copy(slot, subject);
  return slot.finish(traits);
}

/**
 * A nop after what has been written, then back. A trap of the program's own trap flag after the nop is one that its
 * instruction in place would not have made: the next instruction makes it.
 */
function beforeNop(slot: SlotWriter, { bytes }: Subject, traits: Traits): Displaced {
  slot.stop(bytes.length).emit(0x90);
  return slot.stop(bytes.length, 0, { silent: true }).jumpTo(bytes.length).finish(traits);
}

/**
 * Intel SDM vol. 2, SYSCALL: it leaves the address behind it in rcx, which is corrected here, and the flags in r11.
 * With the program's own trap flag set the first trap comes after the next instruction.
 */
function syscall({ bytes }: Subject): Displaced {
  const slot = new SlotWriter(bytes.length);
  slot.emit(0x0f, 0x05).stop(bytes.length, 0, { afterSyscall: true });
  slot.emit(0x48, 0xb9).absolute(bytes.length); // mov rcx, site + length
  slot.stop(bytes.length, 0, { silent: true, afterSyscall: true }).jumpTo(bytes.length);
  return slot.finish({ entersKernel: true });
}

/** xbegin: where an abort goes is relative. Intel SDM vol. 2: a 66 prefix shortens the field, not the address. */
function beginTransaction({ bytes, encoding }: Subject): Displaced {
  const short = ((bytes.at(-2) as number) | ((bytes.at(-1) as number) << 8)) << 16;
  const fallback = encoding.operandSize16 ? short >> 16 : int32At(bytes, bytes.length - 4);
  const slot = new SlotWriter(bytes.length);
  slot.emit(0xc7, 0xf8).relative(bytes.length + fallback);
  return slot.stop(bytes.length).jumpTo(bytes.length).finish();
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
  return slot.finish({ calls: true });
}

/** `call r/m` as the push it does, and `jmp r/m` (the same encoding with 4 for 2 in ModRM.reg). */
function callIndirect(subject: Subject): Displaced {
  const operand = afterPush(subject);
  if (operand === undefined) return stepInPlace(subject);
  const { bytes } = subject;
  const { opcodeAt } = subject.encoding;
  const jmp = Uint8Array.of(...bytes.subarray(0, opcodeAt + 1), ...operand);
  const slot = new SlotWriter(bytes.length);
  slot.pushReturnAddress(jmp.length);
  // Same length as the call wherever the operand is relative to rip: only rsp-based ones are rewritten.
  copy(slot, { ...subject, bytes: jmp });
  return slot.finish({ calls: true });
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
