/**
 * Closing a link of the kernel's uprobes, in a process of its own: it may take long. The kernel takes the breakpoints out at once, and then
 * waits until nobody uses them any more; a thread that is in a call whose return it watches, and meets other such calls again and again,
 * makes it wait until that ends (kernel/events/uprobes.c: prepare_uretprobe puts off ri_timer, which would end it). So that no link waits
 * for another, each has a child with our memory and descriptors, as the keeper is (keeper.ts), and for the same reason, as long as they
 * are not too many.
 */
import { startChild, word } from './keeper-child.js';
import { syscall } from './ffi.js';
import { futexWait } from './futex.js';
import { mapRegion, type Region } from './memory.js';
import { FUTEX, NR, WAIT } from './numbers.js';

const AT = { count: 0, done: 4, name: 8, fds: 24 } as const;
const PR_SET_NAME = 15;
/** As `ps -o comm` shows it. */
const NAME = 'uprobe-closer';
const PAUSE_MS = 1;

/** What the child runs; rbx: the mailbox. */
// prettier-ignore
const CODE = [
  0xb8, ...word(NR.prctl),                  // mov  eax, prctl
  0xbf, ...word(PR_SET_NAME),               // mov  edi, PR_SET_NAME
  0x48, 0x8d, 0x73, AT.name,                // lea  rsi, [rbx + name]
  0x0f, 0x05,                               // syscall
  0x31, 0xed,                               // xor  ebp, ebp
  // each:
  0x3b, 0x2b,                               // cmp  ebp, [rbx + count]
  0x73, 0x0f,                               // jae  all
  0x8b, 0x7c, 0xab, AT.fds,                 // mov  edi, [rbx + 4 * rbp + fds]
  0xb8, ...word(NR.close),                  // mov  eax, close
  0x0f, 0x05,                               // syscall
  0xff, 0xc5,                               // inc  ebp
  0xeb, 0xed,                               // jmp  each
  // all:
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

/** Links that are being closed, one after the other. */
export class Closer {
  readonly #mailbox: Region;
  readonly #words: Int32Array;
  /** Undefined: it has ended, and its memory is gone. */
  #pid: number | undefined;

  constructor(fds: readonly number[]) {
    this.#mailbox = mapRegion(AT.fds + 4 * fds.length);
    this.#words = new Int32Array(this.#mailbox.bytes.buffer, 0, this.#mailbox.length / 4);
    this.#words[AT.count / 4] = fds.length;
    this.#mailbox.bytes.set(Buffer.from(NAME), AT.name);
    this.#words.set(fds, AT.fds / 4);
    const pid = startChild(CODE, this.#mailbox.address);
    if (pid > 0) this.#pid = pid;
    else {
      // No process can be made: whoever asks for it waits, and must not be killed meanwhile.
      for (const fd of fds) syscall(NR.close, fd);
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

/** So many children at most: beyond that a link waits for others. */
export const MOST_CHILDREN = 64;
/**
 * Of perf events: the kernel takes their uprobes out one after the other (kernel/trace/trace_event_perf.c, perf_uprobe_destroy), and who
 * opens one waits for all that are being closed.
 */
export const EVENTS_AT_ONCE = 2;

function closersOf(fds: readonly number[], children: number): Closer[] {
  const shares = Array.from({ length: Math.min(children, fds.length) }, (_, first) =>
    fds.filter((_fd, i) => i % children === first),
  );
  return shares.map((share) => new Closer(share));
}

/** Close links, side by side: in the order given, they begin. Resolves when all are closed, or in a while. */
export async function closeLinks(fds: readonly number[], children = MOST_CHILDREN): Promise<void> {
  const closers = closersOf(fds, children);
  closers[0]?.wait(PAUSE_MS);
  const end = performance.now() + PATIENCE_MS;
  while (!closers.every((c) => c.isDone) && performance.now() < end)
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  for (const closer of closers) if (!closer.isDone) reapLater(closer);
}

/** The same without the event loop. */
export function closeLinksNow(fds: readonly number[], milliseconds: number, children = MOST_CHILDREN): void {
  const closers = closersOf(fds, children);
  const end = performance.now() + milliseconds;
  for (const closer of closers) closer.wait(Math.max(0, end - performance.now()));
}

const LATER_MS = 1000;
function reapLater(closer: Closer): void {
  const timer = setInterval(() => void (closer.isDone && clearInterval(timer)), LATER_MS);
  timer.unref();
}
