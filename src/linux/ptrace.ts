/**
 * ptrace(2). Every call must come from the one OS thread that seized the tracee. Memory arguments are addresses in a
 * region of ours, so that a hit costs no allocation.
 */
import { readFileSync } from 'node:fs';
import { functionAt } from './ffi.js';
import { mapRegion } from './memory.js';
import { ERRNO, NR } from './numbers.js';
import { statusField } from './proc-status.js';
import { SyscallError } from './syscall-error.js';

const REQUEST = {
  PEEKUSER: 3,
  POKEUSER: 6,
  CONT: 7,
  SINGLESTEP: 9,
  GETREGS: 12,
  SETREGS: 13,
  GETFPREGS: 14,
  DETACH: 17,
  SYSCALL: 24,
  SETOPTIONS: 0x4200,
  GETEVENTMSG: 0x4201,
  GETSIGINFO: 0x4202,
  SETSIGINFO: 0x4203,
  SEIZE: 0x4206,
  INTERRUPT: 0x4207,
  LISTEN: 0x4208,
  PEEKSIGINFO: 0x4209,
  GETSIGMASK: 0x420a,
  SETSIGMASK: 0x420b,
} as const;

/** PTRACE_O_*: bit = event number. Never EXITKILL: the target outlives us. */
export const OPTION = {
  sysgood: 1,
  fork: 1 << 1,
  vfork: 1 << 2,
  clone: 1 << 3,
  exec: 1 << 4,
  vforkDone: 1 << 5,
  suspendSeccomp: 1 << 21,
} as const;

/** PTRACE_EVENT_*: the third byte of a wait status. */
export const EVENT = { fork: 1, vfork: 2, clone: 3, exec: 4, vforkDone: 5, exit: 6, stop: 128 } as const;

/**
 * Three functions in machine code: at every hit there are several calls, and on the way through libc's syscall(2) with its
 * seven arguments one takes twice the time.
 */
// prettier-ignore
const CODE = [
  // request(rdi: request, rsi: tid, rdx: addr, rcx: data): the result, or minus the errno
  0x49, 0x89, 0xca,                       // mov  r10, rcx
  0xb8, NR.ptrace, 0, 0, 0,               // mov  eax, ptrace
  0x0f, 0x05,                             // syscall
  0xc3,                                   // ret
  0xcc, 0xcc, 0xcc, 0xcc, 0xcc,
  // pokeAndContinue(rdi: tid, rsi: offset in struct user, rdx: value)
  0x49, 0x89, 0xd2,                       // mov  r10, rdx
  0x48, 0x89, 0xf2,                       // mov  rdx, rsi
  0x48, 0x89, 0xfe,                       // mov  rsi, rdi
  0xbf, REQUEST.POKEUSER, 0, 0, 0,        // mov  edi, PTRACE_POKEUSER
  0xb8, NR.ptrace, 0, 0, 0,               // mov  eax, ptrace
  0x0f, 0x05,                             // syscall
  0x48, 0x85, 0xc0,                       // test rax, rax
  0x78, 0x11,                             // js   out
  0xbf, REQUEST.CONT, 0, 0, 0,            // mov  edi, PTRACE_CONT
  0x31, 0xd2, 0x45, 0x31, 0xd2,           // edx = r10d = 0
  0xb8, NR.ptrace, 0, 0, 0,               // mov  eax, ptrace
  0x0f, 0x05,                             // syscall
  // out:
  0xc3,                                   // ret
  // registersAndMask(rdi: tid, rsi: registers, rdx: mask)
  0x49, 0x89, 0xf2,                       // mov  r10, rsi
  0x48, 0x89, 0xfe,                       // mov  rsi, rdi
  0x49, 0x89, 0xd0,                       // mov  r8, rdx
  0x31, 0xd2,                             // xor  edx, edx
  0xbf, REQUEST.GETREGS, 0, 0, 0,         // mov  edi, PTRACE_GETREGS
  0xb8, NR.ptrace, 0, 0, 0,               // mov  eax, ptrace
  0x0f, 0x05,                             // syscall
  0x48, 0x85, 0xc0,                       // test rax, rax
  0x78, 0x14,                             // js   failed
  0x4d, 0x89, 0xc2,                       // mov  r10, r8
  0xba, 8, 0, 0, 0,                       // mov  edx, sizeof(sigset_t)
  0xbf, 0x0a, 0x42, 0, 0,                 // mov  edi, PTRACE_GETSIGMASK
  0xb8, NR.ptrace, 0, 0, 0,               // mov  eax, ptrace
  0x0f, 0x05,                             // syscall
  // failed:
  0xc3,                                   // ret
];
const POKE_AND_CONTINUE_AT = 16;
const REGISTERS_AND_MASK_AT = 60;

interface Calls {
  readonly request: (request: number, tid: number, addr: number, data: number) => number;
  readonly pokeAndContinue: (tid: number, offset: number, value: number) => number;
  readonly registersAndMask: (tid: number, registers: number, mask: number) => number;
}
let calls: Calls | undefined;

function makeCalls(): Calls {
  const { address, bytes } = mapRegion(4096, true);
  bytes.set(CODE);
  return (calls = {
    request: functionAt(address, 'int64_t ptrace_request(int64_t, int64_t, int64_t, int64_t)'),
    pokeAndContinue: functionAt(
      address + POKE_AND_CONTINUE_AT,
      'int64_t ptrace_poke_and_continue(int64_t, int64_t, int64_t)',
    ),
    registersAndMask: functionAt(
      address + REGISTERS_AND_MASK_AT,
      'int64_t ptrace_registers_and_mask(int64_t, int64_t, int64_t)',
    ),
  });
}

const call = (request: number, tid: number, addr: number, data: number): number =>
  (calls ?? makeCalls()).request(request, tid, addr, data);

/** The tracee is gone (killed under us): the caller forgets it when wait4 says so. */
const vanished = (result: number): boolean => result === -ERRNO.ESRCH;

function must(result: number, name: string, tid: number): boolean {
  if (result >= 0) return true;
  if (vanished(result)) return false;
  throw new SyscallError(`ptrace(${name}, ${tid})`, -result);
}

function seizeHint(errno: number, tid: number): string | undefined {
  if (errno === ERRNO.ESRCH) return `There is no process or thread ${tid}; it may just have ended`;
  if (errno !== ERRNO.EPERM) return undefined;
  const tracer = Number(statusField(tid, 'TracerPid') ?? 0);
  if (tracer > 0)
    return `Process ${tracer} is already tracing it (a debugger, strace, another probe run), and a process has one tracer at most: end that one first`;
  const scope = yamaScope();
  if (scope === 1)
    return 'kernel.yama.ptrace_scope=1 lets a program trace only its children: start the target from here, or run with CAP_SYS_PTRACE';
  if (scope > 1)
    return `kernel.yama.ptrace_scope=${scope} forbids it: run with CAP_SYS_PTRACE (2), or reboot with another setting (3)`;
  return 'It belongs to another user, is set-uid, or has made itself undumpable: run as that user, or with CAP_SYS_PTRACE';
}

function yamaScope(): number {
  try {
    return Number(readFileSync('/proc/sys/kernel/yama/ptrace_scope', 'latin1'));
  } catch {
    return 0;
  }
}

/** The calls return false when the tracee is gone (ESRCH), and throw SyscallError otherwise. */
export const ptrace = {
  /** Attach without stopping. Throws with the remedy when it may not be. */
  seize(tid: number, options: number): void {
    const result = call(REQUEST.SEIZE, tid, 0, options);
    if (result < 0) throw new SyscallError(`ptrace(PTRACE_SEIZE, ${tid})`, -result, seizeHint(-result, tid));
  },
  /** False when it is not (or no longer) a tracee of this thread. */
  interruptIfThere: (tid: number): boolean => call(REQUEST.INTERRUPT, tid, 0, 0) >= 0,
  listen: (tid: number): boolean => call(REQUEST.LISTEN, tid, 0, 0) >= 0,
  cont: (tid: number, signal: number): boolean =>
    must(call(REQUEST.CONT, tid, 0, signal), 'PTRACE_CONT', tid),
  untilSyscall: (tid: number, signal: number): boolean =>
    must(call(REQUEST.SYSCALL, tid, 0, signal), 'PTRACE_SYSCALL', tid),
  step: (tid: number, signal: number): boolean =>
    must(call(REQUEST.SINGLESTEP, tid, 0, signal), 'PTRACE_SINGLESTEP', tid),
  detach: (tid: number, signal: number): boolean =>
    must(call(REQUEST.DETACH, tid, 0, signal), 'PTRACE_DETACH', tid),
  getRegs: (tid: number, to: number): boolean =>
    must(call(REQUEST.GETREGS, tid, 0, to), 'PTRACE_GETREGS', tid),
  /** getRegs and getSigMask. */
  getRegsAndMask: (tid: number, regs: number, mask: number): boolean =>
    must((calls ?? makeCalls()).registersAndMask(tid, regs, mask), 'PTRACE_GETREGS', tid),
  setRegs: (tid: number, from: number): boolean =>
    must(call(REQUEST.SETREGS, tid, 0, from), 'PTRACE_SETREGS', tid),
  getFpRegs: (tid: number, to: number): boolean =>
    must(call(REQUEST.GETFPREGS, tid, 0, to), 'PTRACE_GETFPREGS', tid),
  /** One register by its byte offset in user_regs_struct. */
  pokeUser: (tid: number, offset: number, value: number): boolean =>
    must(call(REQUEST.POKEUSER, tid, offset, value), 'PTRACE_POKEUSER', tid),
  /** pokeUser, then cont without a signal. */
  pokeUserAndCont: (tid: number, offset: number, value: number): boolean =>
    must((calls ?? makeCalls()).pokeAndContinue(tid, offset, value), 'PTRACE_CONT', tid),
  setOptions: (tid: number, options: number): number => call(REQUEST.SETOPTIONS, tid, 0, options),
  getEventMessage: (tid: number, to: number): boolean =>
    must(call(REQUEST.GETEVENTMSG, tid, 0, to), 'PTRACE_GETEVENTMSG', tid),
  getSigInfo: (tid: number, to: number): boolean => call(REQUEST.GETSIGINFO, tid, 0, to) >= 0,
  setSigInfo: (tid: number, from: number): boolean =>
    must(call(REQUEST.SETSIGINFO, tid, 0, from), 'PTRACE_SETSIGINFO', tid),
  /** Up to the args' count of siginfo (128 bytes each) pending for this thread; returns how many. */
  peekSigInfo: (tid: number, args: number, to: number): number => call(REQUEST.PEEKSIGINFO, tid, args, to),
  getSigMask: (tid: number, to: number): boolean =>
    must(call(REQUEST.GETSIGMASK, tid, 8, to), 'PTRACE_GETSIGMASK', tid),
  setSigMask: (tid: number, from: number): boolean =>
    must(call(REQUEST.SETSIGMASK, tid, 8, from), 'PTRACE_SETSIGMASK', tid),
};
