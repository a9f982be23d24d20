import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { describe, it } from 'node:test';
import { ProcessError } from '#uprobe/base/errors.js';
import { checkProcess } from '#uprobe/process/check.js';
import { victim } from './helpers/victim.js';

const codeOf = (pid: number): string | undefined => {
  try {
    checkProcess(pid);
    return undefined;
  } catch (e) {
    assert.ok(e instanceof ProcessError);
    assert.equal(e.pid, pid);
    return e.code;
  }
};

void describe('a process that shall be probed', () => {
  void it('may be any process of ours', () => {
    assert.equal(codeOf(victim()), undefined);
  });
  void it('is not ourselves, an ancestor or process 1', () => {
    assert.equal(codeOf(process.pid), 'is-ourselves');
    assert.equal(codeOf(1), 'is-init');
    if (process.ppid > 1) assert.equal(codeOf(process.ppid), 'is-our-ancestor');
  });
  void it('exists', () => {
    assert.equal(codeOf(4_194_300), 'no-such-process');
  });
  void it('is not one of the threads of a process; the process is named', () => {
    const tid = readdirSync('/proc/self/task')
      .map(Number)
      .find((t) => t !== process.pid)!;
    assert.equal(codeOf(tid), 'is-a-thread');
    assert.throws(() => checkProcess(tid), new RegExp(`thread of process ${process.pid}`));
  });
  void it(
    'is not a thread of the kernel',
    { skip: codeOf(2) === 'no-such-process' && 'no kernel threads here' },
    () => {
      assert.equal(codeOf(2), 'is-a-kernel-thread');
    },
  );
  void it('has not ended', async () => {
    // The shell's child ends after the shell was replaced by a sleep, which never waits for it.
    const shell = spawn('sh', ['-c', 'sleep 0.3 & echo $!; exec sleep 30'], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    try {
      const [line] = (await once(shell.stdout, 'data')) as [Buffer];
      const pid = Number(line.toString());
      for (let i = 0; i < 100 && codeOf(pid) === undefined; i++) await new Promise((r) => setTimeout(r, 20));
      assert.equal(codeOf(pid), 'is-a-zombie');
    } finally {
      shell.kill('SIGKILL');
    }
  });
});
