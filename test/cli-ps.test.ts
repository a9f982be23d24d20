import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { linkSync, rmSync } from 'node:fs';
import { join, dirname } from 'node:path';
import { describe, it } from 'node:test';
import { FileError, processesOf } from 'uprobe';
import { assertConforms, assertRefused, documentedSchema, jsonLines, uprobe } from './helpers/cli.js';
import { compileFixture, privateCopy } from './helpers/compile.js';
import { startProgram } from './helpers/running.js';
import type { RunningProgram } from './helpers/running.js';

const program = (): string => privateCopy(compileFixture('seccomp', { flags: ['-O1'] }));
const reader = compileFixture('reader');

interface Listed {
  readonly pid: number;
  readonly comm: string;
  readonly user: string | null;
  readonly command: readonly string[];
  readonly executable: boolean;
}

function listed(path: string): Listed[] {
  const { status, stdout, stderr } = uprobe(['ps', path, '--json']);
  assert.equal(status, 0, stderr);
  const schema = documentedSchema('ps');
  const lines = jsonLines(stdout);
  for (const line of lines) assertConforms(line, schema);
  return lines as unknown as Listed[];
}

const pidsOf = (path: string): number[] => listed(path).map((l) => l.pid);

async function during(running: RunningProgram[], look: () => void | Promise<void>): Promise<void> {
  try {
    await look();
  } finally {
    for (const one of running) await one.finish();
  }
}

void describe('uprobe ps', () => {
  void it('lists the processes that map a program, with whose they are and how they were started', async () => {
    const path = program();
    const running = [await startProgram(path, ['none']), await startProgram(path, ['none', '\x1b[2J'])];
    await during(running, () => {
      const [first, second] = listed(path);
      const user = spawnSync('id', ['-un'], { encoding: 'utf8' }).stdout.trim();
      assert.deepEqual(
        [first!, second!].map((l) => l.pid),
        running.map((r) => r.pid).toSorted((a, b) => a - b),
      );
      const { comm, command, executable } = listed(path).find((l) => l.pid === running[1]!.pid)!;
      assert.deepEqual([comm, command, executable], ['seccomp', [path, 'none', '\x1b[2J'], true]);
      assert.equal(first!.user, user);
      const { stdout } = uprobe(['ps', path]);
      assert.match(stdout, /^ *PID {2}USER +COMM +COMMAND\n/);
      assert.match(stdout, /none \\x1b\[2J$/m);
      assert.ok(!stdout.includes('\x1b'));
    });
  });

  void it('agrees with lsof about a library, and lists who maps it several times once', async () => {
    const library = privateCopy(compileFixture('library'));
    const twice = await startProgram(privateCopy(compileFixture('twice')), [library, 'mmap']);
    const other = await startProgram(reader, [library]);
    await during([twice, other], () => {
      const { stdout } = spawnSync('lsof', ['-t', library], { encoding: 'utf8' });
      const known = stdout.trim().split('\n').map(Number);
      assert.deepEqual(new Set(known), new Set([twice.pid, other.pid]));
      assert.deepEqual(
        pidsOf(library),
        known.toSorted((a, b) => a - b),
      );
      assert.equal(listed(library).find((l) => l.pid === other.pid)?.executable, false);
      assert.match(uprobe(['ps', library]).stdout, / {2}\(reads it only\)$/m);
    });
  });

  void it('knows a file by what it is, under another name and without one', async () => {
    const path = program();
    const other = join(dirname(path), 'other');
    linkSync(path, other);
    const running = await startProgram(path, ['none']);
    await during([running], () => {
      assert.deepEqual(pidsOf(other), [running.pid]);
      rmSync(path);
      assert.deepEqual(pidsOf(other), [running.pid]);
      assert.deepEqual(pidsOf(`/proc/${running.pid}/exe`), [running.pid]);
    });
  });

  void it('tells of processes that still use what has been replaced', async () => {
    const path = program();
    const running = await startProgram(path, ['none']);
    await during([running], () => {
      rmSync(path);
      linkSync(program(), path);
      const { status, stdout, stderr } = uprobe(['ps', path]);
      assert.equal(status, 0);
      assert.equal(stdout, '');
      assert.match(stderr, new RegExp(`no process maps ${path} now`));
      assert.match(stderr, new RegExp(`process ${running.pid} uses an older file that was ${path}`));
      assert.deepEqual(processesOf(path).stale, [running.pid]);
    });
  });

  void it('finds processes whose first thread has ended', async () => {
    const path = privateCopy(compileFixture('leaderless'));
    const running = await startProgram(path, [compileFixture('library')]);
    await during([running], () => {
      assert.deepEqual(pidsOf(path), [running.pid]);
    });
  });

  void it('finds processes of other mount namespaces and roots', async (t) => {
    const path = privateCopy(compileFixture('seccomp', { flags: ['-O1', '-static'] }));
    const script =
      'mount -t tmpfs none /mnt && touch /mnt/x && mount --bind "$1" /mnt/x && shift && exec "$@"';
    const wrapper = ['unshare', '--mount', 'sh', '-c', script, 'sh', path];
    const tried = spawnSync(wrapper[0]!, [...wrapper.slice(1), 'true'], { encoding: 'utf8' });
    if (tried.status !== 0) return t.skip(`no mount namespace: ${tried.stderr.trim()}`);
    const running = await startProgram('/mnt/x', ['none'], wrapper);
    await during([running], () => {
      assert.deepEqual(pidsOf(path), [running.pid]);
      assert.deepEqual(pidsOf(`/proc/${running.pid}/root/mnt/x`), [running.pid]);
    });
  });

  void it('says when nobody maps a file, and refuses what is none', () => {
    const path = program();
    const { status, stdout, stderr } = uprobe(['ps', path]);
    assert.deepEqual([status, stdout], [0, '']);
    assert.ok(stderr.startsWith(`uprobe: no process maps ${path} now\n`), stderr);
    assert.deepEqual(listed(path), []);
    assertRefused(['ps', '/nonexistent'], /^uprobe: \/nonexistent does not exist/);
    assertRefused(['ps', path, '--', 'true'], /uprobe ps runs no command/);
    assert.throws(() => processesOf('/nonexistent'), FileError);
  });
});
