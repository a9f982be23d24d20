/** Strings of programs: bytes that are UTF-8 only mostly. */
import { describe, it } from 'node:test';
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cutUtf8, decodeUtf8, encodeUtf8 } from '#uprobe/base/utf8.js';
import { escapeText, jsonText, quote } from '#uprobe/base/escape.js';

const hasPython = spawnSync('python3', ['-c', '0']).status === 0;

/** Bytes that are nearly UTF-8, the same at each run. */
function samples(): Uint8Array[] {
  // Each where a rule of table 3-7 of the Unicode standard begins or ends.
  const bytes = [
    0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xb2, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec,
    0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff, 0xbb,
  ];
  const all = bytes.flatMap((a) => bytes.flatMap((b) => bytes.map((c) => Uint8Array.of(a, b, c))));
  let state = 7;
  const random = (below: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  for (let i = 0; i < 20_000; i++)
    all.push(Uint8Array.from({ length: random(12) }, () => bytes[random(bytes.length)]!));
  const text = Buffer.from('\ufeffgrüße, 日本 🙂!');
  for (let from = 0; from <= text.length; from++)
    for (let to = from; to <= text.length; to++) all.push(text.subarray(from, to));
  return all;
}

void describe('A string of a program', () => {
  void it('goes back to the same bytes', () => {
    const seen = new Map<string, string>();
    for (const bytes of samples()) {
      const text = decodeUtf8(bytes);
      const hex = Buffer.from(bytes).toString('hex');
      assert.equal(Buffer.from(encodeUtf8(text)).toString('hex'), hex);
      assert.equal(seen.get(text) ?? hex, hex, 'different bytes are different strings');
      seen.set(text, hex);
    }
  });

  void it("is the same as Python's surrogateescape makes of it", { skip: !hasPython && 'no python3' }, () => {
    const all = samples();
    const script =
      'import sys\nfor line in sys.stdin:\n' +
      " print(bytes.fromhex(line).decode('utf8', 'surrogateescape').encode('utf-16-le', 'surrogatepass').hex())";
    const { stdout } = spawnSync('python3', ['-c', script], {
      input: all.map((bytes) => `${Buffer.from(bytes).toString('hex')}\n`).join(''),
      encoding: 'utf8',
      maxBuffer: 1 << 26,
    });
    const theirs = stdout.split('\n').slice(0, -1);
    assert.deepEqual(
      all.map((bytes) => Buffer.from(decodeUtf8(bytes), 'utf16le').toString('hex')),
      theirs,
    );
  });

  void it('keeps its byte order mark', () => {
    assert.equal(decodeUtf8(Buffer.from('\ufeffa')), '\ufeffa');
  });

  void it('is cut off by bytes, and at a NUL', () => {
    for (const bytes of samples()) {
      const text = decodeUtf8(bytes);
      for (let most = 0; most < 6; most++) {
        const nul = bytes.indexOf(0);
        const wanted = bytes.subarray(0, Math.min(most, nul < 0 ? bytes.length : nul));
        assert.equal(cutUtf8(text, most), decodeUtf8(wanted));
      }
    }
  });

  void it('is one string for its bytes, whatever it was before it was cut', () => {
    assert.equal(cutUtf8('\udcc3\udca9', 9), 'é');
    assert.equal(cutUtf8('\ud800', 9), '\ufffd');
  });

  void it('is written by escapes, which mean the same string', () => {
    const text = decodeUtf8(Uint8Array.of(0x61, 0xff, 0x1b));
    assert.equal(escapeText(text), 'a\\udcff\\x1b');
    assert.equal(quote(text), '"a\\udcff\\x1b"');
    assert.equal(jsonText({ text }), '{"text":"a\\udcff\\u001b"}');
  });
});
