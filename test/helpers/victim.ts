import { spawn } from 'node:child_process';
import { after } from 'node:test';

/** A process of ours that sleeps until the tests of the file are over. Nobody attaches to it here. */
export function victim(): number {
  const child = spawn('sleep', ['600'], { stdio: 'ignore' });
  after(() => child.kill('SIGKILL'));
  return child.pid!;
}
