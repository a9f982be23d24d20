import { describe, it } from 'node:test';
import assert from 'node:assert/strict';
import { runInNewContext } from 'node:vm';
import { escapeText, jsonString, jsonText, quote } from '#uprobe/base/escape.js';
import { globMatcher, isGlob } from '#uprobe/base/glob.js';
import { nearest } from '#uprobe/base/nearest.js';
import { table } from '#uprobe/outputs/table.js';

/** Everything that moves a cursor, hides text or changes its order. */
const DANGEROUS = /[\0-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/;

void describe('Text of a target', () => {
  void it('is printed as it is where it is harmless', () => {
    for (const text of ['malloc', '_ZN4node5StartEiPPc', 'größe', '日本語', '🙂', 'a b', "it's", 'C:\\x']) {
      assert.equal(escapeText(text), text);
    }
  });

  void it('cannot move a cursor, rename a window, type or reorder', () => {
    assert.equal(escapeText('\x1b[2J\x1b]0;owned\x07'), '\\x1b[2J\\x1b]0;owned\\x07');
    assert.equal(escapeText('a\nb\r\t'), 'a\\nb\\r\\t');
    assert.equal(escapeText('\u009b31m'), '\\x9b31m');
    assert.equal(escapeText('user\u202etxt.exe'), 'user\\u202etxt.exe');
    assert.equal(escapeText('\ud800x'), '\\ud800x');
    assert.equal(escapeText('\u{e0041}'), '\\u{e0041}');
    for (let code = 0; code < 0x10000; code++) {
      assert.doesNotMatch(escapeText(String.fromCharCode(code)), DANGEROUS);
    }
  });

  void it('is quoted as a JavaScript string that means the same', () => {
    for (const text of [
      '',
      'x',
      'say "hi"',
      'back\\slash',
      '\x00\x1b\x7f\x9f',
      'line\nend',
      '\u2028',
      '\u{1f642}',
      '\u202e',
      '\u{e0041}',
    ]) {
      // The reverse of quote(), by the language itself.
      assert.equal(runInNewContext(quote(text)), text);
      assert.doesNotMatch(quote(text), DANGEROUS);
    }
  });

  void it('is the same text again when its JSON is read', () => {
    for (const text of ['', '\x00\x1b\x7f\x80\x9f', '\u2028\u202e', '\ud800', '\u{e0041}', '"\\']) {
      assert.equal(JSON.parse(jsonString(text)), text);
      assert.deepEqual(JSON.parse(jsonText({ [text]: [text] })), { [text]: [text] });
      assert.doesNotMatch(jsonString(text), DANGEROUS);
      assert.doesNotMatch(jsonText({ [text]: text }), DANGEROUS);
    }
  });
});

void describe('A glob', () => {
  const cases: readonly (readonly [string, readonly string[], readonly string[]])[] = [
    ['*', ['', 'a', 'abc'], []],
    ['*alloc', ['alloc', 'malloc', 'calloc'], ['allocate', 'mallocx']],
    ['m*c', ['mc', 'malloc', 'mcc'], ['m', 'xmalloc']],
    ['m?lloc', ['malloc', 'mxlloc'], ['mlloc', 'maalloc']],
    ['*a*b*', ['ab', 'xaxbx'], ['ba', 'a']],
    ['[mc]alloc', ['malloc', 'calloc'], ['ralloc']],
    ['[!m]alloc', ['calloc'], ['malloc', 'alloc']],
    ['[a-c]x', ['ax', 'bx', 'cx'], ['dx', '-x']],
    ['[]a]x', [']x', 'ax'], ['bx']],
    ['[a-]x', ['ax', '-x'], ['bx']],
    ['a[b', ['a[b'], ['ab']],
    ['a\\*', ['a*'], ['ab', 'a']],
    ['**', ['', 'x'], []],
    ['[\\]]', [']'], ['\\']],
  ];
  for (const [pattern, yes, no] of cases) {
    void it(`${pattern} matches what a shell would match`, () => {
      const matches = globMatcher(pattern);
      for (const name of yes) assert.ok(matches(name), name);
      for (const name of no) assert.ok(!matches(name), name);
    });
  }

  void it('cannot be made to take for ever', () => {
    const matches = globMatcher('*a'.repeat(50));
    const start = performance.now();
    assert.equal(matches('a'.repeat(49) + 'b'.repeat(20_000)), false);
    assert.ok(performance.now() - start < 1000);
  });

  void it('is told from a plain name', () => {
    assert.ok(isGlob('a*') && isGlob('a?') && isGlob('[ab]'));
    assert.ok(!isGlob('malloc') && !isGlob('a\\*') && !isGlob('a[b'));
  });
});

void describe('Near names', () => {
  void it('are those a few keystrokes away, then those that contain the word', () => {
    assert.deepEqual(nearest('mallco', ['malloc', 'free', 'calloc']), ['malloc', 'calloc']);
    assert.deepEqual(nearest('Start', ['_ZN4node5StartEiPPc', 'stop']), ['_ZN4node5StartEiPPc']);
    assert.deepEqual(nearest('zzz', ['malloc']), []);
  });
});

void describe('A table', () => {
  void it('aligns its columns and escapes its cells', () => {
    const lines = table(
      [{ title: 'hits', align: 'right' }, { title: 'probe' }],
      [
        ['1', 'a\x1b'],
        ['100', 'b'],
      ],
    );
    assert.deepEqual(lines, ['hits  probe', '   1  a\\x1b', ' 100  b']);
  });
});
