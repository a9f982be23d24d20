/**
 * The programs that tests compile fixtures with, compare with and probe. All there: says nothing and starts no
 * process. Missing: installed where that is possible (root, apt-get), else named, with what to do.
 */
import { accessSync, constants } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { delimiter, join } from 'node:path';

/** Program → the Debian package that has it. */
const tools = {
  gcc: 'gcc',
  'g++': 'g++',
  objdump: 'binutils',
  readelf: 'binutils',
  nm: 'binutils',
  sqlite3: 'sqlite3',
  git: 'git',
  python3: 'python3',
  'redis-server': 'redis-server',
  ps: 'procps',
};
/** Installed with the others where that is possible; without them some tests are skipped, by name. */
const wished = { 'musl-gcc': 'musl-tools' };
/** Files without which gcc is not enough: the C library's headers. */
const files = { '/usr/include/stdio.h': 'libc6-dev' };

const path = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin'].filter(Boolean);

function exists(file, mode) {
  try {
    accessSync(file, mode);
    return true;
  } catch {
    return false;
  }
}

const onPath = (program) => path.some((directory) => exists(join(directory, program), constants.X_OK));

/** What is missing, as [what, package] pairs. */
const missing = () => [
  ...Object.entries(tools).filter(([program]) => !onPath(program)),
  ...Object.entries(files).filter(([file]) => !exists(file, constants.R_OK)),
];

const packagesOf = (pairs) => [...new Set(pairs.map(([, name]) => name))];

function install(packages) {
  // RUNLEVEL: invoke-rc.d then starts no service (redis). Tests start their own.
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' };
  const options = { stdio: ['ignore', 'inherit', 'inherit'], env };
  const apt = (...args) => spawnSync('apt-get', ['-q', ...args], options).status === 0;
  console.log(`tests need ${packages.join(', ')}: installing with apt-get`);
  return apt('update') && apt('install', '-y', '--no-install-recommends', ...packages);
}

const before = missing();
const wishes = Object.entries(wished).filter(([program]) => !onPath(program));
if (before.length + wishes.length > 0) {
  if (process.getuid?.() === 0 && onPath('apt-get')) {
    if (before.length > 0) install(packagesOf(before));
    if (wishes.length > 0) install(packagesOf(wishes));
  }
  const still = missing();
  if (still.length > 0) {
    console.error(`Tests need ${still.map(([what]) => what).join(', ')}, which this machine does not have.`);
    console.error(
      `On Debian or Ubuntu: sudo apt-get update && sudo apt-get install ${packagesOf(still).join(' ')}`,
    );
    console.error('Elsewhere: install the packages that contain these programs, then run the tests again.');
    process.exit(1);
  }
}
