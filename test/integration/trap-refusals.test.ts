/** What the engine refuses, or cannot do, in real processes: each by its name, and the process goes on as if nothing had been. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync } from 'node:fs';
import { test } from 'node:test';
import { openModule, ProcessError, registerUprobe, spawnTarget, UprobeError, type UprobeSpec } from 'uprobe';
import { Running, uprobe } from '../helpers/cli.js';
import { compileFixture, linkedPair, privateCopy, privateCopies } from '../helpers/compile.js';
import { AS_NOBODY, openToAll, whyNotAsNobody } from '../helpers/nobody.js';
import { startProgram, tracerOf } from '../helpers/running.js';

const copyOf = (fixture: string): string => privateCopy(compileFixture(fixture, { flags: ['-O1'] }));

async function refusedWith(spec: UprobeSpec): Promise<string> {
  try {
    await (await registerUprobe(spec)).unregister();
  } catch (e) {
    assert.ok(e instanceof UprobeError, String(e));
    return `${e.code}: ${e.message}`;
  }
  return 'taken';
}

const workOf = (pathname: string, processes: number): UprobeSpec => ({
  pathname,
  symbol: 'work',
  processes,
});

test('a process that another tool traces: cannot-attach, and the other is named', async () => {
  const program = copyOf('seccomp');
  const running = await startProgram(program, ['none']);
  const other = new Running(['count', `${program}:work`, '-p', String(running.pid)]);
  try {
    await other.until('the other tool traces it', () => tracerOf(running.pid) !== '0');
    const told = await refusedWith(workOf(program, running.pid));
    assert.match(told, /^cannot-attach: /);
    assert.ok(told.includes(tracerOf(running.pid)!), told);
    await running.feed(1);
    other.child.kill('SIGINT');
    assert.match((await other.end()).stdout, /100 +0 /);
  } finally {
    other.child.kill('SIGKILL');
  }
  assert.equal(await running.finish(), 'fine status 7');
});

test('a thread in a system call that nothing can stop: does-not-stop, and it is let go later', async (t) => {
  const program = copyOf('stuck');
  const running = await startProgram(program);
  const isUnable = running.greeting.includes('unable');
  const told = isUnable ? '' : await refusedWith(workOf(program, running.pid));
  assert.equal(await running.finish(), 'fine status 7');
  if (isUnable) t.skip('userfaultfd may not be had here');
  else assert.match(told, /^does-not-stop: .*\(state [DRS].*uninterruptible/);
});

test('a thread with more signals than can be stepped over: cannot-step', async () => {
  const target = await spawnTarget('sleep', ['60'], { stdio: 'ignore' });
  try {
    // A real-time signal is queued as often as it is sent (signal(7)).
    for (let i = 0; i < 300; i++) process.kill(target.pid, 40);
    assert.match(
      await refusedWith({ pathname: 'libc', symbol: 'malloc', processes: target }),
      /^cannot-step: /,
    );
  } finally {
    target.kill('SIGKILL');
    await target.exited;
  }
});

test('a program without any system call instruction: no-syscall-instruction', async (t) => {
  const program = copyOf('no-syscall');
  // int $0x80 is a fault where the kernel has no 32-bit system calls (ia32_emulation=off)
  if (spawnSync(program, { input: '' }).signal === 'SIGSEGV') {
    t.skip('this kernel has no system calls but by a system call instruction (int $0x80)');
    return;
  }
  const running = await startProgram(program);
  if (running.greeting.includes('unable')) t.skip('the vDSO cannot be unmapped here');
  else assert.match(await refusedWith(workOf(program, running.pid)), /^no-syscall-instruction: /);
  await running.feed(1);
  assert.equal(await running.finish(), 'fine status 7');
});

test('a process that may not have more memory: no-slot-in-reach', async () => {
  const program = copyOf('seccomp');
  const running = await startProgram(program, ['none']);
  execFileSync('prlimit', ['--pid', String(running.pid), '--as=4096:']);
  assert.match(await refusedWith(workOf(program, running.pid)), /^no-slot-in-reach: /);
  await running.feed(1);
  assert.equal(await running.finish(), 'fine status 7');
});

test('a seccomp filter and no CAP_SYS_ADMIN: no-slot-in-reach', { skip: whyNotAsNobody() }, async () => {
  const program = openToAll(copyOf('seccomp'));
  const running = await startProgram(program, ['filter'], AS_NOBODY);
  const { status, stderr } = uprobe(['count', `${program}:work`, '-p', String(running.pid)], {
    wrapper: AS_NOBODY,
  });
  assert.match(stderr, /no-slot-in-reach/);
  assert.equal(status, 2);
  await running.feed(1);
  assert.equal(await running.finish(), 'fine status 7');
});

test(
  'a program that this user may execute but not read is told, and does not run',
  { skip: whyNotAsNobody() },
  () => {
    const program = openToAll(copyOf('calls'));
    chmodSync(program, 0o711);
    for (const name of ['count', 'trace']) {
      const { status, stdout, stderr } = uprobe([name, 'libc:malloc', '--', program, '1'], {
        wrapper: AS_NOBODY,
      });
      assert.match(
        stderr,
        /EACCES\. This user may execute its program but not read it .*as the owner .*CAP_SYS_PTRACE\n$/,
      );
      assert.equal(stdout, '');
      assert.equal(status, 1);
    }
  },
);

test(
  'a probed process that executes such a program is let go, and told: memory-closed; others stay probed',
  { skip: whyNotAsNobody() },
  () => {
    const [closed, shell, family] = [copyOf('calls'), '/bin/bash', compileFixture('family')].map((path) =>
      openToAll(privateCopy(path)),
    ) as [string, string, string];
    chmodSync(closed, 0o711);
    const script = `"$0" 1 >&2; exec "$1" fork 2`;
    const args = ['count', '-f', `${family}:work`, 'libc:malloc', '--', shell, '-c', script, closed, family];
    const { status, stdout, stderr } = uprobe(args, { wrapper: AS_NOBODY });
    assert.match(stdout, /processes=3 total=30 failures=0/);
    assert.match(stderr, /add=2\b/, 'it runs');
    assert.match(stderr, /^ +30 +0 {2}.*family:work$/m);
    assert.match(
      stderr,
      /places? not probed \(memory-closed\).* process \d+: open\(.*may execute its program but not read/,
    );
    assert.equal(status, 0);
    const alone = uprobe(['count', `${shell}:main`, '--', shell, '-c', 'exec "$0" 1', closed], {
      wrapper: AS_NOBODY,
    });
    assert.match(alone.stderr, /^ +1 +0 {2}.*bash:main$/m);
    assert.match(alone.stderr, /memory-closed/);
    assert.equal(alone.status, 0);
    assert.match(alone.stdout, /add=2\b/);
  },
);

for (const [mode, code] of [
  ['patched', /^text-already-patched: .*has a breakpoint/],
  ['changed', /^text-already-patched: .*differs from the file/],
  ['guarded', /^text-not-readable: /],
] as const)
  test(`text that is ${mode} in the process is not touched`, async (t) => {
    const library = privateCopy(compileFixture('library'));
    const view = openModule(library);
    const { offset } = view.plan({ symbol: 'lib_work' });
    view.close();
    const running = await startProgram(compileFixture('mapper', { flags: ['-O1'] }), [
      library,
      String(offset),
      mode,
    ]);
    if (running.greeting.includes('unable')) t.skip('this kernel has no guards in files (Linux 6.15)');
    else assert.match(await refusedWith({ pathname: library, offset, processes: running.pid }), code);
    assert.equal(await running.finish(), 'fine status 7');
  });

test('a name that means another file in each of two processes: several-files', async () => {
  const [one, two] = [linkedPair(), linkedPair()];
  const targets = [await spawnTarget(one.program, []), await spawnTarget(two.program, [])];
  try {
    const told = await refusedWith({
      pathname: 'liblibrary.so',
      symbol: 'lib_work',
      processes: targets.map((t) => t.pid),
    });
    assert.match(told, /^several-files: /);
    assert.ok(told.includes(one.library) && told.includes(two.library), told);
  } finally {
    for (const target of targets) await target[Symbol.asyncDispose]();
  }
});

test('in a handler: not-writable where nothing is mapped, no-float-registers of a thread that was killed', async () => {
  const [program = ''] = privateCopies(compileFixture('calls'));
  const target = await spawnTarget(program, ['1'], { stdio: 'ignore' });
  const codes: unknown[] = [];
  const codeOf = (act: () => unknown): void => {
    try {
      act();
    } catch (e) {
      assert.ok(e instanceof ProcessError && e.pid === target.pid, String(e));
      codes.push(e.code);
    }
  };
  const probe = await registerUprobe({
    pathname: program,
    symbol: 'mixed',
    processes: target,
    preHandler(hit) {
      codeOf(() => hit.write(8n, Uint8Array.of(1)));
      target.kill('SIGKILL');
      codeOf(() => hit.floatArg(0));
    },
  });
  await target.resume();
  await target.exited;
  await probe.unregister();
  assert.deepEqual(codes, ['not-writable', 'no-float-registers']);
});
