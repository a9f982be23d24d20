/** What this machine and this user may do, found by trying where that touches nobody. */
import { existsSync, readFileSync } from 'node:fs';
import { release, arch } from 'node:os';
import { messageOf } from '../base/errors.js';
import { clonePaused } from './clone.js';
import { mapRegion } from './memory.js';
import { MOUNT_PROC, ProcessMemory } from './process-memory.js';
import { statusField } from './proc-status.js';
import { ptrace } from './ptrace.js';

/** One thing that was looked at. `remedy` is there where `ok` is false and something can be done. */
export interface Finding {
  readonly what: string;
  readonly ok: boolean;
  readonly detail: string;
  readonly remedy?: string;
}

const CAP_SYS_PTRACE = 19n;

/** Look at what tracing needs. Starts (and ends) one child of its own; touches no other process. */
export function examineProcesses(): readonly Finding[] {
  return [
    platform(),
    procMounted(),
    attempt(
      'machine code of our own',
      'memory that is writable and executable can be mapped',
      () => void mapRegion(4096, true),
      EXECMEM,
    ),
    attempt(
      'tracing programs started from here',
      'a child was seized, its memory opened, and let go again',
      traceChild,
      SECCOMP,
    ),
    otherProcesses(),
    tracedAlready(),
  ];
}

const EXECMEM =
  'A security policy forbids it (SELinux execmem, MemoryDenyWriteExecute= of the systemd unit): lift it for Node';
const SECCOMP =
  'A container or sandbox forbids ptrace: docker run --cap-add=SYS_PTRACE --security-opt seccomp=unconfined, or the like';

function attempt(what: string, detail: string, body: () => void, remedy: string): Finding {
  try {
    body();
    return { what, ok: true, detail };
  } catch (e) {
    return { what, ok: false, detail: messageOf(e), remedy };
  }
}

function platform(): Finding {
  const detail = `Linux ${release()}, ${arch()}, Node ${process.versions.node}`;
  if (arch() === 'x64' && process.platform === 'linux') return { what: 'platform', ok: true, detail };
  return { what: 'platform', ok: false, detail, remedy: 'Only Linux on x86-64 is supported' };
}

/** A chroot has none unless somebody mounts it. */
function procMounted(): Finding {
  const what = 'the files of processes';
  if (existsSync('/proc/self/maps')) return { what, ok: true, detail: '/proc is mounted' };
  return { what, ok: false, detail: '/proc is not mounted', remedy: MOUNT_PROC };
}

/** Everything that arming a probe needs of ptrace(2), on a child that never gets to its program. */
function traceChild(): void {
  const child = clonePaused({
    file: '/proc/self/exe',
    argv: ['uprobe-doctor'],
    env: [],
    cwd: undefined,
    fds: [0, 1, 2],
  });
  try {
    ptrace.seize(child.pid, 0);
    new ProcessMemory(child.pid).close();
  } finally {
    child.release(); // which ends it
  }
}

function otherProcesses(): Finding {
  const what = 'tracing processes that run already';
  const scope = readNumber('/proc/sys/kernel/yama/ptrace_scope') ?? 0;
  const capable = hasCapability(CAP_SYS_PTRACE);
  if (capable && scope < 3) return { what, ok: true, detail: 'those of all users (CAP_SYS_PTRACE)' };
  if (scope === 0)
    return { what, ok: true, detail: 'those of this user; for others run as root or with CAP_SYS_PTRACE' };
  return {
    what,
    ok: false,
    detail: `kernel.yama.ptrace_scope=${scope} allows ${scope === 1 ? 'children only' : 'none'}`,
    remedy:
      scope < 3
        ? 'Start the program from here (uprobe trace … -- COMMAND), run with CAP_SYS_PTRACE (sudo), or: sudo sysctl kernel.yama.ptrace_scope=0'
        : 'The setting 3 lasts until the next boot',
  };
}

/** A process has one tracer: under a debugger or strace -f, programs started from here cannot be traced by us. */
function tracedAlready(): Finding {
  const what = 'no other tracer above us';
  const tracer = statusField('self', 'TracerPid');
  if (tracer === undefined || Number(tracer) === 0)
    return { what, ok: true, detail: 'nobody traces this process' };
  return {
    what,
    ok: false,
    detail: `process ${tracer} traces this one, and with it perhaps what is started from here`,
    remedy: 'Run outside of the debugger or strace -f',
  };
}

function hasCapability(capability: bigint): boolean {
  const effective = statusField('self', 'CapEff');
  return effective !== undefined && ((BigInt(`0x${effective}`) >> capability) & 1n) === 1n;
}

function readNumber(path: string): number | undefined {
  try {
    return Number(readFileSync(path, 'latin1'));
  } catch {
    return undefined;
  }
}
