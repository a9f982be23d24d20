/** Messages of the library tell what to write; on the command line they say what is written there. */
import { after, describe, it } from 'node:test';
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { openModule, registerUprobe } from 'uprobe';
import { Running, assertRefused, jsonLines, uprobe } from './helpers/cli.js';
import { compileFixture, privateCopy, repositoryRoot, temporaryDirectory } from './helpers/compile.js';
import { startProgram, tracerOf, until } from './helpers/running.js';

const calls = compileFixture('calls');
const shapes = compileFixture('elf-shapes', {
  flags: ['-O0'],
  libs: [join(repositoryRoot, 'test', 'fixtures', 'elf-other.c')],
});
const many = compileFixture('ifunc-many', { flags: ['-O1'] });
const unnamed = stripped(calls);
const command = ['--', calls, '1'];

/** A copy without the names of its functions, and without sections. */
function stripped(path: string, ...sections: string[]): string {
  const copy = join(temporaryDirectory(), 'stripped');
  copyFileSync(path, copy);
  execFileSync('strip', [...sections.flatMap((s) => ['-R', s]), copy]);
  return copy;
}

const hexOf = (address: bigint | number): string => `0x${address.toString(16)}`;

void describe('What a message tells to write', () => {
  const view = openModule(calls);
  after(() => view.close());
  const { address } = view.plan({ symbol: 'add' });
  const beyond = hexOf(address + 0x5000n);
  const unproven = stripped(calls, '.eh_frame', '.eh_frame_hdr');
  const cases: readonly (readonly [string, readonly string[], string])[] = [
    [
      'an address, for a place outside its function',
      [`${calls}:add+0x5000`],
      `Give ${calls}:@${beyond} where`,
    ],
    ['an address, for a name of several functions', [`${shapes}:twice`], `by address: ${shapes}:@0x`],
    ['forms of an address', [`${calls}:@0xfffffffffff`], 'print it, or a file offset (PATH:0x…). Its code'],
    ['--trust-place', [`${unproven}:@${hexOf(address)}`], 'shows one there), give --trust-place'],
    ['--engine', [`${calls}:add`, '--engine', 'jump'], 'Use --engine trap, or leave it out'],
    [
      '-p, for an ifunc',
      [`${many}:chosen+1`],
      'Give an address (PATH:@0x…) in one of them, or name a process (-p PID)',
    ],
  ];
  for (const [what, args, words] of cases) {
    void it(`is said in words of the command line: ${what}`, () => {
      const { status, stderr } = uprobe(['count', ...args, ...command]);
      assert.equal(status, 2);
      assert.ok(stderr.includes(words), stderr);
      const planned = uprobe(['plan', ...args]).stdout;
      assert.ok(planned.includes(words), planned);
      const json = jsonLines(uprobe(['plan', '--json', ...args]).stdout);
      assert.ok(JSON.stringify(json).includes(words), JSON.stringify(json));
    });
  }

  void it('can be typed as it is said', () => {
    const { stderr } = uprobe(['count', `${calls}:add+0x20`, ...command]);
    const probe = /Give (\S+) where/.exec(stderr)?.[1];
    assert.ok(probe !== undefined, stderr);
    assert.doesNotMatch(uprobe(['plan', probe]).stdout, /outside-symbol|bad probe/);
  });

  void it('is said in words of the command line: what to do when a probed file has changed', async () => {
    const file = privateCopy(calls);
    const running = await startProgram('sh', ['-c', 'echo ready; read line; exit 0']);
    const counting = new Running(['count', `${file}:add`, '-p', String(running.pid), '--duration', '20']);
    await until('it is traced', () => tracerOf(running.pid) !== '0');
    await new Promise((resolve) => setTimeout(resolve, 300));
    execFileSync('sh', ['-c', 'printf x >> "$0"', file]);
    const { status, stderr } = await counting.end();
    assert.match(stderr, /is being changed on disk .* Probe it again when it is as it shall be/);
    assert.equal(status, 1);
    await running.finish();
  });

  void it('is in words of the library for those who use that', async () => {
    const rejection = (options: object): Promise<string> =>
      registerUprobe({ pathname: calls, symbol: 'add', processes: process.ppid, ...options }).then(
        () => assert.fail('it was taken'),
        (e: Error) => e.message,
      );
    assert.match(await rejection({ engine: 'jump' }), /Use engine: 'trap', or leave it out/);
    const refusal = (place: object): string => {
      try {
        view.plan(place as { symbol: string });
      } catch (e) {
        return (e as Error).message;
      }
      return assert.fail('it was taken');
    };
    assert.ok(refusal({ symbol: 'add', symbolOffset: 0x5000 }).includes(`Give { addr: ${beyond}n } where`));
    assert.match(refusal({ addr: 0xfff_ffff_ffffn }), /or \{ pid, liveAddr \} for one in a live process/);
  });

  void it('shows three names of many beside the lines of a glob, and all in an error of its own', () => {
    const brief =
      /name a process \(-p PID\) that has called it: \w+ at 0x\w+, \w+ at 0x\w+, \w+ at 0x\w+ and 2 more\n/;
    assertRefused(['count', `${many}:chose[n]+1`, ...command], brief);
    const whole = uprobe(['count', `${many}:chosen+1`, ...command]).stderr;
    for (const name of ['first', 'second', 'third', 'fourth', 'fifth'])
      assert.match(whole, new RegExp(`${name} at`));
  });
});

void describe('A return probe', () => {
  void it('is one of a function as a whole: inside of it there is none', () => {
    assertRefused(['count', `${calls}:add+4%return`, ...command], /a return probe takes a whole function/);
  });
});

void describe('A glob that matches nothing', () => {
  const names = /it names no functions \(it is stripped\)\. Install its debug symbols .*PATH:0x….*PATH:@0x…/;

  void it('in a stripped file says so, and what to do', () => {
    for (const glob of ['*', 'add*', '*+*', 'a*+4'])
      assertRefused(['count', `${unnamed}:${glob}`, '--', unnamed, '1'], names);
    for (const glob of [[], ['*'], ['add*']]) assertRefused(['list', unnamed, ...glob], names);
  });

  void it('in a file with names says where they are', () => {
    for (const args of [
      ['count', `${calls}:qqqqqq*`, ...command],
      ['list', calls, 'qqqqqq*'],
    ])
      assertRefused(args, /no function matches 'qqqqqq\*'; `uprobe list \S+` shows them all/);
  });
});
