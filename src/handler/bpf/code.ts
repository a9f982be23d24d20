/** What the BPF back end is asked for, and what it makes: instructions that still want the maps they use. Plain data. */
import type { Refusal } from '../../base/errors.js';
import type { Program, Span } from '../ir.js';
import { cellWords, type Aggregate, type CellShape } from '../shapes.js';

/** What the kernel at hand can do, and whom it serves. Found by trying. */
export interface BpfTarget {
  /** Possible CPUs: /sys/devices/system/cpu/possible. */
  readonly cpus: number;
  /** Programs on uprobes may sleep: what is not in memory can be read, as a program that reads it would (bpf_copy_from_user). */
  readonly sleepable: boolean;
  /** BTF ids of the kernel functions bpf_session_cookie and bpf_session_is_return; undefined: one link for the entry, one for the return. */
  readonly session: { readonly cookie: number; readonly isReturn: number } | undefined;
  /** Hits in this process (ours) are left alone. */
  readonly ownPid: number;
  /** Where pids count from, when that is not the whole machine: of /proc/self/ns/pid (bpf_get_ns_current_pid_tgid). */
  readonly pidNamespace: { readonly dev: bigint; readonly ino: bigint } | undefined;
}

/**
 * One program for any number of uprobes with the same handlers. Each uprobe has a number from 0, which its attach cookie has in
 * the lower 32 bits. In the upper 32 are the bytes from its place to where the kernel really stops: not 0 behind an endbr64.
 */
export interface BpfRequest {
  /** `entry`: attached where the places are; `return`: to their returns; `session`: to both, as one. */
  readonly attach: 'entry' | 'return' | 'session';
  /** At the entry. Without either handler hits are counted. */
  readonly pre: Program | undefined;
  readonly return: Program | undefined;
  readonly uprobes: number;
  /** Nothing is done at hits in other processes: for what brings us hits of those, too. */
  readonly pid?: number | undefined;
  /** Uprobes can be switched off: nothing is done at hits of one whose word `TALLY_OFF` (in the first copy) is not 0. */
  readonly switched?: boolean;
}

/** What each uprobe has counted: words of the map `tally`. */
export interface TallyLayout {
  readonly uprobes: number;
  /** Copies of the counts, one for each CPU, or 1. */
  readonly copies: number;
}
/**
 * First the ids of the uprobes (`Uprobe.id`), written by us; then for each copy and uprobe these words. Each copy begins on a cache line
 * of its own: an array that is mapped begins on a page.
 */
export const TALLY = { hits: 0, missed: 1, errors: 2 } as const;
/** Not counted, but said by us: see `switched`. */
export const TALLY_OFF = 3;
export const TALLY_WORDS = 4;
const LINE_WORDS = 8;
const toLine = (words: number): number => Math.ceil(words / LINE_WORDS) * LINE_WORDS;
const tallyCopyWords = ({ uprobes }: TallyLayout): number => toLine(uprobes * TALLY_WORDS);
export const tallyWords = (layout: TallyLayout): number =>
  toLine(layout.uprobes) + layout.copies * tallyCopyWords(layout);
export const tallyIndex = (layout: TallyLayout, copy: number, uprobe: number): number =>
  toLine(layout.uprobes) + copy * tallyCopyWords(layout) + uprobe * TALLY_WORDS;

/** Words from one CPU's cell of an aggregate to the next one's. */
export const cellStride = (shape: CellShape): number => toLine(cellWords(shape));

/** A map that a program uses. Maps of the same key are one map, also in several programs. */
export type MapKey =
  | { readonly of: 'tally' }
  /**
   * Cells of an aggregate: an array of one value with a cell for each CPU, `cellStride` words apart; of a table, a hash
   * whose keys are as `layOut` has them and whose values are cells; of events, a ring.
   */
  | { readonly of: 'aggregate'; readonly aggregate: Aggregate }
  /** What else an aggregate needs: of a table one word of overflow, then an empty cell to begin entries with; of events one word, the lost. */
  | { readonly of: 'beside'; readonly aggregate: Aggregate }
  /** What is kept from an entry to its return: shared by the entry and the return program of a request. */
  | { readonly of: 'calls' }
  /** Working memory that does not fit on the stack: one program's own. */
  | { readonly of: 'scratch' };

export interface MapSpec {
  readonly key: MapKey;
  readonly type: 'array' | 'hash' | 'lruHash' | 'ring';
  readonly keyBytes: number;
  readonly valueBytes: number;
  readonly entries: number;
  /** An array that we map into our memory, too. */
  readonly mapped: boolean;
  /** How the map's first value begins, where not with zeros. */
  readonly initial?: Uint8Array;
}

/** Where an instruction wants a map: a 16-byte load (BPF_LD | BPF_IMM | BPF_DW). */
export interface MapUse {
  /** The instruction's number. */
  readonly at: number;
  /** Which of `maps`. */
  readonly map: number;
  /** The address of a byte of its first value (BPF_PSEUDO_MAP_VALUE); undefined: the map itself (BPF_PSEUDO_MAP_FD). */
  readonly offset: number | undefined;
}

export interface BpfCode {
  /** struct bpf_insn, eight bytes each. */
  readonly instructions: Uint8Array;
  readonly maps: readonly MapSpec[];
  readonly uses: readonly MapUse[];
  readonly tally: TallyLayout;
  /** It must be loaded with BPF_F_SLEEPABLE. */
  readonly sleeps: boolean;
  /** For each instruction, whose text it comes from, and where in it; undefined: nobody's. */
  readonly origins: readonly ({ readonly program: Program; readonly at: Span } | undefined)[];
}

export type BpfResult =
  { readonly ok: true; readonly code: BpfCode } | { readonly ok: false; readonly refusal: Refusal };
