/** `%return` on the command line. */
import { describe, it } from 'node:test';
import assert from 'node:assert/strict';
import { durationText, returnedText } from '#uprobe/outputs/trace-line.js';
import {
  assertConforms,
  assertRefused,
  documentedSchema,
  jsonLines,
  linesOf,
  uprobe,
} from './helpers/cli.js';
import { compileFixture, privateCopy } from './helpers/compile.js';

const calls = privateCopy(compileFixture('calls'));
const returns = privateCopy(compileFixture('returns'));
/** Rounds of `calls`. */
const ROUNDS = 4;

void describe('uprobe trace PROBE%return', () => {
  void it('writes a line for every return, with what is returned, how long it took and the arguments of the call', () => {
    const probe = `${calls}:add%return`;
    const { status, stderr } = uprobe([
      'trace',
      probe,
      '--args',
      'a=i64(arg0), b=i64(arg1)',
      '--',
      calls,
      '2',
    ]);
    assert.equal(status, 0);
    const lines = linesOf(stderr);
    assert.match(
      lines[0]!,
      /^ +\d+\.\d{6} {2}(\d+)\/\1 {2}calls {2}calls:add%return {2}= 1 {2}[\d.]+ (?:ns|µs|ms|s) {2}a=0 b=1$/,
    );
    assert.match(lines[1]!, / {2}= 0xc000000000000000 {2}\S+ \S+ {2}a=0 b=-4611686018427387904$/);
    assert.match(lines[2]!, / {2}= 4 {2}\S+ \S+ {2}a=1 b=3$/);
    assert.equal(lines.at(-1), 'uprobe: 4 lines');
  });

  void it('in JSON has value and duration of each, as documented', () => {
    const args = ['trace', '--json', `${calls}:fact%return`, '--args', 'n=arg0, retval, duration'];
    const lines = jsonLines(uprobe([...args, '--', calls, '1']).stderr);
    const schema = documentedSchema('trace');
    for (const line of lines) assertConforms(line, schema);
    // a recursion returns the innermost first, and who called takes longer than who was called
    const factorials = Array.from({ length: 10 }, (_, i) =>
      String([...Array(i + 1).keys()].reduce((a, b) => a * (b + 1), 1)),
    );
    assert.deepEqual(
      lines.map((l) => l['returnValue']),
      factorials,
    );
    assert.deepEqual(
      lines.map((l) => (l['args'] as { n: string }).n),
      [...Array(10).keys()].map((n) => String(n + 1)),
    );
    const durations = lines.map((l) => Number(l['durationNs']));
    assert.deepEqual(
      durations,
      durations.toSorted((a, b) => a - b),
    );
    for (const { kind, probe, args: shown, returnValue, durationNs } of lines) {
      const { retval, duration } = shown as Record<string, string>;
      assert.deepEqual(
        [kind, probe, retval, duration],
        ['return', `${calls}:fact%return`, returnValue, durationNs],
      );
    }
  });

  void it('reads a returned double, and memory where a pointer of the call points to', () => {
    const half = uprobe([
      'trace',
      `${returns}:half%return`,
      '--args',
      'n=arg0, h=fretval',
      '--',
      returns,
      '3',
    ]);
    assert.deepEqual(
      [...half.stderr.matchAll(/n=(\d) h=(\S+)$/gm)].map((m) => [m[1], m[2]]),
      [
        ['0', '0'],
        ['1', '0.5'],
        ['2', '1'],
      ],
    );
    const text = uprobe([
      'trace',
      `${calls}:text%return`,
      '--args',
      's=str(arg0)',
      '-n',
      '3',
      '--',
      calls,
      '3',
    ]);
    assert.deepEqual(
      [...text.stderr.matchAll(/= (\d) .* s=(".*")$/gm)].map((m) => [m[1], m[2]]),
      [
        ['0', '""'],
        ['1', '"a"'],
        ['5', '"hello"'],
      ],
    );
  });

  void it('goes together with the entry: the same words, of each place its own', () => {
    const { stderr } = uprobe([
      'trace',
      `${calls}:add`,
      `${calls}:add%return`,
      '--args',
      'a=i64(arg0)',
      '-n',
      '2',
      '--',
      calls,
      '1',
    ]);
    assert.match(stderr, /calls:add {2}a=0\n.*calls:add%return {2}= 1 .* a=0\n/);
    assertRefused(
      ['trace', `${calls}:add`, `${calls}:add%return`, '--args', 'retval', '--', calls],
      /retval is known only where a function returns/,
    );
  });

  void it('takes a glob, and says which functions were meant', () => {
    const { stderr } = uprobe(['trace', '--json', `${calls}:*_*%return`, '--', calls, '1']);
    const lines = jsonLines(stderr.replace(/^uprobe: .*$/gm, ''));
    assert.deepEqual(
      [...new Set(lines.map((l) => l['probe']))].filter((p) => /point|value/.test(String(p))),
      [`${calls}:point_sum%return`, `${calls}:by_value%return`],
    );
  });

  void it('counts what did not return', () => {
    const { stderr } = uprobe(['trace', `${returns}:leaves%return`, '--', returns, '10']);
    assert.equal(linesOf(stderr).at(-1), 'uprobe: 5 lines; 5 calls did not return');
  });

  void it('is refused where it makes no sense', () => {
    assertRefused(
      ['trace', `${calls}:add%return`, '--post', '--', calls],
      /--post looks after an instruction/,
    );
    assertRefused(['trace', `${calls}:add%return`, '--args', 'farg0', '--', calls], /write|fretval/);
    assertRefused(
      ['trace', `${calls}:add%return`, '--args', 'arg6', '--', calls],
      /arg0 to arg5 have been kept/,
    );
  });
});

void describe('uprobe count PROBE%return', () => {
  void it('counts returns, and says which calls had none', () => {
    const { stderr, status } = uprobe([
      'count',
      `${calls}:fact%return`,
      `${calls}:add`,
      '--',
      calls,
      String(ROUNDS),
    ]);
    assert.equal(status, 0);
    assert.match(stderr, new RegExp(`^ *${10 * ROUNDS} +0 {2}\\S+:fact%return$`, 'm'));
    assert.match(stderr, new RegExp(`^ *${2 * ROUNDS} +0 {2}\\S+:add$`, 'm'));
    const left = uprobe(['count', `${returns}:leaves%return`, '--', returns, '10']);
    assert.match(left.stderr, /^ *5 +0 {2}\S+:leaves%return\nuprobe: 5 calls did not return$/m);
  });

  void it('in JSON as documented', () => {
    const { stderr } = uprobe([
      'count',
      '--json',
      `${returns}:leaves%return`,
      `${returns}:leaves`,
      '--',
      returns,
      '10',
    ]);
    const lines = jsonLines(stderr);
    for (const line of lines) assertConforms(line, documentedSchema('count'));
    assert.deepEqual(
      lines.map((l) => [l['hits'], l['abandoned']]),
      [
        [5, 5],
        [10, undefined],
      ],
    );
  });
});

void it('uprobe plan names a return as it is to be typed', () => {
  const { status, stdout } = uprobe(['plan', `${calls}:*_sum%return`]);
  assert.equal(status, 0);
  assert.match(stdout, /^\S+:point_sum%return$/m);
});

void describe('in a line for people', () => {
  void it('a duration has three digits that matter', () => {
    const shown = [
      0n,
      7n,
      999n,
      1000n,
      9_994n,
      12_345n,
      99_951n,
      999_499n,
      999_500n,
      75_000_000_000n,
      1_234_000_000_000n,
    ].map(durationText);
    assert.deepEqual(shown, [
      '0 ns',
      '7 ns',
      '999 ns',
      '1.00 µs',
      '9.99 µs',
      '12.3 µs',
      '100 µs',
      '999 µs',
      '1.00 ms',
      '75.0 s',
      '1234 s',
    ]);
  });
  void it('a returned value is a number where it is small, else hexadecimal', () => {
    const shown = [
      0n,
      5n,
      2n ** 64n - 1n,
      2n ** 64n - 4095n,
      2n ** 64n - 4096n,
      2n ** 31n - 1n,
      2n ** 31n,
      0x5582c8f672a0n,
    ].map(returnedText);
    assert.deepEqual(shown, [
      '0',
      '5',
      '-1',
      '-4095',
      '0xfffffffffffff000',
      '2147483647',
      '0x80000000',
      '0x5582c8f672a0',
    ]);
  });
});
