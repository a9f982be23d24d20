/** The children that a process has now. */
import { readdirSync } from 'node:fs';
import { readProc } from '../linux/proc-status.js';
import { statFields } from './check.js';

/**
 * As the kernel lists them for each thread (proc_tid_children(5)). The list may miss some when children end while it is
 * read: who needs all asks again. Where the kernel was built without that file, every process is asked for its parent.
 */
export function childrenOf(pid: number): number[] {
  let hasLists = false;
  const found = new Set<number>();
  for (const tid of entriesOf(`/proc/${pid}/task`)) {
    const list = readProc(`/proc/${pid}/task/${tid}/children`);
    if (list === undefined) continue;
    hasLists = true;
    for (const child of list.split(' ')) if (child !== '') found.add(Number(child));
  }
  return hasLists || hasListFiles() ? [...found] : childrenByParent(pid);
}

/** CONFIG_PROC_CHILDREN. */
const hasListFiles = (): boolean => readProc(`/proc/self/task/${process.pid}/children`) !== undefined;

function childrenByParent(pid: number): number[] {
  return entriesOf('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((child) => parentOf(child) === pid);
}

/** proc_pid_stat(5): field 4. */
function parentOf(pid: number): number | undefined {
  const stat = readProc(`/proc/${pid}/stat`);
  return stat === undefined ? undefined : Number(statFields(stat)[1]);
}

function entriesOf(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return []; // it has ended
  }
}
