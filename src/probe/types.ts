/**
 * The public types. Their comments are the documentation users see in their editor.
 */
import type { PtRegs } from './regs.js';
import type { Uprobe } from './uprobe.js';
import type { Target } from './target.js';
import type { Refusal } from '../base/errors.js';
import type { EngineName, Phase } from '../engines/engine.js';
import type { ExitStatus } from '../process/spawn.js';

export type { Refusal, EngineName, ExitStatus };

/** Where in the file. Exactly one of the four forms; the file offset is always computed by the library. */
export type Place =
  /**
   * A function or label by name (`malloc`, `memcpy@@GLIBC_2.14`), with an offset in bytes into it. The name of an ifunc
   * (`strlen`) stands for the function that it chooses: one for processes that show which, else, with `registerUprobes`,
   * each that it may choose.
   */
  | { symbol: string; symbolOffset?: number }
  /** A file offset, as the kernel's uprobes take it; with `addr`, both must mean the same place. */
  | { offset: number; addr?: bigint }
  /** A link-time address, as `nm` and `objdump -d` print it. */
  | { addr: bigint }
  /** An address inside one live process; the file must be the one mapped there. */
  | { pid: number; liveAddr: bigint };

/**
 * Which processes: one pid, several, a target made by `spawnTarget`, or `'all'`, present and future.
 * `{ tree: pid }` is the process with its descendants: those it has, and every one that any of them makes from now on.
 */
export type Processes = 'all' | number | readonly number[] | { readonly tree: number } | Target;

export type ScalarType = 'u8' | 'i8' | 'u16' | 'i16' | 'u32' | 'i32' | 'u64' | 'i64';

/** What all handlers see. Valid only during the call: keep values, never the hit. */
export interface Hit {
  readonly uprobe: Uprobe;
  /** The thread's registers; what is written here is what the thread goes on with. */
  readonly regs: PtRegs;
  readonly pid: number;
  readonly tid: number;
  /** The CPU the thread last ran on (/proc/PID/task/TID/stat, field 39). */
  readonly cpu: number;
  /** The thread's name, at most 15 bytes (/proc/PID/task/TID/comm). */
  readonly comm: string;
  /** The id of the thread's cgroup (cgroups(7), version 2): the inode of its directory. 0 where it is not known. */
  readonly cgroup: bigint;
  /** CLOCK_MONOTONIC in nanoseconds, taken when the hit was seen. */
  readonly time: bigint;
  /** The nth integer or pointer argument (0 first) at a function's entry. System V psABI 3.2.3: six registers, then the stack. */
  arg(n: number): bigint;
  /** The nth floating-point argument (0–7: xmm0–xmm7) as a double. Costs a round trip to the tracer thread. */
  floatArg(n: number): number;
  /** Read a scalar from the target's memory; undefined where it is not readable. */
  read(address: bigint, type: ScalarType): bigint | undefined;
  /** Read bytes; undefined where any of them is not readable. */
  readBytes(address: bigint, length: number): Uint8Array | undefined;
  /**
   * Read a NUL-terminated string as UTF-8, at most `max` bytes (default 256); undefined where it is not readable. A byte that is not
   * UTF-8 becomes the lone surrogate U+DC00 + byte, so different bytes are different strings.
   */
  readString(address: bigint, max?: number): string | undefined;
  /** Write the target's memory. Throws UprobeError `'not-writable'` where it cannot. */
  write(address: bigint, bytes: Uint8Array): void;
}
export interface PreHit<C = unknown> extends Hit {
  /**
   * At a function's entry: a value of yours that the return handler of the same uprobe gets for the same call. Undefined
   * until it is set; forgotten where the uprobe has no return handler.
   */
  call: C | undefined;
}
export type PostHit = Hit;

/** A function has returned: `regs` are those of its caller, right behind the call. */
export interface ReturnHit<C = unknown> extends Hit {
  /** What the pre handler of the same uprobe has left for this call. */
  readonly call: C | undefined;
  /** `regs.ax` (System V psABI 3.2.3): what the caller gets. Writable; wraps to 64 bits. */
  get returnValue(): bigint;
  set returnValue(value: bigint | number);
  /** Nanoseconds from entry to return (CLOCK_MONOTONIC), with the time that our own stops took in between. */
  readonly duration: bigint;
  /** The six integer argument registers as they were at the entry, before any handler. */
  readonly entryArgs: readonly bigint[];
}

/** Why a fault handler is called. */
export type Fault =
  /** The displaced instruction has raised a signal. `regs` are the program's own, `ip` the instruction's. */
  | {
      readonly origin: 'instruction';
      readonly signal: NodeJS.Signals;
      /** si_code, sigaction(2): SEGV_MAPERR is 1, SEGV_ACCERR 2, … */
      readonly code: number;
      /** si_addr: what could not be accessed (SIGSEGV, SIGBUS), else the instruction's address. */
      readonly address: bigint;
    }
  /** Another handler of the same uprobe has thrown; the registers are again as before it. */
  | { readonly origin: 'handler'; readonly handler: 'pre' | 'post' | 'return'; readonly error: unknown };

export interface FaultHit extends Hit {
  readonly fault: Fault;
}

/** A plain handler is synchronous. */
export type Handler<H, R> = (hit: H) => R | undefined;

/** A handler threw (the hit went on as if it had not been called), or the uprobe ended without being asked to. */
export interface HandlerError {
  readonly uprobe: Uprobe;
  /**
   * `pre`, `post`, `fault`, `return`: the handler that threw, in this process and thread. `uprobe`: no handler; `error` says why the
   * uprobe is gone (`file-changed`, `engine-failed`), and `pid` and `tid` are 0.
   */
  readonly kind: Phase | 'uprobe';
  readonly pid: number;
  readonly tid: number;
  readonly error: unknown;
}

/** How a uprobe stands in one process. */
export interface ArmState {
  readonly pid: number;
  /**
   * `pending`: the process does not map the file now; it is armed as soon as it does. `gone`: the process has ended, or
   * the uprobe has (then `refusal` says why, where nobody asked for it).
   */
  readonly state: 'armed' | 'pending' | 'refused' | 'gone';
  readonly engine: EngineName;
  readonly refusal?: Refusal;
}

export interface UprobeOptions<C = unknown> {
  /**
   * A path, or a bare name: a soname (`libc.so.6`, `libc`) as the target's dynamic linker would find it, else a
   * program in $PATH.
   */
  pathname: string;
  /** Must be said for plain handlers; `'all'` is not yet possible with the trap engine, `{ tree: pid }` is. */
  processes?: Processes;
  /** Default `'auto'`. A forced engine that refuses is a RefusedError. */
  engine?: 'auto' | EngineName;
  /** Before the displaced instruction. `'skip'`: do not run it, the handler has set `ip`. `'remove'`: unregister after this hit. */
  preHandler?: Handler<PreHit<C>, void | 'skip' | 'remove'>;
  /** After the displaced instruction. */
  postHandler?: Handler<PostHit, void | 'remove'>;
  /**
   * When the displaced instruction raises a signal, or another handler of this uprobe throws. `'handled'`: go on with the
   * registers as they stand now, without the signal; with `ip` unchanged the instruction is tried again, at most 16 times in
   * a row. The first `'handled'` wins. Otherwise the program gets exactly the signal it would have had; what the handler
   * wrote to registers is dropped.
   */
  faultHandler?: Handler<FaultHit, void | 'handled'>;
  /**
   * When the function returns to its caller; only at a function's entry. Calls that are left by longjmp, an exception or the
   * thread's end do not return: `nabandoned` counts them as they are noticed.
   */
  returnHandler?: Handler<ReturnHit<C>, void | 'remove'>;
  /** How long a hit may wait for a handler, in milliseconds (default 1000); then the thread goes on and `nmissed` counts. */
  deadline?: number;
  /** Probe a place although its instruction boundaries cannot be verified (no symbol or unwind entry covers it). */
  trustPlace?: boolean;
  /** Aborts the registration; later, unregisters. */
  signal?: AbortSignal;
  onError?(e: HandlerError): void;
  onState?(s: ArmState): void;
}

/** What to probe, and what to call. The object is copied: changing it later changes nothing. */
export type UprobeSpec<C = unknown> = Place & UprobeOptions<C>;

/** How a target's stream is connected: as in node:child_process. A number is a descriptor of ours. */
export type TargetStdio = 'inherit' | 'pipe' | 'ignore' | number;

export interface SpawnTargetOptions {
  /** Working directory of the new process. */
  cwd?: string;
  /** Environment; default: ours. */
  env?: Readonly<Record<string, string | undefined>>;
  /** For stdin, stdout and stderr; one word for all three. Default `'pipe'`. */
  stdio?: TargetStdio | readonly [TargetStdio, TargetStdio, TargetStdio];
  /** What the program sees as its own name; default: the command as given. */
  argv0?: string;
  /** Kill the target (SIGKILL) and release it when aborted. */
  signal?: AbortSignal;
}
