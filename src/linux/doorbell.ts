/**
 * A wait for child events that another thread can end: waitid(2) has no timeout and no descriptor, and a wake-up that
 * comes just before the call must not be lost.
 *
 * It looks at a stop without taking it (WNOWAIT). A stop that was taken and not yet answered is gone with us when we are
 * killed: the thread goes on as if there had been no signal (kernel/signal.c, ptrace_stop: exit_code is what the
 * tracer leaves there, and wait_task_stopped clears it). One that was only looked at still has its signal.
 *
 * A page of machine code holds a wait and a signal handler. The wait looks at the bell word and then enters wait4;
 * the handler, when it finds the thread between the look and the kernel, moves it to the exit. So a ring is seen
 * whenever it comes: before the look by the word, after it by the handler, in the kernel by EINTR.
 */
import { statusField } from './proc-status.js';
import { functionAt, syscall, syscallWithMemory } from './ffi.js';
import { futexWait, futexWake } from './futex.js';
import { mapRegion, type Region } from './memory.js';
import { ERRNO, FUTEX, NR, WAIT } from './numbers.js';
import { check } from './syscall-error.js';

/** A real-time signal that neither glibc (32, 33) nor Node uses; its default action is never taken: we handle it. */
const BELL_SIGNAL = 60;
/** Every wait is bounded: a ring that was lost after all costs so much, and no more. */
const LONGEST_SLEEP_MS = 1000;
const SA_SIGINFO = 4;
const SA_RESTORER = 0x04000000;
const SIGEV_THREAD_ID = 4;
const CLOCK_MONOTONIC = 1;
const P_PID = 1;
/** Events of every child of this thread: threads and processes that it traces, and those that it made. */
const EVERY = WAIT.all | WAIT.nothread;
/** Tracees report stops all the same. Asked for WSTOPPED, a child that is traced no more would report those of job control, too. */
const LOOK = WAIT.exited | WAIT.nowait | EVERY;
/** The greatest si_code of a child that has ended: CLD_EXITED, CLD_KILLED, CLD_DUMPED. */
const CLD_DUMPED = 3;
/** Words of a siginfo_t that waitid fills in. */
const INFO = { code: 2, pid: 4, status: 6 } as const;

/** Offset of the saved rip in ucontext_t (arch/x86/include/uapi/asm/sigcontext.h): 40 + 16 registers. */
const UCONTEXT_RIP = 168;

interface Code {
  readonly bytes: Uint8Array;
  readonly handler: number;
  readonly restorer: number;
  readonly wait: number;
}

/** The two routines, for a page at `base` and a bell word at `bell`. Offsets in the comments are for the reader only. */
function assemble(base: number, bell: number): Code {
  const bytes = new Uint8Array(160);
  const view = new DataView(bytes.buffer);
  const put = (at: number, code: readonly number[]): number => {
    bytes.set(code, at);
    return at + code.length;
  };
  // wait(rdi: siginfo_t *, rsi: int *bell, rdx: options): waitid(P_ALL, 0, info, options, NULL), or -EINTR at once
  const wait = 0;
  let at = put(wait, [0x49, 0x89, 0xf1]); //            mov  r9, rsi
  at = put(at, [0x49, 0x89, 0xd2]); //                  mov  r10, rdx
  at = put(at, [0x48, 0x89, 0xfa]); //                  mov  rdx, rdi
  at = put(at, [0x31, 0xff, 0x31, 0xf6]); //            edi = esi = 0
  at = put(at, [0x45, 0x31, 0xc0]); //                  xor  r8d, r8d
  const look = at;
  at = put(at, [0x41, 0x83, 0x39, 0x00]); //            cmp  dword [r9], 0
  at = put(at, [0x75, 0x08]); //                        jne  rung
  at = put(at, [0xb8, NR.waitid, 0, 0, 0]); //          mov  eax, waitid
  at = put(at, [0x0f, 0x05]); //                        syscall
  const entered = at;
  at = put(at, [0xc3]); //                              ret
  const rung = at;
  at = put(at, [0x48, 0xc7, 0xc0, 0xfc, 0xff, 0xff, 0xff]); // mov  rax, -EINTR
  at = put(at, [0xc3]); //                              ret

  // handler(sig, info, rdx: ucontext): ring the bell; leave the window between the look and the kernel
  const handler = 48;
  at = put(handler, [0x48, 0xb8]); //                   mov  rax, bell
  view.setBigUint64(at, BigInt(bell), true);
  at = put(at + 8, [0xf0, 0x83, 0x08, 0x01]); //        lock or dword [rax], 1
  at = put(at, [0x48, 0x8b, 0x82, UCONTEXT_RIP, 0, 0, 0]); // mov  rax, [rdx + rip]
  at = put(at, [0x48, 0xb9]); //                        mov  rcx, look
  view.setBigUint64(at, BigInt(base + look), true);
  at = put(at + 8, [0x48, 0x39, 0xc8]); //              cmp  rax, rcx
  at = put(at, [0x72, 29]); //                          jb   out
  at = put(at, [0x48, 0xb9]); //                        mov  rcx, entered
  view.setBigUint64(at, BigInt(base + entered), true);
  at = put(at + 8, [0x48, 0x39, 0xc8]); //              cmp  rax, rcx
  at = put(at, [0x73, 14 + 0]); //                      jae  out
  const jaeEnd = at;
  at = put(at, [0x48, 0xb9]); //                        mov  rcx, rung
  view.setBigUint64(at, BigInt(base + rung), true);
  at = put(at + 8, [0x48, 0x89, 0x8a, UCONTEXT_RIP, 0, 0, 0]); // mov  [rdx + rip], rcx
  const out = at;
  bytes[jaeEnd - 1] = out - jaeEnd;
  at = put(at, [0xc3]); //                              ret
  // jb's distance: from its own end to `out`
  const jbEnd = handler + 2 + 8 + 4 + 7 + 2 + 8 + 3 + 2;
  bytes[jbEnd - 1] = out - jbEnd;

  const restorer = 144;
  put(restorer, [0xb8, 15, 0, 0, 0, 0x0f, 0x05]); //    mov  eax, 15 (rt_sigreturn); syscall
  return { bytes, handler: base + handler, restorer: base + restorer, wait: base + wait };
}

/** How the waiter sleeps: not at all, in waitid, or on the bell word itself, where a wake-up is cheaper than a signal. */
const SLEEPS = { no: 0, inWait: 1, onBell: 2 } as const;

/** 32-bit words that both sides share. The waiter says who it is before it sleeps for the first time. */
const WORD = { bell: 0, sleeps: 1, tid: 2 } as const;
export const BELL_WORDS = 3;

/** Wakes the waiting thread. Used by any other thread; costs a system call only when the waiter sleeps. */
export class Bell {
  readonly #words: Int32Array;
  readonly #address: number;
  /** `words`, at `address`: BELL_WORDS of them, all 0 until there is a waiter. */
  constructor(address: number, words: Int32Array) {
    this.#address = address;
    this.#words = words;
  }

  /** Whether it sleeps, or is about to: then it must be rung. Awake, it looks around before it sleeps. */
  get waiterSleeps(): boolean {
    return Atomics.load(this.#words, WORD.sleeps) !== SLEEPS.no;
  }

  /** `reasons`: bits that `BellWait.rung` will return. */
  ring(reasons: number): void {
    Atomics.or(this.#words, WORD.bell, reasons);
    const sleeps = Atomics.load(this.#words, WORD.sleeps);
    if (sleeps === SLEEPS.inWait)
      syscall(NR.tgkill, process.pid, Atomics.load(this.#words, WORD.tid), BELL_SIGNAL);
    if (sleeps === SLEEPS.onBell) futexWake(this.#address);
  }
}

/** How often to look whether a thread that is waited for has ended, ms. */
const LOOK_AGAIN_MS = 20;

/** The waiting side. Make it on the thread that will wait. */
export class BellWait {
  readonly tid: number;
  readonly #words: Int32Array;
  readonly #bellAddress: number;
  readonly #wait: (info: number, bell: number, options: number) => number;
  readonly #statusWord: Int32Array;
  readonly #statusAddress: number;
  readonly #info: Int32Array;
  readonly #infoAddress: number;
  /** A bell that nobody rings. */
  readonly #mute: number;
  readonly #timer: number;
  readonly #timerSpec: Region;
  readonly #timerFields: BigInt64Array;

  /** `address`: of the BELL_WORDS shared words; `words`: a view of them. */
  constructor(address: number, words: Int32Array) {
    this.tid = syscall(NR.gettid);
    words[WORD.tid] = this.tid;
    this.#words = words;
    this.#bellAddress = address;
    const page = mapRegion(4096, true);
    const code = assemble(page.address, address);
    page.bytes.set(code.bytes);
    this.#wait = functionAt(page.address, 'int64_t wait(uintptr_t, uintptr_t, int64_t)');
    this.#timerSpec = mapRegion(4096);
    this.#timerFields = new BigInt64Array(this.#timerSpec.bytes.buffer, 0, 4);
    this.#statusWord = new Int32Array(this.#timerSpec.bytes.buffer, 64, 1);
    this.#statusAddress = this.#timerSpec.address + 64;
    this.#info = new Int32Array(this.#timerSpec.bytes.buffer, 128, 32);
    this.#infoAddress = this.#timerSpec.address + 128;
    this.#mute = this.#timerSpec.address + 256;
    installHandler(code);
    this.#timer = createTimer(this.tid);
  }

  /** The wait status of the last event returned by `next` or `poll`. */
  get status(): number {
    return this.#statusWord[0]!;
  }

  /** An event that is already there, looked at as by `next`: the tid, 0 for none. Children of this thread only. */
  poll(): number {
    return this.#seen(this.#wait(this.#infoAddress, this.#mute, LOOK | WAIT.nohang));
  }

  /** An end is taken at once: who has ended has nothing left to lose. */
  #seen(result: number): number {
    if (result < 0) return 0;
    const tid = this.#info[INFO.pid]!;
    if (tid === 0) return 0;
    if (this.#info[INFO.code]! <= CLD_DUMPED) return this.consume(tid) ? tid : 0;
    this.#statusWord[0] = (this.#info[INFO.status]! << 8) | 0x7f;
    return tid;
  }

  /** Take an event that was looked at, if it is still there. */
  consume(tid: number): boolean {
    return syscall(NR.wait4, tid, this.#statusAddress, EVERY | WAIT.nohang, 0) === tid;
  }

  /** Wait for one particular child and look at it: its tid, or minus the errno. */
  lookAt(tid: number): number {
    const result = this.#await(tid, () => syscall(NR.waitid, P_PID, tid, this.#infoAddress, LOOK, 0));
    return result < 0 ? result : this.#seen(result);
  }

  /** Collect one particular child, waiting for it: its tid, or minus the errno. Rings and timeouts stay for later. */
  reap(tid: number): number {
    return this.#await(tid, () => syscall(NR.wait4, tid, this.#statusAddress, EVERY, 0));
  }

  /**
   * The end of a process is not told before that of each of its threads (kernel/exit.c, delay_group_leader), and those are
   * ours to take: one that has ended meanwhile is not waited for. It is looked at again and again, for it may end at any moment.
   */
  #await(tid: number, wait: () => number): number {
    this.#setTimer(LOOK_AGAIN_MS, LOOK_AGAIN_MS);
    try {
      for (;;) {
        const result = wait();
        if (result !== -ERRNO.EINTR) return result;
        if (statusField(tid, 'State')?.startsWith('Z') === true && !this.#isThere(tid)) return -ERRNO.ECHILD;
      }
    } finally {
      this.#setTimer(0, 0);
      this.#fires = 0;
    }
  }

  /** Whether there is something of it to take. */
  #isThere(tid: number): boolean {
    this.#info[INFO.pid] = 0;
    syscall(NR.waitid, P_PID, tid, this.#infoAddress, LOOK | WAIT.nohang, 0);
    return this.#info[INFO.pid] !== 0;
  }

  /** The reasons of all rings since the last call; 0 for none. A signal or a timeout alone counts as 1. */
  rung(): number {
    return Atomics.load(this.#words, WORD.bell) === 0 ? 0 : Atomics.exchange(this.#words, WORD.bell, 0);
  }

  /**
   * Sleep until a child event (its tid), a ring or the timeout in ms (0). Without children it sleeps all the same. A stop
   * is still there afterwards and would be seen again: resume its thread, or `consume` it.
   * `unless`: what came without a ring because we were awake; looked at when those who come later see that we sleep.
   */
  next(timeout: number | undefined, unless?: () => boolean): number {
    this.#arm(timeout ?? LONGEST_SLEEP_MS);
    Atomics.store(this.#words, WORD.sleeps, SLEEPS.inWait);
    if (unless?.() === true) {
      Atomics.store(this.#words, WORD.sleeps, SLEEPS.no);
      return 0;
    }
    const result = this.#wait(this.#infoAddress, this.#bellAddress, LOOK);
    if (result === -ERRNO.ECHILD) syscall(NR.futex, this.#bellAddress, FUTEX.wait, 0, 0, 0, 0);
    Atomics.store(this.#words, WORD.sleeps, SLEEPS.no);
    return this.#seen(result);
  }

  /** Sleep until a ring, or `ms` milliseconds at most, without looking at child events. `unless`: as with `next`. */
  nap(ms: number, unless: () => boolean): void {
    Atomics.store(this.#words, WORD.sleeps, SLEEPS.onBell);
    if (!unless()) futexWait(this.#bellAddress, 0, ms);
    Atomics.store(this.#words, WORD.sleeps, SLEEPS.no);
  }

  close(): void {
    syscall(NR.timerDelete, this.#timer);
  }

  /** When the timer will fire, as performance.now() counts. It is left running: one that fires early costs one turn. */
  #fires = 0;
  #arm(ms: number): void {
    const now = performance.now();
    if (this.#fires > now && this.#fires <= now + ms) return;
    this.#fires = now + ms;
    this.#setTimer(0, Math.max(ms, 0.001));
  }

  /** struct itimerspec: the interval, then when it fires first; ms. */
  #setTimer(interval: number, first: number): void {
    [interval, first].forEach((ms, i) => {
      const ns = ms * 1e6;
      this.#timerFields[i * 2] = BigInt(Math.floor(ns / 1e9));
      this.#timerFields[i * 2 + 1] = BigInt(Math.floor(ns % 1e9));
    });
    syscall(NR.timerSettime, this.#timer, 0, this.#timerSpec.address, 0);
  }
}

function installHandler(code: Code): void {
  const action = new BigUint64Array([
    BigInt(code.handler),
    BigInt(SA_SIGINFO | SA_RESTORER),
    BigInt(code.restorer),
    0n,
  ]);
  check(syscallWithMemory(NR.rtSigaction, 1, [BELL_SIGNAL, action, 0, 8]), `rt_sigaction(${BELL_SIGNAL})`);
  const unblock = new BigUint64Array([1n << BigInt(BELL_SIGNAL - 1)]);
  check(syscallWithMemory(NR.rtSigprocmask, 1, [1, unblock, 0, 8]), 'rt_sigprocmask(SIG_UNBLOCK)');
}

function createTimer(tid: number): number {
  // struct sigevent: value (8), signo (4), notify (4), thread id (4); timer_create(2)
  const event = new DataView(new ArrayBuffer(64));
  event.setInt32(8, BELL_SIGNAL, true);
  event.setInt32(12, SIGEV_THREAD_ID, true);
  event.setInt32(16, tid, true);
  const scratch = mapRegion(4096);
  scratch.bytes.set(new Uint8Array(event.buffer));
  check(syscall(NR.timerCreate, CLOCK_MONOTONIC, scratch.address, scratch.address + 64), 'timer_create');
  return new Int32Array(scratch.bytes.buffer, 64, 1)[0]!;
}
