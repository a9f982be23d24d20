/** Ending as the command ended. */
import { readFileSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';

/** The signals whose default action writes a core file (signal(7)). */
const DUMPING: ReadonlySet<string> = new Set([
  'SIGABRT',
  'SIGBUS',
  'SIGFPE',
  'SIGILL',
  'SIGQUIT',
  'SIGSEGV',
  'SIGSYS',
  'SIGTRAP',
  'SIGXCPU',
  'SIGXFSZ',
]);

export interface Status {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/**
 * What to exit with. A command that was killed by a signal takes us with it, by the same signal, so that whoever
 * waits for us sees what it would have seen; where that does not end us, 128 + signal is what shells make of it.
 */
export function exitAs({ code, signal }: Status): number {
  if (signal === null) return code ?? 0;
  if (mayDieOf(signal)) {
    takeDefault(signal);
    process.kill(process.pid, signal);
  }
  return 128 + constants.signals[signal];
}

/** Node ignores SIGPIPE and starts its debugger at SIGUSR1; after the last listener has gone, libuv sets SIG_DFL. */
function takeDefault(signal: NodeJS.Signals): void {
  try {
    process.on(signal, () => undefined);
  } catch {
    return; // SIGKILL, SIGSTOP: they cannot be caught, and need not be
  }
  process.removeAllListeners(signal);
}

/** Not where our own core file would replace the command's. */
function mayDieOf(signal: string): boolean {
  if (!DUMPING.has(signal)) return true;
  try {
    const limits = readFileSync('/proc/self/limits', 'latin1');
    if (!/^Max core file size\s+0\s/m.test(limits)) return false;
    // core(5): a core_pattern that is a pipe is fed whatever the limit is; give it nothing of our memory.
    writeFileSync('/proc/self/coredump_filter', '0');
    return true;
  } catch {
    return false;
  }
}
