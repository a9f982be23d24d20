/** Control groups of version 2 (cgroups(7)): a thread's group, by its id. */
import { readFileSync, statSync } from 'node:fs';

let known: string | undefined;

/** Where cgroup2 is mounted (proc_pid_mountinfo(5)); undefined where it is not. */
export function cgroupMount(): string | undefined {
  if (known !== undefined) return known;
  for (const line of readFileSync('/proc/self/mountinfo', 'latin1').split('\n')) {
    const [fields = '', after = ''] = line.split(' - ');
    if (after.startsWith('cgroup2 ')) return (known = unescaped(fields.split(' ')[4] ?? ''));
  }
  return undefined;
}

/** Blanks and the like are written in octal there. */
const unescaped = (path: string): string =>
  path.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)));

/**
 * The id of a thread's group: the inode of its directory, as bpf_get_current_cgroup_id gives it (bpf-helpers(7)). Undefined where
 * there is none, or the thread has ended.
 */
export function cgroupOf(pid: number, tid: number): bigint | undefined {
  const mount = cgroupMount();
  if (mount === undefined) return undefined;
  try {
    const path = /^0::(.*)$/m.exec(readFileSync(`/proc/${pid}/task/${tid}/cgroup`, 'utf8'))?.[1];
    return path === undefined ? undefined : statSync(mount + path, { bigint: true }).ino;
  } catch {
    return undefined;
  }
}
