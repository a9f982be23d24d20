/** The examples of every --help do what they show, typed as they stand there. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { uprobe, type Finished } from './helpers/cli.js';
import { repositoryRoot, temporaryDirectory } from './helpers/compile.js';
import { startProgram, type RunningProgram } from './helpers/running.js';

const examplesOf = (command: string): string[] => {
  const help = uprobe([command, '--help']).stdout;
  return [...help.slice(help.indexOf('Examples:')).matchAll(/^ {2}(uprobe .*)$/gm)].map((m) => m[1]!);
};

/** A directory with what the examples are about: a database, a repository of git. */
function directoryOfExamples(): string {
  const directory = temporaryDirectory();
  execFileSync('sqlite3', [join(directory, 'my.db'), 'CREATE TABLE t(a); INSERT INTO t VALUES (1), (2);']);
  execFileSync('git', ['init', '-q', directory]);
  cpSync(join(repositoryRoot, 'examples', 'modules'), directory, { recursive: true });
  mkdirSync(join(directory, 'bin'));
  const main = join(repositoryRoot, 'dist', 'bin', 'uprobe.js');
  writeFileSync(join(directory, 'bin', 'uprobe'), `#!/bin/sh\nexec '${process.execPath}' '${main}' "$@"\n`, {
    mode: 0o755,
  });
  return directory;
}

const directory = directoryOfExamples();

/** As a shell would run it; for as long as a test may take, with a process of ours for the one in the example. */
function type(example: string, pid: number | undefined): Finished {
  const line = example.replace(/--duration \d+/, '--duration 1').replace('4711', String(pid));
  const { status, signal, stdout, stderr } = spawnSync('sh', ['-c', line], {
    cwd: directory,
    encoding: 'utf8',
    timeout: 60_000,
    maxBuffer: 1 << 28,
    env: { ...process.env, PATH: `${join(directory, 'bin')}:${process.env['PATH']}` },
  });
  assert.equal(status, 0, `${line}\n${stderr}`);
  return { status, signal, stdout, stderr };
}

/** What is to be seen, by a part of the example; the first that fits. */
const SEEN: readonly (readonly [string, RegExp])[] = [
  ['count libc:malloc --if', /^ *1 +ls +\d+ +libc:malloc$/m],
  ['hist libc:malloc arg0 -- ls', /^@\[libc:malloc\]:\n(?:\[.*\|\n)+$/m],
  ['hist libc:read%return', /^@\[libc:read%return, \d+\]:\n\[/m],
  ['--linear 0:1024:64 -- ls', /^\[64, 128\) +\d+ \|/m],
  ['hist bash:xmalloc', /^$/],
  ['latency libc:malloc libc:free', /^@\[libc:malloc\]:\n(?:\[\d[^]*)+^count \d+ {2}mean /m],
  ["latency 'libc:*alloc'", /^@\[libc:malloc, false\]:\n\[/m],
  ['latency libc:malloc --if', /^\[.*\) +\d+ \|/m],
  ['latency bash:', /^uprobe: no hits$/m],
  ["top 'libc:*' --no-times", /^ *HITS +RATE\/S {2}PROBE\n/m],
  ["top 'bash:*'", /places were not hit$/m],
  ["top 'libc:*alloc'", /^ *\d+ +\S+ +\S+ [nµm]?s +\S+ [nµm]?s +date +libc:malloc$/m],
  ['ps libc', /^ *\d+ {2}\S+ +node +/m],
  ['ps bash', /"command":\["bash","-c","echo ready; read line"\]/],
  ['run fault-injection.ts', /^call 20 of malloc in ls \(\d+\) returns 0$/m],
  ['run call-tree.ts coverage.ts', /^ *\d+ {2}execute_command[^]*^main: \d+ of \d+ instructions$/m],
  ['run coverage.ts --help', /^ {2}functions=STRING +globs/m],
  ["'libc:malloc%return' --args", /  libc\.so\.6:malloc%return  = 0x[0-9a-f]+  \S+ \S+  size=\d+ at=0x/],
  ['libc:malloc --args', /  libc\.so\.6:malloc  size=\d+\n/],
  ['bash:readline', /^uprobe: 0 lines$/m], // nobody types anything there
  ['bash:execute_command', /^uprobe: 0 lines$/m],
  ["count -f 'libc:fopen*'", /^ *[1-9]\d* +0 {2}libc:fopen/m],
  ['libc:open', /  libc\.so\.6:open  path="[^"]*\.git\/HEAD" flags=0x/],
  ['sqlite3_step', /"symbol":"sqlite3_step"/],
  ["'libc:*alloc'", /^ *[1-9]\d* +0 {2}libc:malloc$/m],
  ["'redis-server:*'", /^ *[1-9]\d* +0 {2}redis-server:serverCron$/m],
  ["count --json 'bash:main+*'", /"symbolOffset":0,.*"hits":1,/],
  ['list libc', / func +malloc/],
  ['list node', /"name":"[^"]*Start/],
  ['plan libc:malloc', /trap +yes/],
  ["plan 'bash:main+*'", /"chosen":"trap"/],
];

/** Programs that the examples with -p are about. */
const startRunning: Readonly<Record<string, () => Promise<RunningProgram>>> = {
  bash: () => startProgram('bash', ['-c', 'echo ready; read line']),
  // It listens on no port, only on a socket of its own.
  'redis-server': () =>
    startProgram(
      'redis-server',
      ['--port', '0', '--unixsocket', join(directory, 'redis'), '--save', '', '--dir', directory],
      ['sh', '-c', 'echo ready; exec "$@" >/dev/null', 'sh'],
    ),
};

void describe('an example of --help', () => {
  const running = new Map<string, RunningProgram>();
  before(async () => {
    for (const [name, start] of Object.entries(startRunning)) running.set(name, await start());
  });
  after(() => {
    for (const { pid } of running.values()) process.kill(pid, 'SIGKILL');
  });

  for (const command of ['trace', 'count', 'hist', 'latency', 'top', 'run', 'list', 'ps', 'plan'])
    for (const example of examplesOf(command))
      void it(example, () => {
        const program = /(\S+):\S+ (?:-p|--tree) 4711/.exec(example)?.[1]?.replace("'", '');
        const { stdout, stderr } = type(example, running.get(program ?? '')?.pid);
        const file = /-o (\S+)/.exec(example)?.[1];
        const said = file === undefined ? stdout + stderr : readFileSync(join(directory, file), 'utf8');
        assert.match(said, SEEN.find(([what]) => example.includes(what))![1], example);
      });
});
