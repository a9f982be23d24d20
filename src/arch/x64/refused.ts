/**
 * The instructions that are not displaced, as data: by opcode, and where that is shared by ModRM.reg (`reg`) or
 * the whole ModRM byte (`modrm`). Privileged ones are not listed: the decoder knows them.
 */
import type { Refusal } from '../../base/errors.js';
import { regOf, type Encoding } from './encoding.js';

interface RefusedOpcode {
  readonly opcode: number;
  readonly reg?: number;
  readonly modrm?: number;
  readonly refusal: Refusal;
}

const NEXT_INSTRUCTION = 'Probe the instruction before or after it';

const syscall: Refusal = {
  code: 'syscall-instruction',
  reason: 'the instruction enters the kernel, which saves, restarts and reports its address',
  remedy: NEXT_INSTRUCTION,
};
const softwareInterrupt: Refusal = {
  code: 'software-interrupt',
  reason: 'the instruction raises a software interrupt, and the kernel reports the address behind it',
  remedy: NEXT_INSTRUCTION,
};
const breakpoint: Refusal = {
  code: 'breakpoint-instruction',
  reason: 'the instruction is a breakpoint of the program itself',
  remedy: NEXT_INSTRUCTION,
};
const loadsFlags: Refusal = {
  code: 'loads-flags',
  reason:
    'the instruction loads the flags and may set the trap flag, so that the program would step through the slot',
  remedy: NEXT_INSTRUCTION,
};
const loadsSs: Refusal = {
  code: 'loads-ss',
  reason:
    'the instruction loads the stack segment, and the processor then takes no trap before the next one has run',
  remedy: NEXT_INSTRUCTION,
};
const farTransfer: Refusal = {
  code: 'far-transfer',
  reason: 'the instruction changes the code segment together with the address',
};
const transactional: Refusal = {
  code: 'transactional',
  reason: 'the instruction begins or ends a hardware transaction, which any trap aborts',
  remedy: 'Probe a place outside the transaction',
};
const enclave: Refusal = {
  code: 'enclave-instruction',
  reason: 'the instruction enters an SGX enclave, and the processor hands it the address behind it',
  remedy: NEXT_INSTRUCTION,
};

const REFUSED_OPCODES: readonly RefusedOpcode[] = [
  { opcode: 0x8e, reg: 2, refusal: loadsSs }, // mov ss,r/m
  { opcode: 0x9d, refusal: loadsFlags }, // popf
  { opcode: 0xc6, modrm: 0xf8, refusal: transactional }, // xabort
  { opcode: 0xc7, modrm: 0xf8, refusal: transactional }, // xbegin
  { opcode: 0xca, refusal: farTransfer }, // retf imm16
  { opcode: 0xcb, refusal: farTransfer }, // retf
  { opcode: 0xcc, refusal: breakpoint }, // int3
  { opcode: 0xcd, refusal: softwareInterrupt }, // int imm8
  { opcode: 0xcf, refusal: farTransfer }, // iret
  { opcode: 0xf1, refusal: breakpoint }, // int1
  { opcode: 0xff, reg: 3, refusal: farTransfer }, // call far
  { opcode: 0xff, reg: 5, refusal: farTransfer }, // jmp far
  { opcode: 0x0f01, modrm: 0xd5, refusal: transactional }, // xend
  { opcode: 0x0f01, modrm: 0xd7, refusal: enclave }, // enclu
  { opcode: 0x0f01, modrm: 0xec, refusal: farTransfer }, // uiret
  { opcode: 0x0f05, refusal: syscall }, // syscall
  { opcode: 0x0f34, refusal: syscall }, // sysenter
  { opcode: 0x0fb2, refusal: loadsSs }, // lss
];

const byOpcode = new Map<number | undefined, RefusedOpcode[]>();
for (const entry of REFUSED_OPCODES) {
  byOpcode.set(entry.opcode, [...(byOpcode.get(entry.opcode) ?? []), entry]);
}

/** Why an instruction of this opcode is not displaced; undefined when the table has nothing against it. */
export function refusalOf({ opcode, modrm }: Encoding): Refusal | undefined {
  return byOpcode
    .get(opcode)
    ?.find(({ reg = regOf(modrm), modrm: whole = modrm }) => reg === regOf(modrm) && whole === modrm)
    ?.refusal;
}

export const NOT_AN_INSTRUCTION: Refusal = {
  code: 'not-an-instruction',
  reason: 'the bytes are no instruction this decoder knows',
  remedy: 'Check that the place is code and the start of an instruction (objdump -d shows both)',
};
export const PRIVILEGED: Refusal = {
  code: 'privileged-instruction',
  reason: 'the instruction is privileged: in a program it can only fault, or talk to hardware',
  remedy: NEXT_INSTRUCTION,
};
export const AMBIGUOUS_PREFIX: Refusal = {
  code: 'ambiguous-branch-prefix',
  reason:
    'the branch has a 66 prefix, which Intel processors ignore and AMD processors take to shorten the address',
  remedy: NEXT_INSTRUCTION,
};
export const EIP_RELATIVE: Refusal = {
  code: 'eip-relative-operand',
  reason:
    'the operand is relative to the low 32 bits of the instruction pointer (67 prefix), which a slot elsewhere does not share',
  remedy: NEXT_INSTRUCTION,
};
export const CALL_THROUGH_STACK_POINTER: Refusal = {
  code: 'call-through-stack-pointer',
  reason:
    'the call takes its target from the stack pointer itself or from the bytes its own return address overwrites',
  remedy: 'Probe the instruction before it, or the function called',
};
