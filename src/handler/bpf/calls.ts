/**
 * What is kept from a function's entry to its return. The time alone fits into the word that the kernel keeps for each call of a session;
 * all else is in a hash, by thread and stack pointer. Calls that never return (longjmp, a throw) leave theirs behind: it forgets the
 * oldest.
 */
import { R0, R1, R2, R3, R4, R6, type Label } from '../../arch/bpf/assembler.js';
import type { Program } from '../ir.js';
import type { BpfRequest, BpfTarget, MapSpec } from './code.js';
import { argumentAt, savedAt, type Context, type Kept } from './context.js';
import { factsOf } from './facts.js';
import { beyond, type Place } from './frame.js';
import { Memory } from './memory.js';

export interface Needs {
  readonly time: boolean;
  readonly args: readonly number[];
  readonly call: boolean;
  /** In the session's word. */
  readonly inSession: boolean;
}

/** Calls at a time, of all threads. */
export const MOST_CALLS = 65_536;

/** What the return handler wants of the entry; undefined: nothing. */
export function wantedOfEntry(program: Program | undefined): Omit<Needs, 'inSession'> | undefined {
  if (program === undefined) return undefined;
  const facts = factsOf(program, false);
  const time = facts.has((expr) => expr.op === 'duration');
  const call = facts.has((expr) => expr.op === 'call');
  const args = [0, 1, 2, 3, 4, 5].filter((n) =>
    facts.has((expr) => expr.op === 'entryArg' && expr.index === n),
  );
  return time || call || args.length > 0 ? { time, args, call } : undefined;
}

export function needsOf(
  request: Pick<BpfRequest, 'attach' | 'return'>,
  target: BpfTarget,
): Needs | undefined {
  const wanted = wantedOfEntry(request.return);
  if (wanted === undefined) return undefined;
  const { call, args } = wanted;
  const inSession =
    target.session !== undefined && request.attach === 'session' && !call && args.length === 0;
  return { ...wanted, inSession };
}

const wordsIn = ({ time, args, call }: Needs): number => Number(time) + args.length + 2 * Number(call);

const callsMap = (needs: Needs): MapSpec => ({
  key: { of: 'calls' },
  type: 'lruHash',
  keyBytes: 16,
  valueBytes: wordsIn(needs) * 8,
  entries: MOST_CALLS,
  mapped: false,
});

/** At the entry, behind the pre handler. */
export function keepCall(context: Context, needs: Needs, kept: Kept): void {
  const { asm, frame, target } = context;
  const memory = new Memory(asm);
  if (needs.inSession) {
    asm.mov(R1, R6);
    asm.callKernel(target.session!.cookie);
    memory.load(R1, kept.time!);
    return asm.store(8, R0, 0, R1);
  }
  frame.within(() => {
    const record = frame.buffer(wordsIn(needs) * 8);
    const words: ((to: typeof R0) => void)[] = [
      ...(needs.time ? [(to: typeof R0) => memory.load(to, kept.time!)] : []),
      ...needs.args.map((n) => (to: typeof R0) => asm.load(8, to, R6, argumentAt(n))),
    ];
    const { call } = kept;
    if (needs.call) {
      words.push(
        (to) => (call ? memory.load(to, call.value) : asm.mov(to, 0n)),
        (to) => (call ? memory.load(to, call.present) : asm.mov(to, 0n)),
      );
    }
    words.forEach((load, i) => {
      load(R0);
      memory.store(beyond(record, i * 8), R0);
    });
    const key = callKey(context, memory, 0n);
    asm.loadMap(R1, context.map(callsMap(needs)));
    memory.address(R2, key);
    memory.address(R3, record);
    asm.mov(R4, 0n); // BPF_ANY: a call of the same frame that never returned is replaced
    asm.call('map_update_elem');
  });
}

/** At the return, before its handler: onto the stack, or on to `missing`. */
export function findCall(context: Context, needs: Needs, missing: Label): Partial<Kept> {
  const { asm, frame, target } = context;
  const memory = new Memory(asm);
  if (needs.inSession) {
    const entryTime = frame.word();
    asm.mov(R1, R6);
    asm.callKernel(target.session!.cookie);
    asm.load(8, R0, R0, 0);
    asm.jumpIf('eq', R0, 0n, missing); // a call whose entry was missed
    memory.store(entryTime, R0);
    return { entryTime };
  }
  const record = frame.buffer(wordsIn(needs) * 8);
  const map = context.map(callsMap(needs));
  frame.within(() => {
    // The return address is no longer there.
    const key = callKey(context, memory, 8n);
    asm.loadMap(R1, map);
    memory.address(R2, key);
    asm.call('map_lookup_elem');
    asm.jumpIf('eq', R0, 0n, missing);
    memory.copyFrom(record, R0, wordsIn(needs));
    asm.loadMap(R1, map);
    memory.address(R2, key);
    asm.call('map_delete_elem');
  });
  const word = (n: number): Place => beyond(record, n * 8);
  const firstArg = Number(needs.time);
  const firstCall = firstArg + needs.args.length;
  return {
    ...(needs.time ? { entryTime: word(0) } : {}),
    entryArgs: new Map(needs.args.map((n, i) => [n, word(firstArg + i)])),
    ...(needs.call ? { call: { value: word(firstCall), present: word(firstCall + 1) } } : {}),
  };
}

/** The thread, as the whole machine counts it, and where its stack was at the entry. */
function callKey({ asm, frame }: Context, memory: Memory, popped: bigint): Place {
  const key = frame.buffer(16);
  asm.call('get_current_pid_tgid');
  memory.store(key, R0);
  asm.load(8, R0, R6, savedAt('sp')!);
  if (popped !== 0n) asm.alu('sub', R0, popped);
  memory.store(beyond(key, 8), R0);
  return key;
}
