import { syscall } from './ffi.js';
import { mapRegion } from './memory.js';
import { NR, SIG } from './numbers.js';

const SA_NOCLDSTOP = 1n;
const SET_BYTES = 8;
const HANDLER_WORD = 0;
const FLAGS_WORD = 1;

/**
 * No SIGCHLD for stops, only for ends. As soon as Node has a child process it handles that signal, and every ptrace stop of
 * a tracee sends it to the tracer's process: its main thread would wake up at every hit, which doubles the cost of one.
 */
export function ignoreChildStops(): void {
  const { address, bytes, length } = mapRegion(4096);
  const action = new BigUint64Array(bytes.buffer, 0, 4);
  if (syscall(NR.rtSigaction, SIG.chld, 0, address, SET_BYTES) === 0 && action[HANDLER_WORD]! > 1n) {
    action[FLAGS_WORD] = action[FLAGS_WORD]! | SA_NOCLDSTOP;
    syscall(NR.rtSigaction, SIG.chld, address, 0, SET_BYTES);
  }
  syscall(NR.munmap, address, length);
}
