import { test } from 'node:test';
import assert from 'node:assert/strict';
import { execFile, spawnSync } from 'node:child_process';
import { promisify } from 'node:util';
import { compileFixture, linkedPair, privateCopy, variants } from './helpers/compile.js';
import { kernelCounts, stepCounts, stepModules } from './helpers/oracle.js';

/** Quick, and enough for what happens in programs themselves. */
const fromEntry = { fromEntry: true };
const execute = promisify(execFile);

/** Function name → file offset of its first instruction, as nm and readelf see it. */
function functionOffsets(path: string, names: readonly string[]): Map<string, number> {
  const run = (command: string, ...args: string[]): string =>
    spawnSync(command, args, { encoding: 'utf8' }).stdout;
  const segments = [...run('readelf', '-lW', path).matchAll(/LOAD\s+(0x\w+) (0x\w+) 0x\w+ (0x\w+)/g)].map(
    (m) => m.slice(1).map(Number),
  );
  const symbols = run('nm', path).matchAll(/^([0-9a-f]+) [tTiW] (\S+)$/gm);
  const offsets = new Map<string, number>();
  for (const [, hex = '', name = ''] of symbols) {
    const address = Number.parseInt(hex, 16);
    const [offset = 0, start = 0] =
      segments.find(([, at = 0, size = 0]) => address >= at && address < at + size) ?? [];
    if (names.includes(name)) offsets.set(name, address - start + offset);
  }
  assert.deepEqual([...offsets.keys()].toSorted(), names.toSorted());
  return offsets;
}

/** `name=count` words of a fixture's output. */
const printed = (stdout: string): Map<string, number> =>
  new Map([...stdout.matchAll(/(\w+)=(-?\d+)/g)].map(([, name = '', value]) => [name, Number(value)]));

for (const { name, flags } of variants) {
  test(`the stepper's counts are what a program says of itself (${name})`, async () => {
    const program = privateCopy(compileFixture('calls', { flags }));
    const { counts, stdout, code } = await stepCounts(program, ['5'], program, fromEntry);
    assert.equal(code, 0);
    const told = printed(stdout);
    for (const [fn, offset] of functionOffsets(program, [
      'add',
      'fact',
      'many',
      'mixed',
      'point_sum',
      'variadic',
    ])) {
      assert.equal(counts.get(offset), told.get(fn), fn);
    }
  });
}

test('the stepper and the kernel count the same', async (t) => {
  const program = privateCopy(compileFixture('calls', { flags: ['-O2'] }));
  const names = [
    'add',
    'fact',
    'many',
    'mixed',
    'text',
    'point_sum',
    'by_value',
    'variadic',
    'small',
    'main',
  ];
  const offsets = [...functionOffsets(program, names).values()];
  const kernel = await kernelCounts(program, offsets, async () => void (await execute(program, ['7'])));
  if (kernel.refused !== undefined) return t.skip(kernel.refused);
  const { counts } = await stepCounts(program, ['7'], program, fromEntry);
  assert.deepEqual(kernel.counts, new Map(offsets.map((offset) => [offset, counts.get(offset)])));
});

test('both follow threads that are created later', async (t) => {
  const program = privateCopy(compileFixture('threads'));
  const args = ['4', '300', '3'];
  const offsets = [...functionOffsets(program, ['work', 'run']).values()];
  const stepped = await stepCounts(program, args, program, fromEntry);
  const expected = new Map(offsets.map((offset) => [offset, stepped.counts.get(offset)]));
  assert.deepEqual(new Set(expected.values()), new Set([7, 7 * 300]));
  const kernel = await kernelCounts(program, offsets, async () => void (await execute(program, args)));
  if (kernel.refused !== undefined) return t.skip(kernel.refused);
  assert.deepEqual(kernel.counts, expected);
});

test('the stepper counts in libraries, in constructors and behind dlopen', async () => {
  const { program, library } = linkedPair();
  const { modules, code } = await stepModules(program, ['6'], [program, library]);
  assert.equal(code, 0);
  const inLibrary = functionOffsets(library, ['lib_work', 'lib_setup', 'fast_sse2', 'lib_versioned_new']);
  const counted = (name: string): number | undefined => modules.get(library)?.get(inLibrary.get(name) ?? -1);
  assert.deepEqual(['lib_work', 'lib_setup', 'fast_sse2', 'lib_versioned_new'].map(counted), [12, 3, 6, 6]);
  assert.equal(modules.get(program)?.get(functionOffsets(program, ['main']).get('main') ?? -1), 1);

  const opener = privateCopy(compileFixture('dlopener'));
  const { counts } = await stepCounts(opener, [library, '4', '5'], library, fromEntry);
  assert.equal(counts.get(inLibrary.get('lib_work') ?? -1), 20);
  assert.equal(counts.get(inLibrary.get('lib_setup') ?? -1), 12);
});

test('a stepped program computes the same and ends the same', async (t) => {
  const cases: [fixture: string, ...args: string[]][] = [
    ['instructions', '1'],
    ['faults', '2'],
    ['crowd', '3', '50'],
    ['longjmp', '5'],
    ['signals', '20'],
    ['exits', 'code', '3'],
    ['exits', 'signal', '10'],
    ['exits', 'main-first'],
    ['execer', 'thread', '1'],
    ['forker', '3'],
  ];
  for (const [fixture, ...args] of cases) {
    await t.test([fixture, ...args].join(' '), async () => {
      const program = privateCopy(compileFixture(fixture));
      const alone = spawnSync(program, args, { encoding: 'utf8' });
      const stepped = await stepCounts(program, args, program, fromEntry);
      const settle = (text: string): string => text.replace(/in_handler=\d+/, '');
      assert.equal(settle(stepped.stdout), settle(alone.stdout));
      assert.deepEqual([stepped.code, stepped.signal], [alone.status, alone.signal]);
    });
  }
});

test('a signal handler is counted as often as it ran', async () => {
  const program = privateCopy(compileFixture('signals'));
  const { counts, stdout, code } = await stepCounts(program, ['100'], program, fromEntry);
  assert.equal(code, 0);
  for (const [fn, offset] of functionOffsets(program, ['work', 'in_handler'])) {
    assert.equal(counts.get(offset), printed(stdout).get(fn), fn);
  }
});

test("a command's stdin is its own while it is stepped", async () => {
  const program = privateCopy(compileFixture('stdin_echo'));
  const { stdout, stderr, code } = await stepCounts(program, ['9'], program, {
    ...fromEntry,
    input: 'one\ntwo\nthree',
  });
  assert.deepEqual({ stdout, stderr, code }, { stdout: 'one\ntwo\nthree', stderr: 'lines=3\n', code: 9 });
});

test('a command that does not exist is an error, not an empty count', async () => {
  const program = compileFixture('calls');
  await assert.rejects(stepCounts('/nonexistent/program', [], program), /No such file/);
});

/** Fixtures that check themselves, with arguments for a short run. */
const selfChecking: readonly (readonly [fixture: string, ...args: string[]])[] = [
  ['calls', '5'],
  ['threads', '4', '200', '2'],
  ['loop', 'hot', '10000'],
  ['instructions', '1'],
  ['forker', '3'],
  ['execer', 'self', '2'],
  ['execer', 'thread', '2'],
  ['signals', '2000', '300'],
  ['faults', '2'],
  ['syscalls', '1'],
  ['crowd', '3', '50'],
  ['exceptions', '9'],
  ['longjmp', '9'],
  ['exits', 'main-first'],
];

for (const { name, flags, isStatic } of variants) {
  test(`the fixtures are right by themselves (${name})`, () => {
    for (const [fixture, ...args] of selfChecking) {
      const ended = spawnSync(compileFixture(fixture, { flags }), args, {
        encoding: 'utf8',
        timeout: 60_000,
      });
      assert.equal(ended.status, 0, `${fixture} ${args.join(' ')}: ${ended.signal ?? ''} ${ended.stderr}`);
    }
    if (isStatic) return; // no shared libraries
    const { program, library } = linkedPair(flags);
    const opener = compileFixture('dlopener', { flags });
    for (const [command, ...args] of [[program], [opener, library]] as const) {
      const ended = spawnSync(command, args, { encoding: 'utf8', timeout: 60_000 });
      assert.equal(ended.status, 0, `${command}: ${ended.stderr}`);
    }
  });
}
