/** Control groups of version 2 (cgroups(7)): a thread's group, by its id. */
import { readFileSync, readdirSync, statSync } from 'node:fs';

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

/** More directories than any machine has: bounds a walk over what others may go on making. */
const MOST_GROUPS = 1 << 17;

/** The paths of groups below the mount (`/`, `/system.slice/ssh.service`), by their ids; those that are gone are left out. */
export function cgroupPaths(ids: Iterable<bigint>): Map<bigint, string> {
  const mount = cgroupMount();
  const wanted = new Set(ids);
  const found = new Map<bigint, string>();
  const below = mount === undefined ? [] : [''];
  for (let i = 0; i < below.length && i < MOST_GROUPS && found.size < wanted.size; i++) {
    const path = below[i]!;
    try {
      const { ino } = statSync(`${mount}${path}`, { bigint: true });
      if (wanted.has(ino)) found.set(ino, path === '' ? '/' : path);
      for (const entry of readdirSync(`${mount}${path}`, { withFileTypes: true }))
        if (entry.isDirectory()) below.push(`${path}/${entry.name}`);
    } catch {
      // It has just been removed.
    }
  }
  return found;
}
