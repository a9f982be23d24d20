import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { after } from 'node:test';

/** A process of ours that sleeps until the tests of the file are over. Nobody attaches to it here. */
export function victim(): number {
  const child = spawn('sleep', ['600'], { stdio: 'ignore' });
  after(() => child.kill('SIGKILL'));
  const pid = child.pid!;
  // It is what it shall be when it sleeps (proc(5): S in nanosleep), its libraries all mapped.
  for (let i = 0; i < 500 && !isAsleep(pid); i++) pause(10);
  return pid;
}

const isAsleep = (pid: number): boolean =>
  /^\d+ \(sleep\) S /.test(readFileSync(`/proc/${pid}/stat`, 'utf8')) &&
  /\/libc[.-]/.test(readFileSync(`/proc/${pid}/maps`, 'utf8'));

const pause = (ms: number): void => void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
