/**
 * What carries the threads of a target over our breakpoints when we are gone: a handler for SIGTRAP in machine code, in
 * memory of ours in the target, with a table of the breakpoints. While we live it never runs, for ptrace takes every
 * SIGTRAP first. When we are killed, a thread that runs into a breakpoint finds its XOL slot in the table by itself.
 *
 * The table's second words hold the byte that the breakpoint replaced as well: with the memory of the target alone,
 * whoever comes after us can make its text whole (guardian.ts).
 */
import type { ProcessMemory } from '../../linux/process-memory.js';
import { Assembler } from './assembler.js';

const PAGE = 4096;
/** The header with the code, the latest breakpoints, and two halves for tables, of which one is in use. */
export const CARRIER_BYTES = 16 * PAGE;
const LATEST_AT = PAGE;
const TABLES_AT = 2 * PAGE;
const HALF = Math.floor((CARRIER_BYTES - TABLES_AT) / 2 / 16) * 16;
const ENTRY_BYTES = 16;
/** How many breakpoints may come before the table is made anew. */
const MOST_LATEST = Math.floor((TABLES_AT - LATEST_AT - 8) / ENTRY_BYTES);

/** `uprobe` and the version of the layout below. */
const MAGIC = 0x0002_6562_6f72_7075n;
const HEADER = { magic: 0, table: 8, own: 16, ours: 48, none: 80, mark: 112 } as const;
const ACTION_BYTES = 32;
const CODE_AT = 128;

/** A signal's action as rt_sigaction(2) takes it: handler, flags, restorer, mask. */
export type Action = BigUint64Array;
export const SIG_DFL = 0n;
export const SIG_IGN = 1n;
const SA_SIGINFO = 4n;
const SA_RESTORER = 0x0400_0000n;
const SA_ONSTACK = 0x0800_0000n;
const ALL = 0xffff_ffff_ffff_ffffn;

/** Offsets in siginfo_t and ucontext_t (asm/sigcontext.h). */
const SI_CODE = 8;
const UC_IP = 0xa8;
const UC_FLAGS = 0xb0;
export const UC_MASK = 0x128;

/** Offsets of the handler and of the restorer, and the code. rdi: signal, rsi: siginfo, rdx: ucontext. */
function assemble(): { readonly bytes: Uint8Array; readonly handler: number; readonly restorer: number } {
  const a = new Assembler(CODE_AT);
  a.define('table', HEADER.table).define('own', HEADER.own).define('none', HEADER.none);
  a.define('latest', LATEST_AT)
    .define('own.flags', HEADER.own + 8)
    .define('own.mask', HEADER.own + 24);
  const i32 = (value: number): number[] => [...new Uint8Array(Int32Array.of(value).buffer)];
  // prettier-ignore
  a.label('handler')
    .code(0x4c, 0x8b, 0x92, ...i32(UC_IP))          // mov  r10, [rdx + ip]
    .code(0x81, 0x7e, SI_CODE, ...i32(0x80))        // cmp  dword [rsi + si_code], SI_KERNEL
    .rel('noBreakpoint', [0x0f, 0x85])              // jne  noBreakpoint
    .code(0x4d, 0x8d, 0x42, 0xff)                   // lea  r8, [r10 - 1]
    .rel('table', [0x4c, 0x8b, 0x0d])               // mov  r9, [table]
    .code(0x49, 0x8b, 0x09)                         // mov  rcx, [r9]           how many
    .code(0x49, 0x83, 0xc1, 0x08)                   // add  r9, 8
    .code(0x45, 0x31, 0xdb)                         // xor  r11d, r11d          r11 ≤ the one we look for < rcx
  .label('search')
    .code(0x49, 0x39, 0xcb)                         // cmp  r11, rcx
    .rel('absent', [0x0f, 0x83])                    // jae  absent
    .code(0x49, 0x8d, 0x04, 0x0b)                   // lea  rax, [r11 + rcx]
    .code(0x48, 0xd1, 0xe8)                         // shr  rax, 1
    .code(0x48, 0x89, 0xc7)                         // mov  rdi, rax
    .code(0x48, 0xc1, 0xe7, 0x04)                   // shl  rdi, 4
    .code(0x4d, 0x39, 0x04, 0x39)                   // cmp  [r9 + rdi], r8
    .rel('found', [0x0f, 0x84])                     // je   found
    .rel('below', [0x0f, 0x82])                     // jb   below
    .code(0x48, 0x89, 0xc1)                         // mov  rcx, rax
    .rel('search', [0xe9])                          // jmp  search
  .label('below')
    .code(0x4c, 0x8d, 0x58, 0x01)                   // lea  r11, [rax + 1]
    .rel('search', [0xe9])                          // jmp  search
  .label('found')
    .code(0x4d, 0x8b, 0x54, 0x39, 0x08)             // mov  r10, [r9 + rdi + 8]
    .code(0x49, 0xc1, 0xe2, 0x08)                   // shl  r10, 8              without the original byte
    .code(0x49, 0xc1, 0xea, 0x08)                   // shr  r10, 8
    .code(0x4c, 0x89, 0x92, ...i32(UC_IP))          // mov  [rdx + ip], r10
    .code(0x4d, 0x39, 0xc2)                         // cmp  r10, r8
    .rel('mend', [0x0f, 0x84])                      // je   mend
    .code(0xc3)                                     // ret
  // without a slot the instruction runs in its own place only: this breakpoint is taken out for good
  .label('mend')
    .code(0x45, 0x0f, 0xb6, 0x64, 0x39, 0x0f)       // movzx r12d, byte [r9 + rdi + 15]   the original byte
    .code(0x4c, 0x89, 0xc7)                         // mov  rdi, r8
    .code(0x48, 0x81, 0xe7, ...i32(-PAGE))          // and  rdi, -PAGE
    .code(0xbe, ...i32(PAGE))                       // mov  esi, PAGE
    .code(0xba, 7, 0, 0, 0)                         // mov  edx, PROT_READ | PROT_WRITE | PROT_EXEC
    .code(0xb8, 10, 0, 0, 0, 0x0f, 0x05)            // mprotect
    .code(0x45, 0x88, 0x20)                         // mov  [r8], r12b
    .code(0xba, 5, 0, 0, 0)                         // mov  edx, PROT_READ | PROT_EXEC
    .code(0xb8, 10, 0, 0, 0, 0x0f, 0x05)            // mprotect
    .code(0xc3)                                     // ret
  // one of the latest, which are in no order
  .label('absent')
    .rel('latest', [0x4c, 0x8d, 0x0d])              // lea  r9, [latest]
    .code(0x49, 0x8b, 0x09)                         // mov  rcx, [r9]
    .code(0x49, 0x83, 0xc1, 0x08)                   // add  r9, 8
  .label('seek')
    .code(0x48, 0x83, 0xe9, 0x01)                   // sub  rcx, 1
    .rel('pointed', [0x0f, 0x82])                   // jb   pointed
    .code(0x48, 0x89, 0xcf)                         // mov  rdi, rcx
    .code(0x48, 0xc1, 0xe7, 0x04)                   // shl  rdi, 4
    .code(0x4d, 0x39, 0x04, 0x39)                   // cmp  [r9 + rdi], r8
    .rel('found', [0x0f, 0x84])                     // je   found
    .rel('seek', [0xe9])                            // jmp  seek
  // already pointed at its slot by us, who were killed just then?
  .label('pointed')
    .rel('slots', [0xe8])                           // call slots
    .rel('out', [0x0f, 0x84])                       // jz   out
    .rel('table', [0x4c, 0x8b, 0x0d])               // mov  r9, [table]
    .code(0x49, 0x83, 0xc1, 0x08)                   // add  r9, 8
    .rel('slots', [0xe8])                           // call slots
    .rel('noSlot', [0x0f, 0x85])                    // jnz  noSlot
    .code(0xc3)                                     // ret
  // ZF: r10 is one of the slots of the entries at r9
  .label('slots')
    .code(0x49, 0x8b, 0x49, 0xf8)                   // mov  rcx, [r9 - 8]
  .label('scan')
    .code(0x48, 0x83, 0xe9, 0x01)                   // sub  rcx, 1
    .rel('out', [0x0f, 0x82])                       // jb   out                 (ZF is clear: rcx is -1)
    .code(0x48, 0x89, 0xcf)                         // mov  rdi, rcx
    .code(0x48, 0xc1, 0xe7, 0x04)                   // shl  rdi, 4
    .code(0x49, 0x8b, 0x44, 0x39, 0x08)             // mov  rax, [r9 + rdi + 8]
    .code(0x48, 0xc1, 0xe0, 0x08)                   // shl  rax, 8
    .code(0x48, 0xc1, 0xe8, 0x08)                   // shr  rax, 8
    .code(0x4c, 0x39, 0xd0)                         // cmp  rax, r10
    .rel('scan', [0x0f, 0x85])                      // jne  scan
  .label('out')
    .code(0xc3)                                     // ret
  // an int3 (cc, or cd 03) of the program; or a breakpoint that was taken out meanwhile: back to the instruction
  .label('noSlot')
    .code(0x41, 0x80, 0x7a, 0xff, 0xcc)             // cmp  byte [r10 - 1], 0xcc
    .rel('program', [0x0f, 0x84])                   // je   program
    .code(0x66, 0x41, 0x81, 0x7a, 0xfe, 0xcd, 0x03) // cmp  word [r10 - 2], 0x03cd
    .rel('program', [0x0f, 0x84])                   // je   program
    .code(0x4c, 0x89, 0x82, ...i32(UC_IP))          // mov  [rdx + ip], r8
    .code(0xc3)                                     // ret
  // a step of ours that was under way: of a step of its own the program has set the trap flag
  .label('noBreakpoint')
    .code(0x83, 0x7e, SI_CODE, 0x00)                // cmp  dword [rsi + si_code], 0
    .rel('program', [0x0f, 0x8e])                   // jle  program             somebody has sent it
    .code(0x83, 0x7e, SI_CODE, 0x02)                // cmp  dword [rsi + si_code], TRAP_TRACE
    .rel('program', [0x0f, 0x8f])                   // jg   program             (TRAP_BRKPT: a step over a system call)
    .code(0xf6, 0x82, ...i32(UC_FLAGS + 1), 0x01)   // test byte [rdx + flags + 1], 1
    .rel('program', [0x0f, 0x85])                   // jne  program
    .code(0xc3)                                     // ret
  // what the program would have done with it
  .label('program')
    .rel('own', [0x48, 0x83, 0x3d], [SIG_IGN_BYTE]) // cmp  qword [own], SIG_IGN
    .rel('chain', [0x0f, 0x87])                     // ja   chain
    .rel('die', [0x0f, 0x82])                       // jb   die
    .code(0x81, 0x7e, SI_CODE, ...i32(0x80))        // cmp  dword [rsi + si_code], SI_KERNEL
    .rel('die', [0x0f, 0x84])                       // je   die                 an int3 cannot be ignored
    .code(0xc3)                                     // ret
  .label('die')
    .rel('reset', [0xe8])                           // call reset
    .code(0xb8, 39, 0, 0, 0, 0x0f, 0x05)            // eax = getpid()
    .code(0x89, 0xc7)                               // mov  edi, eax
    .code(0xb8, 186, 0, 0, 0, 0x0f, 0x05)           // eax = gettid()
    .code(0x89, 0xc6)                               // mov  esi, eax
    .code(0xba, 5, 0, 0, 0)                         // mov  edx, SIGTRAP
    .code(0xb8, 234, 0, 0, 0, 0x0f, 0x05)           // tgkill: delivered when the mask comes back
    .code(0xc3)                                     // ret
  .label('reset')
    .code(0x52, 0x56)                               // push rdx, rsi
    .code(0xbf, 5, 0, 0, 0)                         // mov  edi, SIGTRAP
    .rel('none', [0x48, 0x8d, 0x35])                // lea  rsi, [none]
    .code(0x31, 0xd2, 0x41, 0xba, 8, 0, 0, 0)       // edx = 0, r10d = 8
    .code(0xb8, 13, 0, 0, 0, 0x0f, 0x05)            // rt_sigaction
    .code(0x5e, 0x5a, 0xc3)                         // pop  rsi, rdx; ret
  .label('chain')
    .rel('own.flags', [0xf7, 0x05], i32(-0x8000_0000)) // test dword [own.flags], SA_RESETHAND
    .code(0x74, 0x05)                               // jz   +5
    .rel('reset', [0xe8])                           // call reset
    .code(0x48, 0x8b, 0x8a, ...i32(UC_MASK))        // mov  rcx, [rdx + mask]
    .rel('own.mask', [0x48, 0x0b, 0x0d])            // or   rcx, [own.mask]
    .rel('own.flags', [0xf7, 0x05], i32(0x4000_0000)) // test dword [own.flags], SA_NODEFER
    .code(0x75, 0x04)                               // jnz  +4
    .code(0x48, 0x83, 0xc9, 0x10)                   // or   rcx, 1 << (SIGTRAP - 1)
    .code(0x52, 0x56, 0x51)                         // push rdx, rsi, rcx
    .code(0xbf, 2, 0, 0, 0)                         // mov  edi, SIG_SETMASK
    .code(0x48, 0x89, 0xe6)                         // mov  rsi, rsp
    .code(0x31, 0xd2, 0x41, 0xba, 8, 0, 0, 0)       // edx = 0, r10d = 8
    .code(0xb8, 14, 0, 0, 0, 0x0f, 0x05)            // rt_sigprocmask
    .code(0x59, 0x5e, 0x5a)                         // pop  rcx, rsi, rdx
    .code(0xbf, 5, 0, 0, 0)                         // mov  edi, SIGTRAP
    .rel('own', [0xff, 0x25])                       // jmp  [own]
  .label('restorer')
    .code(0xb8, 15, 0, 0, 0, 0x0f, 0x05); // rt_sigreturn
  const bytes = a.finish();
  if (CODE_AT + bytes.length > TABLES_AT) throw new Error('the code of the carrier is too long');
  return { bytes, handler: a.offsetOf('handler'), restorer: a.offsetOf('restorer') };
}
const SIG_IGN_BYTE = Number(SIG_IGN);

let assembled: ReturnType<typeof assemble> | undefined;

/** One breakpoint, as the table knows it. */
export interface Carried {
  readonly address: number;
  readonly slot: number;
  readonly original: number;
}

/** Where a greater table may be put: the start of so many bytes, or undefined. */
export type MapTable = (bytes: number) => number | undefined;

/** All methods that write expect every thread of the address space to be stopped, and none of them in our handler. */
export class Carrier {
  #halves: readonly [number, number];
  #capacity = HALF;
  #next = 0;
  #latest = 0;

  /**
   * `base`: CARRIER_BYTES of executable memory in the target. `mark`: whose it is. `outlived`: whoever made it is gone, and
   * it stays as it is, for a thread of the target may be in it.
   */
  constructor(
    readonly base: number,
    readonly mark: bigint,
    readonly outlived = false,
  ) {
    this.#halves = [base + TABLES_AT, base + TABLES_AT + HALF];
  }

  /** Memory that greater tables are in. */
  readonly extra: { readonly start: number; readonly size: number }[] = [];

  /** The same carrier in a copy of the memory. */
  copy(): Carrier {
    const copy = new Carrier(this.base, this.mark, this.outlived);
    copy.#halves = this.#halves;
    copy.#capacity = this.#capacity;
    copy.#next = this.#next;
    copy.#latest = this.#latest;
    copy.extra.push(...this.extra);
    return copy;
  }

  /** Write it, with an empty table. `own`: the program's action. */
  write(memory: ProcessMemory, own: Action): void {
    const { bytes, handler, restorer } = (assembled ??= assemble());
    const page = new Uint8Array(CODE_AT + bytes.length);
    const words = new BigUint64Array(page.buffer, 0, CODE_AT / 8);
    words[HEADER.magic / 8] = MAGIC;
    words[HEADER.table / 8] = BigInt(this.#halves[1]);
    words[HEADER.mark / 8] = this.mark;
    words.set(own, HEADER.own / 8);
    const base = BigInt(this.base);
    const flags = SA_SIGINFO | SA_RESTORER | SA_ONSTACK;
    words.set([base + BigInt(handler), flags, base + BigInt(restorer), ALL], HEADER.ours / 8);
    page.set(bytes, CODE_AT);
    if (!memory.write(this.base, page)) throw new Error('the memory of the carrier cannot be written');
  }

  /** The address of our handler. */
  get handler(): number {
    return this.base + (assembled ??= assemble()).handler;
  }
  get ours(): number {
    return this.base + HEADER.ours;
  }
  get own(): number {
    return this.base + HEADER.own;
  }
  get none(): number {
    return this.base + HEADER.none;
  }

  /** The program's action is another one now. */
  keepOwn(memory: ProcessMemory, own: Action): void {
    memory.write(this.own, new Uint8Array(own.buffer, own.byteOffset, ACTION_BYTES));
  }

  /**
   * These are the breakpoints now. They are written beside those in use, and one word switches: if we die anywhere in
   * here, the table is the old one or the new one. False where there is no room for so many.
   */
  setTable(memory: ProcessMemory, entries: readonly Carried[], map: MapTable): boolean {
    if (this.outlived) return true;
    const bytes = 8 + entries.length * ENTRY_BYTES;
    if (bytes > this.#capacity && !this.#grow(bytes, map)) return false;
    const half = this.#halves[this.#next]!;
    return memory.write(half, tableOf(entries)) && this.#switchTo(memory, half);
  }

  /** These are breakpoints as well. False where there is no room for them: the table has to be set. */
  add(memory: ProcessMemory, entries: readonly Carried[]): boolean {
    if (this.outlived) return true;
    if (this.#latest + entries.length > MOST_LATEST) return false;
    const at = this.base + LATEST_AT;
    return (
      memory.write(at + 8 + this.#latest * ENTRY_BYTES, tableOf(entries).subarray(8)) &&
      writeWord(memory, at, (this.#latest += entries.length))
    );
  }

  /** The latest ones are in the new table as well. */
  #switchTo(memory: ProcessMemory, half: number): boolean {
    this.#next = 1 - this.#next;
    this.#latest = 0;
    return writeWord(memory, this.base + HEADER.table, half) && writeWord(memory, this.base + LATEST_AT, 0);
  }

  #grow(bytes: number, map: MapTable): boolean {
    const capacity = Math.ceil((bytes * 2) / PAGE) * PAGE;
    const start = map(capacity * 2);
    if (start === undefined) return false;
    this.extra.push({ start, size: capacity * 2 });
    this.#halves = [start, start + capacity];
    this.#capacity = capacity;
    this.#next = 0;
    return true;
  }
}

const writeWord = (memory: ProcessMemory, address: number, word: number): boolean =>
  memory.write(address, new Uint8Array(BigUint64Array.of(BigInt(word)).buffer));

function tableOf(entries: readonly Carried[]): Uint8Array {
  const words = new Uint32Array(2 + entries.length * 4);
  words[0] = entries.length;
  entries
    .toSorted((a, b) => a.address - b.address)
    .forEach(({ address, slot, original }, i) => {
      const at = 2 + i * 4;
      words[at] = address >>> 0;
      words[at + 1] = Math.floor(address / 2 ** 32);
      words[at + 2] = slot >>> 0;
      words[at + 3] = (Math.floor(slot / 2 ** 32) | (original << 24)) >>> 0;
    });
  return new Uint8Array(words.buffer);
}

/** What a carrier at `base` says in a memory, or undefined where there is none. */
export function readCarrier(
  memory: ProcessMemory,
  base: number,
  mark: bigint,
): { readonly own: Action; readonly entries: Carried[] } | undefined {
  const header = wordsAt(memory, base, CODE_AT);
  if (header === undefined || header[HEADER.magic / 8] !== MAGIC || header[HEADER.mark / 8] !== mark)
    return undefined;
  const entries = entriesAt(memory, Number(header[HEADER.table / 8]!));
  const latest = entriesAt(memory, base + LATEST_AT);
  if (entries === undefined || latest === undefined) return undefined;
  return { own: header.slice(HEADER.own / 8, HEADER.ours / 8), entries: [...entries, ...latest] };
}

function entriesAt(memory: ProcessMemory, at: number): Carried[] | undefined {
  const count = wordsAt(memory, at, 8)?.[0];
  const words = count === undefined ? undefined : wordsAt(memory, at + 8, Number(count) * ENTRY_BYTES);
  if (words === undefined) return undefined;
  return Array.from({ length: words.length / 2 }, (_, i): Carried => {
    const second = words[i * 2 + 1]!;
    return {
      address: Number(words[i * 2]!),
      slot: Number(BigInt.asUintN(56, second)),
      original: Number(second >> 56n),
    };
  });
}

function wordsAt(memory: ProcessMemory, address: number, length: number): BigUint64Array | undefined {
  if (length === 0) return new BigUint64Array(0);
  const bytes = memory.read(address, length);
  return bytes && new BigUint64Array(Uint8Array.from(bytes).buffer);
}
