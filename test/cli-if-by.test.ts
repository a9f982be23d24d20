import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
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

/** Ten rounds of fact(10), and of add(i, 2 * i + 1) for i from 0 to 9. */
const calls = privateCopy(compileFixture('calls'));

interface Line {
  readonly probe: string;
  readonly hits: number;
  readonly missed?: number;
  readonly by?: Readonly<Record<string, unknown>>;
}

function count(words: readonly string[], command: readonly string[] = [calls]): Line[] {
  const { status, stderr } = uprobe(['count', ...words, '--json', '--', ...command]);
  assert.equal(status, 0, stderr);
  const schema = documentedSchema('count');
  const lines = jsonLines(stderr);
  for (const line of lines) assertConforms(line, schema);
  return lines as unknown as Line[];
}

void describe('--if', () => {
  void it('counts only hits for which it holds, of returns by what they were called with', () => {
    const lines = count([`${calls}:fact`, `${calls}:fact%return`, `${calls}:add`, '--if', 'arg0 >= 8']);
    assert.deepEqual(
      lines.map((l) => [l.hits, l.missed]),
      // of add: i = 8 and 9, and the nine -i
      [
        [30, 0],
        [30, 0],
        [2 + 9, 0],
      ],
    );
    const [returned] = count([`${calls}:fact%return`, '--if', 'retval > 100']);
    assert.equal(returned!.hits, 60); // 5! is 120
  });

  void it('takes a number for what is not 0, and what cannot be read for neither', () => {
    assert.equal(count([`${calls}:add`, '--if', 'arg0'])[0]!.hits, 18);
    assert.equal(count([`${calls}:add`, '--if', 'u8(arg0 & 1)'])[0]!.hits, 10);
    assert.equal(count([`${calls}:add`, '--if', 'read(8, "u32") == 1'])[0]!.hits, 0);
    assert.equal(count([`${calls}:add`, '--if', '!(read(8, "u32") == 1)'])[0]!.hits, 0);
    assert.equal(count([`${calls}:text`, '--if', 'str(arg0) == "hello"'])[0]!.hits, 2);
  });

  void it('leaves only lines of trace for which it holds, and they are as they were', () => {
    const words = ['trace', `${calls}:fact`, `${calls}:fact%return`, '--args', 'n=arg0'];
    const some = uprobe([...words, '--if', 'arg0 == 7', '--', calls]);
    const all = uprobe([...words, '--', calls]);
    const shapes = (text: string): string[] =>
      linesOf(text)
        .filter((l) => l.endsWith(' n=7'))
        .map((l) => l.replace(/^ *\S+ {2}\S+/, '').replace(/ {2}\S+ [nµm]?s /, ' '));
    assert.deepEqual(shapes(some.stderr), shapes(all.stderr));
    assert.equal(shapes(some.stderr).length, 20);
    assert.match(some.stderr, /^uprobe: 20 lines$/m);
    const after = uprobe(['trace', `${calls}:add`, '--post', '--if', 'regs.di == 3', '-n', '1', '--', calls]);
    assert.match(after.stderr, /^uprobe: 1 line$/m);
  });
});

void describe('--by', () => {
  void it('keeps counts apart by any expressions, most hits first', () => {
    const lines = count([`${calls}:text`, '--by', 's=str(arg0, 2), comm, long=read(arg0, "u8") != 0']);
    assert.deepEqual(
      lines.map((l) => [l.by, l.hits]).toSorted((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1)),
      [
        [{ s: '', comm: 'calls', long: false }, 2],
        [{ s: 'a ', comm: 'calls', long: true }, 2],
        [{ s: 'a', comm: 'calls', long: true }, 2],
        [{ s: 'gr', comm: 'calls', long: true }, 2],
        [{ s: 'he', comm: 'calls', long: true }, 2],
      ],
    );
    const numbers = count([`${calls}:fact`, '--by', 'pid, arg0', '--if', 'arg0 > 8']);
    assert.deepEqual(new Set(numbers.map((l) => l.by?.['arg0'])), new Set(['10', '9']));
    assert.ok(numbers.every((l) => typeof l.by?.['pid'] === 'number' && l.hits === 10));
  });

  void it('keeps processes of a tree apart', () => {
    const script = `'${calls}' 1; '${calls}' 2`;
    const lines = count([`${calls}:fact`, '-f', '--by', 'pid'], ['sh', '-c', script]);
    assert.deepEqual(
      lines.map((l) => l.hits),
      [20, 10],
    );
    assert.equal(new Set(lines.map((l) => l.by?.['pid'])).size, 2);
  });

  void it('shows the paths of cgroups', () => {
    const [line] = count([`${calls}:fact`, '--by', 'cgroup']);
    const own = /^0::(.*)$/m.exec(readFileSync('/proc/self/cgroup', 'utf8'))?.[1];
    assert.deepEqual([line!.by, line!.hits], [{ cgroup: own ?? '0' }, 100]);
  });

  void it('has a column for each expression', () => {
    const { stderr } = uprobe([
      'count',
      `${calls}:fact`,
      `${calls}:main`,
      '--by',
      'n=hex(arg0), comm',
      '--if',
      'arg0 == 10',
      '--',
      calls,
    ]);
    assert.match(stderr, /^HITS {2}N +COMM +PROBE\n +10 {2}0xa {2}calls {2}\S+:fact\n1 place was not hit$/m);
  });

  void it('escapes what programs say', () => {
    const { stderr } = uprobe(['count', `${calls}:text`, '--by', 'str(arg0)', '--', calls]);
    assert.match(stderr, /^ +2 {2}a line\\nand a tab\\t +\S+:text$/m);
    assert.match(stderr, /^HITS {2}STR\(ARG0\) +PROBE$/m);
  });

  void it('is refused with a caret where it cannot be', () => {
    const run = ['--', calls];
    assertRefused(
      ['count', `${calls}:add`, '--by', 'pid, buf(arg0, 3)', ...run],
      /--by: results can be kept apart by[^]*\^/,
    );
    assertRefused(['count', `${calls}:add`, '--by', 'pid tid', ...run], /--by: [^]*\n {2}pid tid\n {6}\^/);
    assertRefused(
      ['count', `${calls}:add`, '--if', 'retval == 1', ...run],
      /--if: retval is known only where .*%return/,
    );
    assertRefused(['count', `${calls}:add`, '--if', 'arg0 = 1', ...run], /= does not compare: write ==/);
    assertRefused(['trace', `${calls}:add`, '--by', 'pid', ...run], /unknown option '--by'/);
  });
});
