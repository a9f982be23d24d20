/** Whether a process may be probed at all: what /proc says, before anybody touches it. */
import { readdirSync } from 'node:fs';
import { ProcessError } from '../base/errors.js';
import { readProc } from '../linux/proc-status.js';

/** The fields of /proc/PID/status and /proc/PID/stat that matter here. */
interface Status {
  readonly name: string;
  readonly tgid: number;
  readonly state: string;
  readonly kernel: boolean;
}

/** include/linux/sched.h: PF_KTHREAD. */
const PF_KTHREAD = 0x0020_0000;
/** No chain of parents is longer than the number of processes; this only bounds a /proc that lies. */
const MAX_ANCESTORS = 4096;

/** Throws ProcessError unless `pid` is a process of user space that can be probed and is none of ours. */
export function checkProcess(pid: number): void {
  if (pid === 1)
    throw refused('is-init', pid, 'process 1 is never probed: the machine (or container) lives by it');
  if (pid === process.pid)
    throw refused('is-ourselves', pid, `process ${pid} is this one, and a tracer cannot stop itself`);
  const status = readStatus(pid);
  if (status === undefined) throw refused('no-such-process', pid, `there is no process ${pid}`);
  const who = `process ${pid} (${status.name})`;
  if (status.tgid !== pid)
    throw refused('is-a-thread', pid, `${pid} is a thread of process ${status.tgid}: name that process`);
  if (status.kernel)
    throw refused('is-a-kernel-thread', pid, `${who} is a thread of the kernel and maps no file`);
  if ((status.state === 'Z' || status.state === 'X') && liveThread(pid) === undefined)
    throw refused('is-a-zombie', pid, `${who} has ended; only its parent has not taken notice yet`);
  if (ancestors().includes(pid))
    throw refused(
      'is-our-ancestor',
      pid,
      `${who} is an ancestor of this one: stopping it could stop us for good`,
    );
}

const refused = (code: string, pid: number, message: string): ProcessError =>
  new ProcessError(code, pid, message);

function readStatus(pid: number): Status | undefined {
  const stat = readProc(`/proc/${pid}/stat`);
  const status = readProc(`/proc/${pid}/status`);
  if (stat === undefined || status === undefined) return undefined;
  const fields = statFields(stat);
  return {
    name: /^Name:\t(.*)$/m.exec(status)?.[1] ?? '?',
    tgid: Number(/^Tgid:\t(\d+)$/m.exec(status)?.[1] ?? pid),
    state: fields[0] ?? '?',
    // proc(5): flags are field 9 of stat; state is field 3.
    kernel: (Number(fields[6] ?? 0) & PF_KTHREAD) !== 0,
  };
}

/** A thread of a process that has not ended. Its first one may have (pthread_exit), and then shows no memory, files or root. */
export function liveThread(pid: number): number | undefined {
  let names: string[];
  try {
    names = readdirSync(`/proc/${pid}/task`);
  } catch {
    return undefined;
  }
  return names.map(Number).find((tid) => {
    const stat = readProc(`/proc/${pid}/task/${tid}/stat`);
    return stat !== undefined && !/^[ZX]/.test(statFields(stat)[0] ?? '');
  });
}

/** The fields of stat from the third on. The second is the name in parentheses, and may hold any byte. */
export const statFields = (stat: string): string[] => stat.slice(stat.lastIndexOf(')') + 2).split(' ');

/** Our parent, its parent, and so on. Read anew each time: a parent that ends hands us to another. */
function ancestors(): number[] {
  const found: number[] = [];
  for (let pid = process.ppid; pid > 0 && found.length < MAX_ANCESTORS;) {
    found.push(pid);
    const stat = readProc(`/proc/${pid}/stat`);
    pid = stat === undefined ? 0 : Number(statFields(stat)[1] ?? 0);
  }
  return found;
}
