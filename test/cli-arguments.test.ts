import { describe, it } from 'node:test';
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { assertRefused, uprobe } from './helpers/cli.js';
import { compileFixture, temporaryDirectory } from './helpers/compile.js';

const calls = compileFixture('calls');
const run = ['--', calls, '1'];

void describe('Wrong input', () => {
  const cases: readonly (readonly [string, readonly string[], RegExp])[] = [
    ['an unknown command', ['trase'], /unknown command 'trase' \(Did you mean trace\?\)/],
    [
      'an unknown option',
      ['trace', '--jsn', 'libc:malloc'],
      /unknown option '--jsn' \(Did you mean --json\?\)/,
    ],
    ['no probe', ['trace', ...run], /missing required argument 'PROBE'/],
    [
      'neither a process nor a command',
      ['trace', `${calls}:add`, '--engine', 'trap'],
      /-p PID, --tree PID, or a command after --/,
    ],
    ['nobody to follow', ['trace', '-f', `${calls}:add`], /-p PID, --tree PID, or a command after --/],
    [
      'both a tree and a command',
      ['count', `${calls}:add`, '--tree', '4', ...run],
      /either --tree PID or a command/,
    ],
    ['a root that is no pid', ['count', `${calls}:add`, '--tree', 'x'], /'x' is not a process id/],
    ['a root that nobody is', ['count', `${calls}:add`, '--tree', '4194304'], /no process 4194304/],
    ['the tree of process 1', ['count', `${calls}:add`, '--tree', '1'], /process 1 is never probed/],
    ['our own tree', ['count', `${calls}:add`, '--tree', String(process.pid)], /ancestor/],
    [
      'both a process and a command',
      ['count', `${calls}:add`, '-p', '4', ...run],
      /either -p PID or a command/,
    ],
    ['an empty command', ['count', `${calls}:add`, '--'], /no command follows --/],
    [
      'a command that is not there',
      ['count', `${calls}:add`, '--', 'no-such-command-here'],
      /not found in \$PATH/,
    ],
    ['a command path that is not there', ['count', `${calls}:add`, '--', '/no/such'], /no such file/],
    ['a command that is a directory', ['count', `${calls}:add`, '--', '/tmp'], /not a file that can be run/],
    ['a command that may not be run', ['count', `${calls}:add`, '--', '/etc/passwd'], /permission denied/],
    ['a pid that is none', ['count', `${calls}:add`, '-p', 'x'], /'x' is not a process id/],
    ['a pid in a list that is none', ['count', `${calls}:add`, '-p', '1,,2'], /'' is not a process id/],
    ['a pid nobody has', ['count', `${calls}:add`, '-p', '4194304'], /no process 4194304/],
    ['process 1', ['count', `${calls}:add`, '-p', '1'], /process 1 is never probed/],
    [
      'process 1, whose libraries we may not see',
      ['count', 'libc:malloc', '-p', '1'],
      /process 1 is never probed/,
    ],
    ['ourselves', ['count', `${calls}:add`, '-p', String(process.pid)], /ancestor/],
    ['a probe without a place', ['trace', calls, ...run], /write PATH:SYMBOL/],
    ['a symbol that is not there', ['trace', `${calls}:ad`, ...run], /no symbol "ad".*add/s],
    [
      'a glob that matches nothing',
      ['trace', `${calls}:addd*`, ...run],
      /no function matches 'addd\*': there are add/,
    ],
    ['the middle of an instruction', ['trace', `${calls}:main+0x1`, ...run], /middle|outside/],
    ['an offset outside the code', ['trace', `${calls}:0x4`, ...run], /not code/],
    ['an offset beyond the file', ['trace', `${calls}:0xfffffff`, ...run], /never in memory/],
    ['an address outside the file', ['trace', `${calls}:@0xfffffffffff`, ...run], /not in this file/],
    ['a file that is no program', ['trace', '/etc/passwd:main', ...run], /not an ELF file/],
    ['a file that is not there', ['trace', '/no/such/file:main', ...run], /\/no\/such\/file/],
    ['a library that is not there', ['trace', 'libnosuch:main', ...run], /libnosuch/],
    [
      'an engine that is not there',
      ['trace', `${calls}:add`, '--engine', 'jump', ...run],
      /engine-not-available/,
    ],
    [
      'an engine nobody knows',
      ['trace', `${calls}:add`, '--engine', 'jmp', ...run],
      /Allowed choices are auto, trap/,
    ],
    [
      'a count of lines that is none',
      ['trace', `${calls}:add`, '-n', '0', ...run],
      /whole number, 1 or more/,
    ],
    ['a duration that is none', ['trace', `${calls}:add`, '--duration', '-1', ...run], /number of seconds/],
    [
      'a duration beyond the clock',
      ['trace', `${calls}:add`, '--duration', '1e9', ...run],
      /number of seconds/,
    ],
    ['a deadline that is none', ['trace', `${calls}:add`, '--deadline', 'soon', ...run], /milliseconds/],
    [
      'a bad expression',
      ['trace', `${calls}:add`, '--args', 'x=arg0 < 0', ...run],
      /always false[^]*\n {2}x=arg0 < 0\n {4}\^/,
    ],
    [
      'an output that cannot be made',
      ['trace', `${calls}:add`, '-o', '/no/such/dir/x', ...run],
      /-o \/no\/such\/dir\/x/,
    ],
    ['a command for list', ['list', calls, '--', 'ls'], /runs no command/],
    ['a list of what is no program', ['list', '/etc/passwd'], /not an ELF file/],
    ['too many arguments', ['list', calls, 'a', 'b'], /too many arguments/],
  ];
  for (const [what, args, message] of cases) {
    void it(`is refused in one message: ${what}`, () => assertRefused(args, message));
  }

  void it('is refused before the command has run and before the output file is touched', () => {
    const directory = temporaryDirectory();
    const [kept, fresh, mark] = ['kept', 'fresh', 'mark'].map((name) => join(directory, name)) as [
      string,
      string,
      string,
    ];
    writeFileSync(kept, 'precious');
    for (const output of [kept, fresh]) {
      assertRefused(['trace', 'libc:mallox', '-o', output, '--', 'touch', mark], /mallox/);
      assertRefused(['trace', 'libc:malloc', '--args', 'x=', '-o', output, '--', 'touch', mark], /missing/);
    }
    assert.equal(readFileSync(kept, 'utf8'), 'precious');
    assert.ok(!existsSync(fresh) && !existsSync(mark));
  });

  void it('is escaped in the message', () => {
    const { stderr } = uprobe(['trace', 'a\u001b[31m\u202e', ...run]);
    assert.match(stderr, /\\x1b\[31m\\u202e/);
    assert.ok(!stderr.includes('\u001b'));
  });

  void it('finds a command by the $PATH it is given', () => {
    const directory = temporaryDirectory();
    mkdirSync(join(directory, 'bin'));
    writeFileSync(join(directory, 'bin', 'not-executable'), '#!/bin/sh\n');
    assertRefused(['count', `${calls}:add`, '--', 'not-executable'], /permission denied/, {
      env: { PATH: join(directory, 'bin') },
    });
  });
});

void describe('Help', () => {
  void it('goes to stdout when it is asked for', () => {
    for (const args of [
      ['--help'],
      ['trace', '--help'],
      ['count', '-h'],
      ['help', 'list'],
      ['plan', '--help'],
      ['doctor', '--help'],
    ]) {
      const { status, stdout, stderr } = uprobe(args);
      assert.equal(status, 0, args.join(' '));
      assert.equal(stderr, '');
      assert.match(stdout, /^Usage: uprobe/);
    }
    assert.match(
      uprobe(['trace', '--help']).stdout,
      /Examples:[^]*uprobe trace libc:malloc --args 'size=arg0' -- ls/,
    );
  });

  void it('goes to stderr, with status 2, when nothing was asked for', () => {
    const { status, stdout, stderr } = uprobe([]);
    assert.deepEqual([status, stdout], [2, '']);
    assert.match(stderr, /^Usage: uprobe/);
  });

  void it('knows the version', () => {
    const { status, stdout } = uprobe(['--version']);
    assert.equal(status, 0);
    assert.match(stdout, /^\d+\.\d+\.\d+\n$/);
  });
});

void describe('uprobe doctor', () => {
  void it('says what may be done, and agrees with its exit status', () => {
    const { status, stdout } = uprobe(['doctor']);
    assert.match(stdout, /^(yes|no ) {2}\S/);
    assert.equal(status, /^no /m.test(stdout) ? 1 : 0);
  });
});
