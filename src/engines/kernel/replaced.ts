/**
 * Taking some uprobes out of a link without touching the counts of the others. A link cannot be changed: another one is made for those
 * that stay, and then the first is closed. In between both run at a hit, and only one of them may do what the hit is for.
 *
 * The kernel calls whoever came last first (kernel/events/uprobes.c, consumer_add). So the newer program leaves a mark for the thread,
 * and the older one, where it finds that, takes it away and does nothing else. A thread is at one hit at a time. Each generation of
 * programs begins with the code below; outside of a change it costs one look at a word.
 */
import { INSTRUCTION_BYTES, type MapShape } from '../../linux/bpf.js';

/** What a generation does with marks. */
export const ROLE = { none: 0, older: 1, newer: 2 } as const;
/** One word for each of the two generations that there can be at a time. */
export const ROLES: MapShape = { type: 'array', keyBytes: 4, valueBytes: 16, entries: 1, mapped: true };
/** By thread: at most so many are at a hit at once. */
export const MARKS: MapShape = {
  type: 'hash',
  keyBytes: 8,
  valueBytes: 8,
  entries: 65_536,
  mapped: false,
  sparse: true,
};

const HELPER = { mapUpdate: 2, mapDelete: 3, currentPidTgid: 14 } as const;
const [R0, R1, R2, R3, R4, R6, R10] = [0, 1, 2, 3, 4, 6, 10];
/** Of jumps: to what comes behind the prologue, and to where a mark is left. */
const AT = { role: 1, marks: 9, main: 19, mark: 15 } as const;

/** struct bpf_insn */
const insn = (opcode: number, to: number, from: number, offset = 0, immediate = 0): number[] => [
  opcode,
  (from << 4) | to,
  ...new Uint8Array(Int16Array.of(offset).buffer),
  ...new Uint8Array(Int32Array.of(immediate).buffer),
];
const NOTHING = insn(0, 0, 0);
const jump = (from: number, to: number): number => to - from - 1;

// prettier-ignore
const PROLOGUE = Uint8Array.from([
  insn(0xbf, R6, R1),                                    //  0: r6 = r1
  insn(0x18, R1, 0), NOTHING,                            //  1: r1 = &role
  insn(0x79, R1, R1),                                    //  3: r1 = *r1
  insn(0x15, R1, 0, jump(4, AT.main), ROLE.none),        //  4: if r1 == none goto main
  insn(0x7b, R10, R1, -16),                              //  5: [r10 - 16] = r1
  insn(0x85, 0, 0, 0, HELPER.currentPidTgid),            //  6: r0 = thread
  insn(0x7b, R10, R0, -8),                               //  7: [r10 - 8] = r0
  insn(0x79, R3, R10, -16),                              //  8: r3 = role
  insn(0x18, R1, 0), NOTHING,                            //  9: r1 = marks
  insn(0xbf, R2, R10),                                   // 11: r2 = r10 - 8
  insn(0x07, R2, 0, 0, -8),
  insn(0x15, R3, 0, jump(13, AT.mark), ROLE.newer),      // 13: if r3 == newer goto mark
  insn(0x05, 0, 0, jump(14, 20)),                        // 14: goto older
  insn(0xbf, R3, R10),                                   // 15: mark: r3 = r10 - 16
  insn(0x07, R3, 0, 0, -16),
  insn(0xb7, R4, 0),                                     // 17: r4 = 0
  insn(0x85, 0, 0, 0, HELPER.mapUpdate),                 // 18: marks[thread] = role
  insn(0x05, 0, 0, jump(19, 24)),                        // 19: main: goto end
  insn(0x85, 0, 0, 0, HELPER.mapDelete),                 // 20: older: r0 = delete marks[thread]
  insn(0x55, R0, 0, jump(21, AT.main)),                  // 21: if r0 != 0 goto main
  insn(0xb7, R0, 0),                                     // 22: return 0
  insn(0x95, 0, 0),
  insn(0xbf, R1, R6),                                    // 24: end: r1 = r6
].flat());

export const PROLOGUE_INSTRUCTIONS = PROLOGUE.length / INSTRUCTION_BYTES;

export const withPrologue = (instructions: Uint8Array): Uint8Array => {
  const whole = new Uint8Array(PROLOGUE.length + instructions.length);
  whole.set(PROLOGUE);
  whole.set(instructions, PROLOGUE.length);
  return whole;
};

/** Where it wants its maps; `generation` is 0 or 1. */
export const prologuePatches = (roles: number, marks: number, generation: number) => [
  { at: AT.role, fd: roles, offset: generation * 8 },
  { at: AT.marks, fd: marks, offset: undefined },
];
