/** Children that share our memory and our descriptors and run only a page of machine code. */
import { withSignalsBlocked } from './clone.js';
import { functionAt } from './ffi.js';
import { mapRegion } from './memory.js';

/** clone(2): CLONE_UNTRACED | CLONE_FILES | CLONE_VM; no signal at its end. */
export const CHILD_FLAGS = 0x0080_0500;

const starters = new Map<readonly number[], (mailbox: number) => number>();

/** Start such a child, all signals blocked: its pid, or minus the errno. `code`: start(rdi: mailbox) → pid, in the parent. */
export function startChild(code: readonly number[], mailbox: number): number {
  let start = starters.get(code);
  if (start === undefined) {
    const page = mapRegion(4096, true);
    page.bytes.set(code);
    start = functionAt(page.address, `int64_t start_child_${starters.size}(uintptr_t)`);
    starters.set(code, start);
  }
  const made = start;
  return withSignalsBlocked(() => made(mailbox));
}
