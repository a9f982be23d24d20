/** The part of a long text that a message shows, with carets under the wrong spot. */
import { describe, it } from 'node:test';
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { columnsOf, excerpt } from '#uprobe/base/excerpt.js';
import { assertRefused, uprobe } from './helpers/cli.js';
import { compileFixture, repositoryRoot } from './helpers/compile.js';
import { Random } from './helpers/random.js';

const calls = compileFixture('calls');

void describe('An excerpt', () => {
  void it('is the whole text where that fits', () => {
    assert.deepEqual(excerpt('fd=rsi', 3, 6, 6), ['fd=rsi', '   ^^^']);
    assert.deepEqual(excerpt('fd=', 3, 4, 80), ['fd=', '   ^']);
    assert.deepEqual(excerpt('', 0, 1, 80), ['', '^']);
  });

  void it('is a window around the spot in a long text, with a mark where something is left out', () => {
    const long = `${'a'.repeat(1000)}SPOT${'b'.repeat(1000)}`;
    const [line, carets] = excerpt(long, 1000, 1004, 30);
    assert.equal(line, '…aaaaaaaaaSPOTbbbbbbbbbbbbbbb…');
    assert.equal(carets, `${' '.repeat(10)}^^^^`);
    assert.deepEqual(excerpt(long, 0, 1, 10), ['aaaaaaaa…', '^']);
    assert.deepEqual(excerpt(long, 2004, 2005, 10), ['…bbbbbbb', '        ^']);
  });

  void it('counts columns as a terminal does', () => {
    const known: readonly [string, number][] = [
      ['größe', 5],
      ['日本語', 6],
      ['한국', 4],
      ['ｆｕｌｌ', 8],
      ['e\u0301', 1],
      ['🙂', 2],
      ['🇩🇪', 2],
      ['…', 1],
      ['\u1112\u1161\u11ab', 2],
    ];
    for (const [text, columns] of known) assert.equal(columnsOf(text), columns, text);
    assert.deepEqual(excerpt('"日本" + x', 7, 8, 80), ['"日本" + x', '         ^']);
    assert.deepEqual(excerpt('"e\u0301\u0301" + x', 8, 9, 80), ['"e\u0301\u0301" + x', '      ^']);
    assert.deepEqual(excerpt('日本 x', 0, 2, 80), ['日本 x', '^^^^']);
    assert.deepEqual(excerpt('"\n\x1b" + x', 7, 8, 80), ['"\\n\\x1b" + x', '           ^']);
  });

  void it('fits, and has its carets below the spot, whatever the text', () => {
    const next = new Random(7);
    const alphabet = ['a', 'é', '日', '🙂', 'e\u0301', '\n', '\u202e', '\ud800', ' ', ',', '\u{20000}'];
    for (let i = 0; i < 3000; i++) {
      const pick = (): string => alphabet[next.below(alphabet.length)]!;
      const before = Array.from({ length: next.below(200) }, pick).join('');
      const after = Array.from({ length: next.below(200) }, pick).join('');
      const columns = 20 + next.below(100);
      const [line, carets] = excerpt(`${before}#${after}`, before.length, before.length + 1, columns);
      assert.ok(columnsOf(line) <= columns, `${columns}: ${line}`);
      const at = line.indexOf('#');
      assert.equal(carets, `${' '.repeat(columnsOf(line.slice(0, at)))}^`, line);
    }
  });
});

void describe('A message about a long --args', () => {
  const refused = (list: string): string[] =>
    uprobe(['trace', `${calls}:add`, '--args', list, '--', calls, '1'])
      .stderr.trimEnd()
      .split('\n');

  void it('shows a part that fits the terminal', () => {
    const name = 'n'.repeat(3990);
    for (const list of [
      `${'arg0,'.repeat(790)} rsi`,
      `rsi, ${'arg0,'.repeat(700)}`,
      name,
      `${name.slice(0, 1990)}=1, ${name.slice(0, 1990)}=2`,
      `x=${'9'.repeat(3990)}`,
      `x=0x${'9'.repeat(3990)}n`,
      'x'.repeat(100_000),
    ]) {
      const lines = refused(list);
      assert.equal(lines.length, 3, lines.join('\n'));
      for (const line of lines) assert.ok(line.length <= 160, line);
      for (const line of lines.slice(1)) assert.ok(line.length <= 80, line);
    }
    const [problem, shown, carets] = refused(`${'x'.repeat(3000)}=arg0, y=rsi`) as [string, string, string];
    assert.equal(problem, 'uprobe: --args: unknown name rsi: write regs.si');
    assert.ok(shown.startsWith('  …xxx') && shown.endsWith('=arg0, y=rsi'), shown);
    assert.equal(shown.slice(carets.indexOf('^')), 'rsi');
  });

  void it(
    'knows how wide the terminal is',
    { skip: !existsSync('/usr/bin/script') && 'script(1) is not installed' },
    () => {
      const args = ['trace', `${calls}:add`, '--args', `${'x'.repeat(250)}=arg0, y=rsi`, '--', calls, '1'];
      for (const columns of [40, 120, 200]) {
        const command = `stty cols ${columns}; '${process.execPath}' dist/bin/uprobe.js ${args.map((a) => `'${a}'`).join(' ')}`;
        const options = { encoding: 'utf8', cwd: repositoryRoot, timeout: 30_000 } as const;
        const { stdout } = spawnSync('script', ['-qec', command, '/dev/null'], options);
        const [, shown = '', carets = ''] = stdout.split('\r\n');
        assert.ok(shown.length <= columns && shown.length > columns - 3, `${columns}: ${shown}`);
        assert.equal(shown.slice(carets.indexOf('^')), 'rsi');
      }
    },
  );

  void it('has its caret below the spot beside wide characters', () => {
    assertRefused(
      ['trace', `${calls}:add`, '--args', 'x="日本", y=argg', '--', calls, '1'],
      /did you mean arg0\?\n {2}x="日本", y=argg\n {14}\^{4}\n/,
    );
  });
});
