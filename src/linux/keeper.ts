/**
 * System calls that our end must not break off. When a process that holds uprobes is killed, the kernel takes them out while the
 * signal is still pending, for which it cannot touch the targets' memory any more: their breakpoints stay
 * (kernel/events/uprobes.c: get_user_pages fails, "failed to unregister, leaking uprobe"). The same happens to one that is killed
 * while it makes a link.
 *
 * So a child with our memory and our descriptors (clone(2): CLONE_VM, CLONE_FILES), which runs nothing but a page of machine code,
 * makes links for us (closer.ts closes them). Every descriptor belongs to both at every instant. When we have ended it closes them all,
 * without a signal, in children of its own, and ends. It is in a session of its own, blocks all signals, and is left alone by
 * debuggers of ours (CLONE_UNTRACED).
 */
import { UprobeError } from '../base/errors.js';
import { MOST_CHILDREN } from './closer.js';
import { closeFd } from './fds.js';
import { syscall, syscallWithMemory } from './ffi.js';
import { futexWait } from './futex.js';
import { CHILD_FLAGS, startChild, word } from './keeper-child.js';
import { mapRegion, type Region } from './memory.js';
import { FUTEX, NR, WAIT } from './numbers.js';
import { check } from './syscall-error.js';

/** Bytes of the mailbox. The first word says whose turn it is. */
const AT = {
  state: 0,
  result: 8,
  nr: 16,
  args: 24,
  count: 72,
  polled: 80,
  name: 96,
  highest: 112,
  children: 116,
} as const;
const STATE = { idle: 0, asked: 1, taken: 2, done: 3 } as const;
const POLLIN = 1;
const EFD_CLOEXEC = 0o2000000;
const PR_SET_NAME = 15;
const MAILBOX_BYTES = 4096;
/** As `ps -o comm` shows it. */
const NAME = 'uprobe-keeper';

/** What the child runs; rbx: the mailbox. */
// prettier-ignore
const CODE = [
  0xb8, ...word(NR.prctl),                  // mov  eax, prctl
  0xbf, ...word(PR_SET_NAME),               // mov  edi, PR_SET_NAME
  0x48, 0x8d, 0x73, AT.name,                // lea  rsi, [rbx + name]
  0x0f, 0x05,                               // syscall
  // next: wait for our end or a request
  0xb8, ...word(NR.poll),                   // mov  eax, poll
  0x48, 0x8d, 0x7b, AT.polled,              // lea  rdi, [rbx + polled]
  0xbe, ...word(2),                         // mov  esi, 2
  0xba, ...word(-1),                        // mov  edx, -1
  0x0f, 0x05,                               // syscall
  0x48, 0x85, 0xc0,                         // test rax, rax
  0x78, 0xe6,                               // js   next
  0x66, 0x83, 0x7b, AT.polled + 6, 0,       // cmp  word [rbx + polled[0].revents], 0
  0x75, 0x6b,                               // jne  over
  0x66, 0x83, 0x7b, AT.polled + 14, POLLIN, // cmp  word [rbx + polled[1].revents], POLLIN
  0x75, 0x64,                               // jne  over
  0x31, 0xc0,                               // xor  eax, eax (read)
  0x8b, 0x7b, AT.polled + 8,                // mov  edi, [rbx + polled[1].fd]
  0x48, 0x8d, 0x73, AT.count,               // lea  rsi, [rbx + count]
  0xba, ...word(8),                         // mov  edx, 8
  0x0f, 0x05,                               // syscall
  0x83, 0x3b, STATE.asked,                  // cmp  dword [rbx], asked
  0x75, 0xc3,                               // jne  next
  0xc7, 0x03, ...word(STATE.taken),         // mov  dword [rbx], taken
  0x48, 0x8b, 0x43, AT.nr,                  // mov  rax, [rbx + nr]
  0x48, 0x8b, 0x7b, AT.args,                // mov  rdi, [rbx + args[0]]
  0x48, 0x8b, 0x73, AT.args + 8,            // mov  rsi, [rbx + args[1]]
  0x48, 0x8b, 0x53, AT.args + 16,           // mov  rdx, [rbx + args[2]]
  0x4c, 0x8b, 0x53, AT.args + 24,           // mov  r10, [rbx + args[3]]
  0x4c, 0x8b, 0x43, AT.args + 32,           // mov  r8, [rbx + args[4]]
  0x4c, 0x8b, 0x4b, AT.args + 40,           // mov  r9, [rbx + args[5]]
  0x0f, 0x05,                               // syscall
  0x48, 0x89, 0x43, AT.result,              // mov  [rbx + result], rax
  0x3b, 0x43, AT.highest,                   // cmp  eax, [rbx + highest]
  0x7e, 0x03,                               // jle  no_higher
  0x89, 0x43, AT.highest,                   // mov  [rbx + highest], eax
  0xc7, 0x03, ...word(STATE.done),          // mov  dword [rbx], done
  0xb8, ...word(NR.futex),                  // mov  eax, futex
  0x48, 0x89, 0xdf,                         // mov  rdi, rbx
  0xbe, ...word(FUTEX.wake),                // mov  esi, FUTEX_WAKE
  0xba, ...word(1),                         // mov  edx, 1
  0x0f, 0x05,                               // syscall
  0xe9, ...word(-140),                      // jmp  next
  // over: whoever reads what we wrote to waits for the first three; closing links takes longer, each its own time
  0xb8, ...word(NR.closeRange),             // mov  eax, close_range
  0x31, 0xff,                               // xor  edi, edi
  0xbe, ...word(2),                         // mov  esi, 2
  0x31, 0xd2,                               // xor  edx, edx
  0x0f, 0x05,                               // syscall
  0x41, 0xbc, ...word(3),                   // mov  r12d, 3
  // each: a child, for every so many-th
  0x44, 0x3b, 0x63, AT.highest,             // cmp  r12d, [rbx + highest]
  0x77, 0x46,                               // ja   end
  0x41, 0x8d, 0x44, 0x24, 0xfd,             // lea  eax, [r12 - 3]
  0x3b, 0x43, AT.children,                  // cmp  eax, [rbx + children]
  0x73, 0x3c,                               // jae  end
  0xb8, ...word(NR.clone),                  // mov  eax, clone
  0xbf, ...word(CHILD_FLAGS),               // mov  edi, flags
  0x31, 0xf6, 0x31, 0xd2,                   // esi = edx = 0
  0x45, 0x31, 0xd2, 0x45, 0x31, 0xc0,       // r10d = r8d = 0
  0x0f, 0x05,                               // syscall
  0x49, 0x89, 0xc5,                         // mov  r13, rax
  0x48, 0x85, 0xc0,                         // test rax, rax
  0x7f, 0x19,                               // jg   following (a child closes them; else it is done here)
  0x44, 0x89, 0xe5,                         // mov  ebp, r12d
  // one:
  0x89, 0xef,                               // mov  edi, ebp
  0xb8, ...word(NR.close),                  // mov  eax, close
  0x0f, 0x05,                               // syscall
  0x03, 0x6b, AT.children,                  // add  ebp, [rbx + children]
  0x3b, 0x6b, AT.highest,                   // cmp  ebp, [rbx + highest]
  0x76, 0xef,                               // jbe  one
  0x4d, 0x85, 0xed,                         // test r13, r13
  0x74, 0x05,                               // jz   end (of the child)
  // following:
  0x41, 0xff, 0xc4,                         // inc  r12d
  0xeb, 0xb4,                               // jmp  each
  // end:
  0x31, 0xff,                               // xor  edi, edi
  0xb8, ...word(NR.exitGroup),              // mov  eax, exit_group
  0x0f, 0x05,                               // syscall
];

/** How long the event loop may be kept waiting for a call that is quick, ms. */
const QUICK_MS = 1;
const PAUSE_MS = 1;

type Call = readonly [nr: number, ...args: number[]];

export class Keeper {
  readonly #mailbox: Region = mapRegion(MAILBOX_BYTES);
  readonly #state = new Int32Array(this.#mailbox.bytes.buffer, 0, 1);
  readonly #words = new BigInt64Array(this.#mailbox.bytes.buffer, 0, MAILBOX_BYTES / 8);
  readonly #ourEnd: number;
  readonly #bell: number;
  #pid: number | undefined;
  /** The calls under way and asked for, one after the other. */
  #last: Promise<unknown> = Promise.resolve();

  /** `children`: at our end it has so many close what is open, side by side. */
  constructor(children = MOST_CHILDREN) {
    this.#ourEnd = check(syscall(NR.pidfdOpen, process.pid, 0), 'pidfd_open');
    this.#bell = syscall(NR.eventfd2, 0, EFD_CLOEXEC);
    if (this.#bell < 0) closeFd(this.#ourEnd);
    check(this.#bell, 'eventfd2');
    const polled = new DataView(this.#mailbox.bytes.buffer, AT.polled, 16);
    [this.#ourEnd, this.#bell].forEach((fd, i) => {
      polled.setInt32(i * 8, fd, true);
      polled.setInt16(i * 8 + 4, POLLIN, true);
    });
    this.#mailbox.bytes.set(Buffer.from(NAME), AT.name);
    new DataView(this.#mailbox.bytes.buffer).setInt32(AT.children, children, true);
    try {
      this.#start();
    } catch (e) {
      this.close();
      throw e;
    }
  }

  /** Its process id. */
  get pid(): number | undefined {
    return this.#pid;
  }

  #start(): void {
    this.#pid = check(
      startChild(CODE, this.#mailbox.address),
      'clone(CLONE_VM | CLONE_FILES)',
      'A sandbox (seccomp) forbids it, or there are too many processes (ulimit -u)',
    );
  }

  /** Whoever has killed it has harmed nothing yet, for its descriptors are ours as well. True: there was one to replace. */
  revive(): boolean {
    if (this.#pid === undefined || !this.#hasEnded(this.#pid)) return false;
    this.#start();
    return true;
  }

  #hasEnded(pid: number): boolean {
    return syscall(NR.wait4, pid, 0, WAIT.all | WAIT.nohang, 0) !== 0; // its pid, or ECHILD
  }

  /** The result of a system call that it makes, or minus the errno. Rejects when it was killed in the middle of it. */
  call(...call: Call): Promise<number> {
    const result = this.#last.then(() => this.#call(call));
    this.#last = result.catch(() => undefined);
    return result;
  }

  async #call(call: Call): Promise<number> {
    this.#ask(call);
    futexWait(this.#mailbox.address, STATE.asked, QUICK_MS);
    futexWait(this.#mailbox.address, STATE.taken, QUICK_MS);
    while (!this.#isDone(call)) await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    return this.#answer();
  }

  /** The same without the event loop, at most so long. Undefined: not yet done, but it will be. */
  callNow(milliseconds: number, ...call: Call): number | undefined {
    const end = performance.now() + milliseconds;
    const isBusy = (): boolean => this.#state[0] === STATE.asked || this.#state[0] === STATE.taken;
    const wait = (until: () => boolean): boolean => {
      while (!until()) {
        if (performance.now() > end) return false;
        futexWait(this.#mailbox.address, this.#state[0]!, QUICK_MS);
      }
      return true;
    };
    if (!wait(() => !isBusy() || (this.revive(), !isBusy()))) return undefined;
    this.#ask(call);
    return wait(() => this.#isDone(call)) ? this.#answer() : undefined;
  }

  #ask([nr, ...args]: Call): void {
    this.revive();
    const first = AT.args / 8;
    this.#words[AT.nr / 8] = BigInt(nr);
    for (let i = 0; i < 6; i++) this.#words[first + i] = BigInt(args[i] ?? 0);
    Atomics.store(this.#state, 0, STATE.asked);
    this.#ring();
  }

  #ring(): void {
    syscallWithMemory(NR.write, 1, [this.#bell, new BigUint64Array([1n]), 8]);
  }

  #isDone(call: Call): boolean {
    if (Atomics.load(this.#state, 0) === STATE.done) return true;
    if (!this.revive()) return false;
    switch (Atomics.load(this.#state, 0)) {
      case STATE.done:
        return true;
      case STATE.asked: // nothing was done: its successor will
        this.#ring();
        return false;
      default:
        Atomics.store(this.#state, 0, STATE.idle);
        throw new UprobeError(
          'keeper-killed',
          `the process that holds our links was killed while it made a call for us (${call[0]}); another one has been started`,
        );
    }
  }

  #answer(): number {
    const result = Number(this.#words[AT.result / 8]);
    Atomics.store(this.#state, 0, STATE.idle);
    return result;
  }

  /** End it: to be called when no link is left. */
  close(): void {
    const pid = this.#pid;
    this.#pid = undefined;
    if (pid !== undefined) this.#end(pid);
    closeFd(this.#ourEnd);
    closeFd(this.#bell);
    syscall(NR.munmap, this.#mailbox.address, this.#mailbox.length);
  }

  /** Nothing is under way, so it dies at once; the number cannot be another's before we have waited for it. */
  #end(pid: number): void {
    process.kill(pid, 'SIGKILL');
    syscall(NR.wait4, pid, 0, WAIT.all, 0);
  }
}
