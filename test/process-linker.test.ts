import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  realpathSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, it } from 'node:test';
import { FileError } from '#uprobe/base/errors.js';
import { ourView, type FileView } from '#uprobe/process/file-view.js';
import { hwcapsLevels, levelsOf } from '#uprobe/process/hwcaps.js';
import { nameMatcher, byVersion } from '#uprobe/process/library-name.js';
import { librarySearch } from '#uprobe/process/library-search.js';
import { resolveLibrary, type LinkContext } from '#uprobe/process/linker.js';
import {
  compileFixture,
  linkedPair,
  privateCopies,
  temporaryDirectory,
  whyNoMusl,
} from './helpers/compile.js';
import { victim } from './helpers/victim.js';

const LDCONFIG = '/sbin/ldconfig';

const pathOf = (name: string, context?: LinkContext): string => {
  const file = resolveLibrary(name, context);
  file.close();
  return file.path;
};
const real = (name: string, context?: LinkContext): string => realpathSync(pathOf(name, context));
const lddOf = (program: string, soname: string, env?: NodeJS.ProcessEnv): string => {
  const { stdout } = spawnSync('ldd', [program], { encoding: 'utf8', ...(env && { env }) });
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

void describe('a library for better processors', () => {
  void it('is one of a level that has all flags of it and of those below', () => {
    const v2 = 'cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2 sse2';
    const v3 = `${v2} avx avx2 bmi1 bmi2 f16c fma abm movbe`;
    const levels = (flags: string): string[] => levelsOf(new Set(flags.split(' ')));
    assert.deepEqual(levels(''), []);
    assert.deepEqual(levels(v2), ['x86-64-v2']);
    assert.deepEqual(levels(v3.replace('popcnt', '')), []);
    assert.deepEqual(levels(v3), ['x86-64-v3', 'x86-64-v2']);
    const v4 = `${v3} avx512f avx512bw avx512cd avx512dq avx512vl`;
    assert.deepEqual(levels(v4), ['x86-64-v4', 'x86-64-v3', 'x86-64-v2']);
  });

  // The linker itself is asked what it takes; a level more at a time, until there is one for every processor.
  void it('is found where the dynamic linker finds it, by RUNPATH and LD_LIBRARY_PATH', () => {
    const { program, library } = linkedPair();
    const elsewhere = temporaryDirectory();
    for (const home of [dirname(library), elsewhere])
      for (const level of ['', 'x86-64-v2', 'x86-64-v3', 'x86-64-v4', 'x86-64-v5']) {
        const directory = level === '' ? home : join(home, 'glibc-hwcaps', level);
        mkdirSync(directory, { recursive: true });
        if (!existsSync(join(directory, 'liblibrary.so')))
          copyFileSync(library, join(directory, 'liblibrary.so'));
        const env = { ...process.env, LD_LIBRARY_PATH: home };
        for (const name of ['liblibrary', 'liblibrary.so'])
          assert.equal(pathOf(name, { command: program, env }), lddOf(program, 'liblibrary.so', env));
      }
    assert.equal(pathOf('liblibrary', { command: program }), lddOf(program, 'liblibrary.so'));
  });
});

void describe('the cache', { skip: !existsSync(LDCONFIG) && 'ldconfig is not installed' }, () => {
  void it('has a library for better processors before the one for all', () => {
    const home = temporaryDirectory();
    const library = compileFixture('library', { flags: ['-Wl,-soname,libcached.so.1'] });
    const best = hwcapsLevels()[0];
    for (const level of ['', 'x86-64-v2', 'x86-64-v3', 'x86-64-v4']) {
      const directory = level === '' ? home : join(home, 'glibc-hwcaps', level);
      mkdirSync(directory, { recursive: true });
      copyFileSync(library, join(directory, 'libcached.so.1'));
    }
    const cache = join(home, 'cache');
    writeFileSync(join(home, 'conf'), `${home}\n`);
    spawnSync(LDCONFIG, ['-X', '-C', cache, '-f', join(home, 'conf')]);
    const view: FileView = {
      open: (path) => ourView.open(path === '/etc/ld.so.cache' ? cache : path),
      close: () => undefined,
    };
    const search = librarySearch({ view, env: {}, cwd: '/', program: undefined });
    for (const name of ['libcached.so.1', 'libcached']) {
      const file = search.find(name);
      file?.close();
      assert.equal(
        file?.path,
        join(home, best === undefined ? '' : `glibc-hwcaps/${best}`, 'libcached.so.1'),
      );
    }
  });
});

void describe('a program of musl', { skip: whyNoMusl() }, () => {
  void it('has one file for its C library, its linker and whatever else is asked of it', () => {
    const program = compileFixture('stdin_echo', { compiler: 'musl-gcc' });
    const libc = realpathSync('/lib/ld-musl-x86_64.so.1');
    for (const name of ['libc', 'libc.so', 'ld-musl-x86_64.so.1', 'libm', 'libpthread.so.0'])
      assert.equal(real(name, { command: program }), libc, name);
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
