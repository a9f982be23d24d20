import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, mkdirSync, realpathSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, it } from 'node:test';
import { FileError } from '#uprobe/base/errors.js';
import { nameMatcher, byVersion } from '#uprobe/process/library-name.js';
import { resolveLibrary, type LinkContext } from '#uprobe/process/linker.js';
import { compileFixture, linkedPair, privateCopies, temporaryDirectory } from './helpers/compile.js';
import { victim } from './helpers/victim.js';

const pathOf = (name: string, context?: LinkContext): string => {
  const file = resolveLibrary(name, context);
  file.close();
  return file.path;
};
const real = (name: string, context?: LinkContext): string => realpathSync(pathOf(name, context));
const lddOf = (program: string, soname: string): string => {
  const { stdout } = spawnSync('ldd', [program], { encoding: 'utf8' });
  return realpathSync(new RegExp(`${soname.replaceAll('.', '\\.')} => (\\S+)`).exec(stdout)![1]!);
};

void describe('the name of a library', () => {
  void it('means every version when it is bare', () => {
    const libc = nameMatcher('libc');
    for (const name of ['libc', 'libc.so', 'libc.so.6', 'libc-2.31.so', 'ld-musl-x86_64.so.1'])
      assert.ok(libc(name), name);
    for (const name of ['libcrypto.so.3', 'libc.a', 'alibc.so.6', 'libc-client.so.2'])
      assert.ok(!libc(name), name);
    assert.ok(nameMatcher('libpython3.11')('libpython3.11.so.1.0'));
  });
  void it('means itself when it is a soname', () => {
    assert.ok(!nameMatcher('libc.so.6')('libc.so'));
    assert.ok(nameMatcher('libc.so.6')('libc.so.6'));
  });
  void it('sorts by version, not by spelling', () => {
    assert.deepEqual(['libx.so.9', 'libx.so.10', 'libx.so.1.2', 'libx.so'].toSorted(byVersion), [
      'libx.so.10',
      'libx.so.9',
      'libx.so.1.2',
      'libx.so',
    ]);
  });
});

void describe('a name', () => {
  void it('is found among what the process maps', () => {
    const pid = victim();
    const libc = lddOf('/bin/sleep', 'libc.so.6');
    assert.equal(real('libc', { pid }), libc);
    assert.equal(real('libc.so.6', { pid }), libc);
    assert.equal(real('sleep', { pid }), realpathSync('/bin/sleep'));
  });

  void it('is found by the cache for a program that is not running', () => {
    const libc = lddOf('/bin/sleep', 'libc.so.6');
    assert.equal(real('libc'), libc);
    assert.equal(real('libc', { command: 'sleep' }), libc);
    assert.equal(real('libc.so.6', { command: '/bin/sleep' }), libc);
  });

  void it('is found by RUNPATH, relative to where the program lies', () => {
    const { program, library } = linkedPair();
    assert.equal(pathOf('liblibrary.so', { command: program }), library);
    assert.equal(pathOf('liblibrary', { command: program }), library);
    assert.throws(
      () => pathOf('liblibrary'),
      (e) => e instanceof FileError && e.code === 'library-not-found',
    );
  });

  void it('is found by LD_LIBRARY_PATH and LD_PRELOAD of the environment that will be', () => {
    const library = compileFixture('library');
    const env = { LD_LIBRARY_PATH: `/nowhere:${dirname(library)}` };
    assert.equal(pathOf('liblibrary', { env }), library);
    assert.equal(pathOf('liblibrary', { env: { LD_PRELOAD: library } }), library);
  });

  void it('passes over what the linker would not take', () => {
    const [library = ''] = privateCopies(compileFixture('library'));
    const fake = temporaryDirectory();
    writeFileSync(join(fake, 'liblibrary.so'), '/* GNU ld script */ INPUT(x)');
    assert.equal(
      pathOf('liblibrary.so', { env: { LD_LIBRARY_PATH: `${fake}:${dirname(library)}` } }),
      library,
    );
  });

  void it('is else a program in $PATH', () => {
    assert.equal(pathOf('bash', { env: { PATH: '/nowhere:/bin' } }), '/bin/bash');
  });

  void it('with a slash is our path, and is not searched for', () => {
    assert.equal(pathOf('/bin/../bin/bash'), '/bin/../bin/bash');
    assert.throws(
      () => pathOf('./libc.so.6'),
      (e) => e instanceof FileError && e.code === 'no-such-file',
    );
    assert.throws(
      () => pathOf('/'),
      (e) => e instanceof FileError && e.code === 'not-a-regular-file',
    );
  });

  void it('that is nothing says what was searched and what is near', () => {
    const pid = victim();
    assert.throws(() => pathOf('libcc.so.6', { pid }), /libc\.so\.6.*Give a path/);
  });
});

void describe(
  'a process with another root',
  { skip: process.getuid?.() !== 0 && 'needs root for chroot' },
  () => {
    void it('finds its own library, through absolute links in its own root', async () => {
      const program = compileFixture('stdin_echo', { flags: ['-static'] });
      const root = temporaryDirectory();
      copyFileSync(program, join(root, 'program'));
      mkdirSync(join(root, 'lib'));
      mkdirSync(join(root, 'real'));
      copyFileSync(compileFixture('library'), join(root, 'real', 'libother.so.1'));
      symlinkSync('/real/libother.so.1', join(root, 'lib', 'libother.so.1'));
      const child = spawn('chroot', [root, '/program'], { stdio: ['pipe', 'pipe', 'ignore'] });
      try {
        // It has a root of its own as soon as it echoes.
        child.stdin.write('x\n');
        await Promise.race([once(child.stdout, 'data'), new Promise((r) => setTimeout(r, 300))]);
        const pid = child.pid!;
        const found = resolveLibrary('libother.so.1', { pid });
        assert.equal(found.seenAs, '/lib/libother.so.1');
        assert.equal(found.path, `/proc/${pid}/root/lib/libother.so.1`);
        found.close();
        // Our own library of that name is not its.
        assert.throws(() => resolveLibrary('libssl.so.3', { pid }), FileError);
        assert.equal(pathOf('program', { pid }), join(root, 'program'));
        unlinkSync(join(root, 'program'));
        const deleted = resolveLibrary('program', { pid });
        assert.match(deleted.path, /map_files/);
        deleted.close();
      } finally {
        child.kill('SIGKILL');
      }
    });
  },
);
