/** Children that share our memory and our descriptors and run only a page of machine code. */
import { withSignalsBlocked } from './clone.js';
import { functionAt } from './ffi.js';
import { mapRegion } from './memory.js';
import { NR } from './numbers.js';

/** clone(2): CLONE_UNTRACED | CLONE_FILES | CLONE_VM; no signal at its end. */
export const CHILD_FLAGS = 0x0080_0500;

/** An immediate of 32 bits. */
export const word = (value: number): number[] => [...new Uint8Array(Int32Array.of(value).buffer)];

/** start(rdi: mailbox) → pid; in the child, in a session of its own, on to what follows with rbx = mailbox. */
// prettier-ignore
const START = [
  0x49, 0x89, 0xf9,                         // mov  r9, rdi
  0xb8, ...word(NR.clone),                  // mov  eax, clone
  0xbf, ...word(CHILD_FLAGS),               // mov  edi, flags
  0x31, 0xf6,                               // xor  esi, esi (it never uses its stack)
  0x31, 0xd2, 0x45, 0x31, 0xd2, 0x45, 0x31, 0xc0, // edx = r10d = r8d = 0
  0x0f, 0x05,                               // syscall
  0x48, 0x85, 0xc0,                         // test rax, rax
  0x74, 0x01,                               // jz   child
  0xc3,                                     // ret
  // child:
  0x4c, 0x89, 0xcb,                         // mov  rbx, r9
  0xb8, ...word(NR.setsid),                 // mov  eax, setsid
  0x0f, 0x05,                               // syscall
];

const starters = new Map<readonly number[], (mailbox: number) => number>();

/** Start such a child, all signals blocked: its pid, or minus the errno. `code`: what it runs, with rbx = mailbox; it must not return. */
export function startChild(code: readonly number[], mailbox: number): number {
  let start = starters.get(code);
  if (start === undefined) {
    const page = mapRegion(4096, true);
    page.bytes.set([...START, ...code]);
    start = functionAt(page.address, `int64_t start_child_${starters.size}(uintptr_t)`);
    starters.set(code, start);
  }
  const made = start;
  return withSignalsBlocked(() => made(mailbox));
}
