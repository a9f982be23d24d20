/**
 * The instructions that are not displaced, as data: by opcode and the whole ModRM byte. What the decoder does not know
 * is no instruction.
 */
import type { Refusal } from '../../base/errors.js';
import type { Encoding } from './encoding.js';

interface RefusedOpcode {
  readonly opcode: number;
  readonly modrm: number;
  readonly refusal: Refusal;
}

const transactional: Refusal = {
  code: 'transactional',
  reason: 'the instruction ends a hardware transaction, which the trap of a breakpoint has aborted before',
  remedy: 'Probe a place outside the transaction; xbegin can be probed',
};
const enclave: Refusal = {
  code: 'enclave-instruction',
  reason:
    'the instruction enters an SGX enclave: the processor hands it the address behind it, and steps it as one instruction however long it runs',
  remedy: 'Probe the instruction before or after it',
};

const REFUSED_OPCODES: readonly RefusedOpcode[] = [
  { opcode: 0xc6, modrm: 0xf8, refusal: transactional }, // xabort
  { opcode: 0x0f01, modrm: 0xd5, refusal: transactional }, // xend
  { opcode: 0x0f01, modrm: 0xd7, refusal: enclave }, // enclu
];

/** Why an instruction of this opcode is not displaced; undefined when the table has nothing against it. */
export function refusalOf({ opcode, modrm }: Encoding): Refusal | undefined {
  return REFUSED_OPCODES.find((entry) => entry.opcode === opcode && entry.modrm === modrm)?.refusal;
}

export const NOT_AN_INSTRUCTION: Refusal = {
  code: 'not-an-instruction',
  reason: 'the bytes are no instruction this decoder knows',
  remedy: 'Check that the place is code and the start of an instruction (objdump -d shows both)',
};
