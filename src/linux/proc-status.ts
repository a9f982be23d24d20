/** Files of /proc that may be gone at any moment: undefined then, or when they may not be read. */
import { readFileSync } from 'node:fs';

export function readProc(path: string): string | undefined {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return undefined;
  }
}

/** One field of /proc/ID/status (proc_pid_status(5)) of a process or thread. */
export function statusField(id: number | 'self', field: string): string | undefined {
  const status = readProc(`/proc/${id}/status`);
  return status === undefined ? undefined : new RegExp(`^${field}:\\s*(.*)$`, 'm').exec(status)?.[1];
}
