import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  assertConforms,
  assertRefused,
  documentedSchema,
  jsonLines,
  linesOf,
  uprobe,
} from './helpers/cli.js';
import { compileFixture, privateCopy } from './helpers/compile.js';

/** Ten rounds of fact(10): each number from 1 to 10 is an argument ten times. */
const calls = privateCopy(compileFixture('calls'));

interface Line {
  readonly probe: string;
  readonly by?: Readonly<Record<string, unknown>>;
  readonly count: number;
  readonly buckets: readonly { readonly from: string; readonly to: string; readonly count: number }[];
}

function histogram(...words: string[]): Line[] {
  const { status, stderr } = uprobe(['hist', ...words, '--json', '--', calls]);
  assert.equal(status, 0, stderr);
  const schema = documentedSchema('hist');
  const lines = jsonLines(stderr);
  for (const line of lines) assertConforms(line, schema);
  return lines as unknown as Line[];
}

const bucketsOf = ({ buckets }: Line): [number, number, number][] =>
  buckets.map(({ from, to, count }) => [Number(from), Number(to), count]);

void describe('uprobe hist', () => {
  void it('counts values by powers of two', () => {
    const [line, ...others] = histogram(`${calls}:fact`, 'arg0');
    assert.deepEqual(others, []);
    assert.deepEqual(bucketsOf(line!), [
      [1, 2, 10],
      [2, 4, 20],
      [4, 8, 40],
      [8, 16, 30],
    ]);
    assert.equal(line!.count, 100);
  });

  void it('counts values by steps, and what is below and above them', () => {
    const [line] = histogram(`${calls}:fact`, 'arg0', '--linear', '2:8:3');
    assert.deepEqual(
      line!.buckets.map((b) => [b.from, b.to, b.count]),
      [
        [String(-(2n ** 63n)), '2', 10],
        ['2', '5', 30],
        ['5', '8', 30],
        ['8', String(2n ** 64n), 30],
      ],
    );
  });

  void it('takes negative values, and those that functions return', () => {
    const [line] = histogram(`${calls}:add`, 'i64(arg0)', '--if', 'arg1 >> 63 == 0');
    // add(i, 2 * i + 1) for i from 0 to 9; the other calls have a negative second argument
    assert.deepEqual(bucketsOf(line!), [
      [0, 1, 1],
      [1, 2, 1],
      [2, 4, 2],
      [4, 8, 4],
      [8, 16, 2],
    ]);
    const [returned] = histogram(`${calls}:fact%return`, 'retval', '--if', 'arg0 == 10');
    assert.deepEqual(bucketsOf(returned!), [[2 ** 21, 2 ** 22, 10]]); // 3,628,800
    const [negative] = histogram(`${calls}:add`, 'i64(arg0)', '--if', 'i64(arg0) < 0');
    assert.deepEqual(bucketsOf(negative!), [[-(2 ** 63), 0, 9]]);
  });

  void it('keeps results apart by keys, the greatest last', () => {
    const lines = histogram(
      `${calls}:fact`,
      'arg0',
      '--by',
      'even=arg0 % 2 == 0, comm, big=u8(arg0 > 7), x=hex(arg0 & 3)',
    );
    assert.equal(
      lines.reduce((sum, l) => sum + l.count, 0),
      100,
    );
    assert.deepEqual(
      lines.map((l) => l.count),
      lines.map((l) => l.count).toSorted((a, b) => a - b),
    );
    const one = lines.find((l) => l.by?.['x'] === '0x1' && l.by['big'] === 0);
    assert.deepEqual(one!.by, { even: false, comm: 'calls', big: 0, x: '0x1' });
    assert.equal(one!.count, 20); // of 1 and 5
  });

  void it('draws what bpftrace draws, and fits', () => {
    const { status, stderr } = uprobe([
      'hist',
      `${calls}:text`,
      'arg0 & 0',
      '--by',
      'str(arg0)',
      '--',
      calls,
    ]);
    assert.equal(status, 0, stderr);
    const lines = linesOf(stderr);
    assert.equal(lines.filter((l) => l.startsWith(`@[${calls}:text, `)).length, 5);
    assert.ok(lines.includes(`@[${calls}:text, a line\\nand a tab\\t]:`), stderr);
    assert.ok(lines.includes(`[0]                    2 |${'@'.repeat(52)}|`), stderr);
    assert.ok(lines.every((l) => l.startsWith('@') || l.length < 80));
  });

  void it('has a histogram for each function of a glob', () => {
    const lines = histogram(`${calls}:{fact,add}`.replace('{fact,add}', '[af][ad][cd]*'), 'u32(arg0)');
    assert.deepEqual(new Set(lines.map((l) => l.probe)), new Set([`${calls}:add`, `${calls}:fact`]));
    assert.equal(lines.find((l) => l.probe === `${calls}:add`)?.count, 20);
  });

  void it('says so when there was nothing', () => {
    const none = uprobe(['hist', `${calls}:fact`, 'arg0', '--if', 'arg0 == 11', '--', calls]);
    assert.deepEqual([none.status, none.stderr], [0, 'uprobe: no values of 100 hits\n']);
    const unread = uprobe(['hist', `${calls}:add`, 'read(0, "u8")', '--', calls]);
    assert.equal(unread.stderr, 'uprobe: no values of 20 hits\n');
    assert.equal(
      uprobe(['hist', `${calls}:fact`, 'arg0', '--', 'true']).stderr.split('\n')[0],
      'uprobe: no hits',
    );
  });

  void it('refuses what cannot be counted, with a caret', () => {
    const run = ['--', calls];
    assertRefused(['hist', `${calls}:add`, ...run], /missing required argument 'EXPR'/);
    assertRefused(
      ['hist', `${calls}:add`, 'retval', ...run],
      /EXPR: retval is known only where .*%return[^]*\n {2}retval\n {2}\^{6}\n$/,
    );
    assertRefused(
      ['hist', `${calls}:add`, 'farg0', ...run],
      /whole numbers: write i64\(…\)\n {2}farg0\n {2}\^{5}\n$/,
    );
    assertRefused(
      ['hist', `${calls}:add`, 'arg0 > 1', ...run],
      /whole numbers; for a condition there is --if/,
    );
    assertRefused(['hist', `${calls}:add`, 'arg0 +', ...run], /the expression ends too early/);
    assertRefused(
      ['hist', `${calls}:add`, 'arg0', '--by', 'farg0', ...run],
      /--by: results can be kept apart by/,
    );
    assertRefused(
      ['hist', `${calls}:add`, 'arg0', '--by', 'pid,', ...run],
      /--by: an expression is missing here/,
    );
    assertRefused(['hist', `${calls}:add`, 'arg0', '--by', 'pidd', ...run], /did you mean pid\?/);
    assertRefused(['hist', `${calls}:add`, 'arg0', '--if', 'comm', ...run], /--if: a condition is needed/);
    for (const linear of ['1:2', '5:5:1', '0:10:0', '0:1e3:1', '0:1000000:1'])
      assertRefused(['hist', `${calls}:add`, 'arg0', '--linear', linear, ...run], /argument '.*' is invalid/);
  });
});
