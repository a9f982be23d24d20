/** One field of /proc/ID/status (proc_pid_status(5)) of a process or thread; undefined when it is gone or unreadable. */
import { readFileSync } from 'node:fs';

export function statusField(id: number | 'self', field: string): string | undefined {
  try {
    return new RegExp(`^${field}:\\s*(.*)$`, 'm').exec(readFileSync(`/proc/${id}/status`, 'latin1'))?.[1];
  } catch {
    return undefined;
  }
}
