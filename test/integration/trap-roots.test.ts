/** Processes that see other files than we do: a mount namespace and a root of their own, on an overlay. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { copyFileSync, cpSync, mkdirSync, realpathSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { registerUprobes } from 'uprobe';
import { compileFixture, temporaryDirectory } from '../helpers/compile.js';
import { startProgram, type RunningProgram } from '../helpers/running.js';

interface WantedPlace {
  readonly pathname: string;
  readonly symbol: string;
  /** When it eats three bytes and its input ends. */
  readonly hits: bigint;
}

/** $1: a directory with `lower`, the root to be. $2: options of the overlay. The rest: what to run in it. */
const IN_OVERLAY = `
  set -e; cd "$1"; lower=$PWD/lower; options=$2; shift 2
  mkdir -p top; mount -t tmpfs none top; cd top; mkdir upper work root
  mount -t overlay overlay -o "lowerdir=$lower,upperdir=upper,workdir=work,$options" root
  mount -t proc proc root/proc
  cd root; pivot_root . old; exec "$@"`;

/** The files that a program needs, as its linker looks for them; its layer is another file system than the upper one. */
function newRoot(program: string): string {
  const directory = temporaryDirectory();
  const { stdout } = spawnSync('ldd', [program], { encoding: 'utf8' });
  const libraries = [...stdout.matchAll(/(\/\S+) \(0x/g)].map((m) => m[1]!);
  for (const name of ['proc', 'old', 'bin']) mkdirSync(join(directory, 'lower', name), { recursive: true });
  copyFileSync(program, join(directory, 'lower', 'bin', 'program'));
  for (const library of libraries) {
    const copy = join(directory, 'lower', library);
    mkdirSync(dirname(copy), { recursive: true });
    cpSync(realpathSync(library), copy);
  }
  return directory;
}

const inOverlay = (directory: string, options: string): string[] => [
  'unshare',
  '--mount',
  ...['sh', '-c', IN_OVERLAY, 'sh', directory, options],
];

/** xino=on: inode numbers with their highest bits set (Documentation/filesystems/overlayfs.rst). */
for (const options of ['xino=off', 'xino=on'])
  test(`in a root of its own on an overlay (${options}), a program and its libraries are probed`, async (t) => {
    const program = compileFixture('seccomp', { flags: ['-O1'] });
    const directory = newRoot(program);
    const [unshare = '', ...wrapper] = inOverlay(directory, options);
    const tried = spawnSync(unshare, [...wrapper, '/bin/program'], { encoding: 'utf8', input: '' });
    if (tried.status !== 7) return t.skip(`no overlay can be mounted: ${tried.stderr.trim()}`);
    const running = await startProgram('/bin/program', ['none'], [unshare, ...wrapper]);
    const places: readonly WantedPlace[] = [
      { pathname: 'program', symbol: 'work', hits: 300n },
      { pathname: `/proc/${running.pid}/root/bin/program`, symbol: 'work', hits: 300n },
      { pathname: 'libc.so.6', symbol: 'read', hits: 3n },
      { pathname: 'libc', symbol: 'write', hits: 1n },
    ];
    try {
      await expectHits(running, places);
    } finally {
      await running.finish();
    }
  });

async function expectHits(running: RunningProgram, places: readonly WantedPlace[]): Promise<void> {
  const group = await registerUprobes(
    places.map(({ pathname, symbol }) => ({ pathname, symbol, processes: running.pid })),
  );
  try {
    const [work, sameWork] = [...group];
    assert.equal(work?.module, sameWork?.module);
    for (const { state, module } of group) {
      assert.equal(state, 'armed');
      assert.ok(module.path.startsWith(`/proc/${running.pid}/root/`), module.path);
    }
    await running.feed(3);
    assert.equal(await running.finish(), 'fine status 7');
  } finally {
    await group.unregister();
  }
  assert.deepEqual(
    [...group].map((u) => u.nhits),
    places.map((p) => p.hits),
  );
}
