/**
 * Closing a link of the kernel's uprobes, in a process of its own: it may take long. The kernel takes the breakpoints out at once, and then
 * waits until nobody uses them any more; a thread that is in a call whose return it watches, and meets other such calls again and again,
 * makes it wait until that ends (kernel/events/uprobes.c: prepare_uretprobe puts off ri_timer, which would end it). So that no link waits
 * for another, each has a child with our memory and descriptors, as the keeper is (keeper.ts), and for the same reason.
 */
import { startChild, word } from './keeper-child.js';
import { syscall } from './ffi.js';
import { futexWait } from './futex.js';
import { mapRegion, type Region } from './memory.js';
import { FUTEX, NR, WAIT } from './numbers.js';

const AT = { fd: 0, done: 4 } as const;
const PAGE = 4096;
const PAUSE_MS = 1;

/** What the child runs; rbx: the mailbox. */
// prettier-ignore
const CODE = [
  0x8b, 0x3b,                               // mov  edi, [rbx + fd]
  0xb8, ...word(NR.close),                  // mov  eax, close
  0x0f, 0x05,                               // syscall
  0xc7, 0x43, AT.done, ...word(1),          // mov  dword [rbx + done], 1
  0x48, 0x8d, 0x7b, AT.done,                // lea  rdi, [rbx + done]
  0xbe, ...word(FUTEX.wake),                // mov  esi, FUTEX_WAKE
  0xba, ...word(1),                         // mov  edx, 1
  0xb8, ...word(NR.futex),                  // mov  eax, futex
  0x0f, 0x05,                               // syscall
  0x31, 0xff,                               // xor  edi, edi
  0xb8, ...word(NR.exitGroup),              // mov  eax, exit_group
  0x0f, 0x05,                               // syscall
];

/** A link that is being closed. */
export class Closer {
  readonly #mailbox: Region = mapRegion(PAGE);
  readonly #words = new Int32Array(this.#mailbox.bytes.buffer, 0, 2);
  /** Undefined: it has ended, and its memory is gone. */
  #pid: number | undefined;

  constructor(fd: number) {
    this.#words[AT.fd / 4] = fd;
    const pid = startChild(CODE, this.#mailbox.address);
    if (pid > 0) this.#pid = pid;
    else {
      // No process can be made: whoever asks for it waits, and must not be killed meanwhile.
      syscall(NR.close, fd);
      this.#free();
    }
  }

  get isDone(): boolean {
    if (this.#pid === undefined) return true;
    const isClosed = Atomics.load(this.#words, AT.done / 4) === 1;
    // One that was killed leaves the rest to whoever else has the descriptor.
    const gone = syscall(NR.wait4, this.#pid, 0, WAIT.all | (isClosed ? 0 : WAIT.nohang), 0) !== 0;
    if (gone) this.#free();
    return gone;
  }

  /** At most so long, without the event loop. */
  wait(milliseconds: number): void {
    const end = performance.now() + milliseconds;
    while (!this.isDone && performance.now() < end) futexWait(this.#mailbox.address + AT.done, 0, PAUSE_MS);
  }

  #free(): void {
    this.#pid = undefined;
    syscall(NR.munmap, this.#mailbox.address, this.#mailbox.length);
  }
}

/** How long it is waited for: breakpoints are out long before. */
const PATIENCE_MS = 2000;

/** Close links, side by side: in the order given, they begin. Resolves when all are closed, or in a while. */
export async function closeLinks(fds: readonly number[]): Promise<void> {
  const closers = fds.map((fd) => new Closer(fd));
  closers[0]?.wait(PAUSE_MS);
  const end = performance.now() + PATIENCE_MS;
  while (!closers.every((c) => c.isDone) && performance.now() < end)
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  for (const closer of closers) if (!closer.isDone) reapLater(closer);
}

/** The same without the event loop. */
export function closeLinksNow(fds: readonly number[], milliseconds: number): void {
  const closers = fds.map((fd) => new Closer(fd));
  const end = performance.now() + milliseconds;
  for (const closer of closers) closer.wait(Math.max(0, end - performance.now()));
}

const LATER_MS = 1000;
function reapLater(closer: Closer): void {
  const timer = setInterval(() => void (closer.isDone && clearInterval(timer)), LATER_MS);
  timer.unref();
}
