/**
 * Taking some uprobes out of a link without touching the counts of the others. A link cannot be changed: another one is made for those
 * that stay, and then the first is closed. In between both run at a hit, and only one of them may do what the hit is for.
 *
 * The kernel calls whoever came last first (kernel/events/uprobes.c, consumer_add). So the newer program leaves a mark for the thread,
 * and the older one, where it finds that, takes it away and does nothing else. A thread is at one hit at a time. Each generation of
 * programs begins with the code below; outside of a change it costs one look at a word.
 */
import { Assembler, R0, R1, R2, R3, R4, R6, R10, type MapReference } from '../../arch/bpf/assembler.js';
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

const MAP = { roles: 0, marks: 1 } as const;
/** On the stack: the thread, and below it what generation the program is of. */
const THREAD = -8;
const GENERATION = -16;

function prologue(): { readonly code: Uint8Array; readonly references: readonly MapReference[] } {
  const asm = new Assembler<never>();
  const mark = asm.label();
  const end = asm.label();
  asm.mov(R6, R1);
  asm.loadMapValue(R1, MAP.roles, 0);
  asm.load(8, R1, R1, 0);
  asm.jumpIf('eq', R1, BigInt(ROLE.none), end);
  asm.store(8, R10, GENERATION, R1);
  asm.call('get_current_pid_tgid');
  asm.store(8, R10, THREAD, R0);
  asm.load(8, R3, R10, GENERATION);
  asm.loadMap(R1, MAP.marks);
  asm.mov(R2, R10);
  asm.alu('add', R2, BigInt(THREAD));
  asm.jumpIf('eq', R3, BigInt(ROLE.newer), mark);
  asm.call('map_delete_elem');
  asm.jumpIf('ne', R0, 0n, end); // there was none
  asm.mov(R0, 0n);
  asm.exit();
  asm.place(mark);
  asm.mov(R3, R10);
  asm.alu('add', R3, BigInt(GENERATION));
  asm.mov(R4, 0n);
  asm.call('map_update_elem');
  asm.place(end);
  asm.mov(R1, R6);
  return { code: asm.finish(), references: asm.references };
}
const { code: PROLOGUE, references: REFERENCES } = prologue();

export const PROLOGUE_INSTRUCTIONS = PROLOGUE.length / INSTRUCTION_BYTES;

export const withPrologue = (instructions: Uint8Array): Uint8Array => {
  const whole = new Uint8Array(PROLOGUE.length + instructions.length);
  whole.set(PROLOGUE);
  whole.set(instructions, PROLOGUE.length);
  return whole;
};

/** Where it wants its maps; `generation` is 0 or 1. */
export const prologuePatches = (roles: number, marks: number, generation: number) =>
  REFERENCES.map(({ at, map, offset }) =>
    map === MAP.roles ? { at, fd: roles, offset: generation * 8 } : { at, fd: marks, offset },
  );
