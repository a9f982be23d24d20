/**
 * Starting a program under a tracer, from a process with many threads. fork() would copy a JavaScript engine;
 * instead clone(2) makes a child that shares our memory and runs nothing but a short list of system calls in machine
 * code of ours, the last of them execve. It first waits on a futex, so that its tracer can seize it.
 */
import { functionAt, syscall, syscallWithMemory } from './ffi.js';
import { closeFd, duplicateAbove } from './fds.js';
import { mapRegion, type Region } from './memory.js';
import { FUTEX, NR, SIG, WAIT } from './numbers.js';
import { check } from './syscall-error.js';

const SIG_SETMASK = 2;
const PR_SET_PDEATHSIG = 1;
const END_TRIES = 100;
const END_PAUSE_MS = 5;

export interface Program {
  /** The program, absolute: $PATH was searched already. */
  readonly file: string;
  readonly argv: readonly string[];
  /** `NAME=value` strings. */
  readonly env: readonly string[];
  readonly cwd: string | undefined;
  /** Our descriptors that become its 0, 1 and 2. They stay open here. */
  readonly fds: readonly [number, number, number];
}

/** A child that waits to be let go into its program. */
export interface PausedChild {
  readonly pid: number;
  /** Let it execve. */
  proceed(): void;
  /** After it ended without an exec: the call that failed and its errno. */
  failure(): { readonly step: string; readonly errno: number };
  /** Its memory may be freed: it has executed its program, or ended. One that still waits is ended. */
  release(): void;
}

/** A list of system calls, each stopping the list when it fails, unless it may fail. */
interface Step {
  readonly name: string;
  readonly args: readonly (number | bigint)[];
  readonly mayFail?: boolean;
}

const WORDS_PER_STEP = 8;
const HEADER = 32; // failed step's address (8), its result (8), futex word (4)

/**
 * start(rdi: steps, rsi: top of the child's stack) → pid. The child runs the steps: rax, rdi, rsi, rdx, r10, r8, r9 and
 * a may-fail word each; on failure it leaves the step's address and result in the header below the steps and exits.
 */
// prettier-ignore
const START_CODE = [
  0x49, 0x89, 0xf9,                         // mov  r9, rdi
  0xb8, NR.clone, 0, 0, 0,                  // mov  eax, clone
  0xbf, 0x11, 0x01, 0, 0,                   // mov  edi, CLONE_VM | SIGCHLD
  0x31, 0xd2, 0x45, 0x31, 0xd2, 0x45, 0x31, 0xc0, // edx = r10d = r8d = 0
  0x0f, 0x05,                               // syscall
  0x48, 0x85, 0xc0,                         // test rax, rax
  0x74, 0x01,                               // jz   child
  0xc3,                                     // ret
  // child:
  0x4c, 0x89, 0xcb,                         // mov  rbx, r9
  0x4d, 0x89, 0xcf,                         // mov  r15, r9
  // next:
  0x48, 0x8b, 0x03,                         // mov  rax, [rbx]
  0x48, 0x8b, 0x7b, 0x08,                   // mov  rdi, [rbx + 8]
  0x48, 0x8b, 0x73, 0x10,                   // mov  rsi, [rbx + 16]
  0x48, 0x8b, 0x53, 0x18,                   // mov  rdx, [rbx + 24]
  0x4c, 0x8b, 0x53, 0x20,                   // mov  r10, [rbx + 32]
  0x4c, 0x8b, 0x43, 0x28,                   // mov  r8, [rbx + 40]
  0x4c, 0x8b, 0x4b, 0x30,                   // mov  r9, [rbx + 48]
  0x0f, 0x05,                               // syscall
  0x48, 0x85, 0xc0,                         // test rax, rax
  0x79, 0x07,                               // jns  ok
  0x48, 0x83, 0x7b, 0x38, 0x00,             // cmp  qword [rbx + 56], 0
  0x74, 0x06,                               // je   fail
  // ok:
  0x48, 0x83, 0xc3, 0x40,                   // add  rbx, 64
  0xeb, 0xd1,                               // jmp  next
  // fail:
  0x49, 0x89, 0x5f, 0xe0,                   // mov  [r15 - 32], rbx
  0x49, 0x89, 0x47, 0xe8,                   // mov  [r15 - 24], rax
  0xbf, 127, 0, 0, 0,                       // mov  edi, 127
  0xb8, NR.exitGroup, 0, 0, 0,              // mov  eax, exit_group
  0x0f, 0x05,                               // syscall
];

let starter: ((steps: number, stack: number) => number) | undefined;

function startFunction(): (steps: number, stack: number) => number {
  if (starter === undefined) {
    const page = mapRegion(4096, true);
    page.bytes.set(START_CODE);
    starter = functionAt(page.address, 'int64_t start(uintptr_t, uintptr_t)');
  }
  return starter;
}

/** Lays out strings and tables in one region that the child reads. */
class Arena {
  readonly region: Region;
  readonly #view: DataView;
  #used: number;
  constructor(size: number, reserved: number) {
    this.region = mapRegion(size);
    this.#view = new DataView(this.region.bytes.buffer);
    this.#used = reserved;
  }
  string(text: string): number {
    const bytes = Buffer.from(`${text}\0`);
    const address = this.region.address + this.#used;
    this.region.bytes.set(bytes, this.#used);
    this.#used = (this.#used + bytes.length + 7) & ~7;
    return address;
  }
  words(values: readonly (number | bigint)[]): number {
    const address = this.region.address + this.#used;
    for (const value of values) {
      this.#view.setBigInt64(this.#used, BigInt(value), true);
      this.#used += 8;
    }
    return address;
  }
  strings(list: readonly string[]): number {
    const addresses = list.map((s) => this.string(s));
    return this.words([...addresses, 0]);
  }
}

/** The system calls of a child between clone and its program. `copies`: our descriptors, moved out of the way. */
function stepsFor(program: Program, arena: Arena, futex: number, copies: readonly number[]): Step[] {
  const defaultAction = arena.words([0, 0, 0, 0]);
  const emptyMask = arena.words([0]);
  const dieWithParent = (signal: number): Step => ({
    name: 'prctl',
    args: [NR.prctl, PR_SET_PDEATHSIG, signal],
    mayFail: true,
  });
  // Without us nobody would ever wake it, or could: every signal but SIGKILL is blocked.
  const steps: Step[] = [
    dieWithParent(SIG.kill),
    { name: 'futex', args: [NR.futex, futex, FUTEX.wait, 0, 0, 0, 0], mayFail: true },
    dieWithParent(0),
  ];
  // exec keeps ignored signals ignored: Node ignores SIGPIPE, which a program does not expect
  for (let signal = 1; signal <= 31; signal++) {
    if (signal === SIG.kill || signal === SIG.stop) continue;
    steps.push({ name: 'rt_sigaction', args: [NR.rtSigaction, signal, defaultAction, 0, 8] });
  }
  copies.forEach((fd, i) => steps.push({ name: `dup2(${program.fds[i]}, ${i})`, args: [NR.dup2, fd, i] }));
  if (program.cwd !== undefined) {
    steps.push({ name: `chdir(${program.cwd})`, args: [NR.chdir, arena.string(program.cwd)] });
  }
  steps.push({ name: 'rt_sigprocmask', args: [NR.rtSigprocmask, SIG_SETMASK, emptyMask, 0, 8] });
  const file = arena.string(program.file);
  steps.push({
    name: `execve(${program.file})`,
    args: [NR.execve, file, arena.strings(program.argv), arena.strings(program.env)],
  });
  return steps;
}

/** Clone a child that pauses before `program`. Call it on the thread that will trace it: it becomes its parent. */
export function clonePaused(program: Program): PausedChild {
  const stringBytes = [program.file, program.cwd ?? '', ...program.argv, ...program.env].reduce(
    (n, s) => n + s.length * 3 + 32,
    0,
  );
  const stepsAt = HEADER;
  const maxSteps = 48;
  const stackSize = 16384;
  const arenaStart = stepsAt + maxSteps * WORDS_PER_STEP * 8 + stackSize;
  const arena = new Arena((arenaStart + stringBytes + 65536 + 4095) & ~4095, arenaStart);
  const { region } = arena;
  const view = new DataView(region.bytes.buffer);
  const futex = region.address + 16;
  const copies = program.fds.map((fd) => duplicateAbove(fd, 10));
  try {
    const steps = stepsFor(program, arena, futex, copies);
    steps.forEach((step, i) => {
      const words = [...step.args, 0, 0, 0, 0, 0, 0, 0].slice(0, 7);
      [...words, step.mayFail ? 1 : 0].forEach((w, j) =>
        view.setBigInt64(stepsAt + (i * WORDS_PER_STEP + j) * 8, BigInt(w), true),
      );
    });
    const pid = withSignalsBlocked(() =>
      startFunction()(region.address + stepsAt, region.address + arenaStart - 64),
    );
    check(pid, 'clone(CLONE_VM)');
    let waits = true;
    return {
      pid,
      proceed: () => {
        waits = false;
        view.setInt32(16, 1, true);
        syscall(NR.futex, futex, FUTEX.wake, 1);
      },
      failure: () => {
        const index = (Number(view.getBigInt64(0, true)) - region.address - stepsAt) / (WORDS_PER_STEP * 8);
        return {
          step: steps[index]?.name ?? 'a signal before exec',
          errno: -Number(view.getBigInt64(8, true)),
        };
      },
      release: () => {
        if (waits) endWaiting(pid);
        waits = false;
        syscall(NR.munmap, region.address, region.length);
      },
    };
  } finally {
    copies.forEach(closeFd);
  }
}

/**
 * One that nobody could seize would wait for ever, with our descriptors open. Another tracer of ours may have it too and
 * hears of its end first; what it does not let go in time is init's in the end.
 */
function endWaiting(pid: number): void {
  process.kill(pid, 'SIGKILL'); // a child of ours that nobody has waited for: the number cannot be another's
  const sleeper = new Int32Array(new SharedArrayBuffer(4));
  for (let i = 0; i < END_TRIES && syscall(NR.wait4, pid, 0, WAIT.all | WAIT.nohang, 0) === 0; i++)
    Atomics.wait(sleeper, 0, 0, END_PAUSE_MS);
}

/** The child must never run a signal handler of ours: it inherits a mask that blocks everything. */
export function withSignalsBlocked<T>(body: () => T): T {
  const all = new BigUint64Array([0xffff_ffff_ffff_ffffn]);
  const scratch = mapRegion(4096);
  check(syscallWithMemory(NR.rtSigprocmask, 1, [SIG_SETMASK, all, scratch.address, 8]), 'rt_sigprocmask');
  try {
    return body();
  } finally {
    syscall(NR.rtSigprocmask, SIG_SETMASK, scratch.address, 0, 8);
    syscall(NR.munmap, scratch.address, scratch.length);
  }
}
