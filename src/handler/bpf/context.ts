/** What the parts of the code generator share while one program is made. */
import { Assembler, R0, R1, R2, R7 } from '../../arch/bpf/assembler.js';
import type { Phrase } from '../../base/words.js';
import { makeRefusal, type Refusal } from '../../base/errors.js';
import type { Program, Register, Span, Statement } from '../ir.js';
import {
  TALLY_OFF,
  tallyIndex,
  tallyWords,
  type BpfRequest,
  type BpfTarget,
  type MapKey,
  type MapSpec,
  type TallyLayout,
} from './code.js';
import type { Frame, Place } from './frame.js';

export interface Origin {
  readonly program: Program;
  readonly at: Span;
}

/** Thrown to the top, where it becomes a value. */
export class Refused extends Error {
  constructor(readonly refusal: Refusal) {
    super(refusal.reason);
  }
}
export function refuse(code: string, reason: string, remedy: Phrase): never {
  throw new Refused(makeRefusal(code, reason, remedy));
}

/** Words on the stack that are filled at the beginning, where anything looks at them. */
export interface Kept {
  readonly time?: Place;
  /** The statement that fills `time` itself, being the only one that looks at it. */
  readonly timedBy?: Statement | undefined;
  /** Thread id in the lower half, process id in the upper, as they count where we are. */
  readonly ids?: Place;
  /** From the place to where the kernel stops. */
  readonly bias?: Place | undefined;
  /** Of the call that returns, or that has begun. */
  readonly entryTime?: Place;
  readonly entryArgs?: ReadonlyMap<number, Place>;
  readonly call?: { readonly value: Place; readonly present: Place };
}

/** struct pt_regs (arch/x86/include/uapi/asm/ptrace.h), in words; what the kernel does not keep there is not here. */
// prettier-ignore
const SAVED: readonly Register[] = [
  'r15', 'r14', 'r13', 'r12', 'bp', 'bx', 'r11', 'r10', 'r9', 'r8', 'ax', 'cx', 'dx', 'si', 'di', 'origAx', 'ip', 'cs', 'flags', 'sp', 'ss',
];
export function savedAt(name: Register): number | undefined {
  const index = SAVED.indexOf(name);
  return index === -1 ? undefined : index * 8;
}
/** SysV psABI 3.2.3. */
export const ARGUMENTS: readonly Register[] = ['di', 'si', 'dx', 'cx', 'r8', 'r9'];
export const argumentAt = (index: number): number => savedAt(ARGUMENTS[index]!)!;

/** Per CPU counts as long as they stay small. */
const MOST_TALLY_BYTES = 256 * 1024;
export function tallyFor(uprobes: number, cpus: number): TallyLayout {
  const layout = { uprobes, copies: cpus };
  return tallyWords(layout) * 8 <= MOST_TALLY_BYTES ? layout : { uprobes, copies: 1 };
}

export class Context {
  readonly asm = new Assembler<Origin>();
  readonly maps: MapSpec[] = [];
  readonly tally: TallyLayout;
  readonly frame: Frame;

  constructor(
    readonly request: BpfRequest,
    readonly target: BpfTarget,
    /** The program may sleep. */
    readonly sleeps: boolean,
    frame: Frame,
  ) {
    this.frame = frame;
    this.tally = tallyFor(request.uprobes, target.cpus);
  }

  /** The number of a map among those that the program uses. */
  map(spec: MapSpec): number {
    const index = this.maps.findIndex((known) => isSameKey(known.key, spec.key));
    return index === -1 ? this.maps.push(spec) - 1 : index;
  }

  tallyMap(): number {
    const valueBytes = tallyWords(this.tally) * 8;
    return this.map({
      key: { of: 'tally' },
      type: 'array',
      keyBytes: 4,
      valueBytes,
      entries: 1,
      mapped: true,
    });
  }

  /** r0 = this CPU's number times `bytes`; 0 where there is only one. Destroys r1–r5. */
  cpuOffset(cpus: number, bytes: number): void {
    const { asm } = this;
    if (cpus === 1) return asm.mov(R0, 0n);
    const isInside = asm.label();
    asm.call('get_smp_processor_id');
    // It always is; the verifier does not know.
    asm.jumpIf('lt', R0, BigInt(cpus), isInside);
    asm.mov(R0, 0n);
    asm.place(isInside);
    asm.alu('mul', R0, BigInt(bytes));
  }

  /** Destroys r0–r5. */
  readTime({ base, offset }: Place): void {
    this.asm.call('ktime_get_ns');
    this.asm.store(8, base, offset, R0);
  }

  /** One more of a word of the uprobe's counts. Destroys r0–r5. */
  count(word: number): void {
    const { asm, tally } = this;
    const first = tallyIndex(tally, 0, 0);
    if (tally.copies > 1) this.cpuOffset(tally.copies, (tallyIndex(tally, 1, 0) - first) * 8);
    asm.loadMapValue(R1, this.tallyMap(), (first + word) * 8);
    if (tally.copies > 1) asm.alu('add', R1, R0);
    this.#toUprobe();
    asm.mov(R2, 1n);
    asm.atomic('add', R1, 0, R2);
  }

  /** r0 = not 0 where the uprobe is switched off. Destroys r1. */
  off(): void {
    const { asm, tally } = this;
    asm.loadMapValue(R1, this.tallyMap(), (tallyIndex(tally, 0, 0) + TALLY_OFF) * 8);
    this.#toUprobe();
    asm.load(8, R0, R1, 0);
  }

  /** r1: from a word of the first uprobe to that of the one that is hit. Destroys r0. */
  #toUprobe(): void {
    const { asm, tally } = this;
    if (tally.uprobes === 1) return;
    asm.mov(R0, R7);
    asm.alu('mul', R0, BigInt((tallyIndex(tally, 0, 1) - tallyIndex(tally, 0, 0)) * 8));
    asm.alu('add', R1, R0);
  }
}

const isSameKey = (a: MapKey, b: MapKey): boolean =>
  a.of === b.of && (!('aggregate' in a) || ('aggregate' in b && a.aggregate === b.aggregate));
