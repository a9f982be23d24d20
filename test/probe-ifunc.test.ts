/** What an ifunc may choose, by its resolver's code: against objdump and readelf. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { describe, it } from 'node:test';
import { PlaceError } from '#uprobe/base/errors.js';
import { CodeFile } from '#uprobe/probe/code-file.js';
import { candidatesOf } from '#uprobe/probe/ifunc.js';
import { resolvePlace, resolvePlaces } from '#uprobe/probe/place.js';
import type { Place } from '#uprobe/probe/types.js';
import { OpenedFile } from '#uprobe/process/opened-file.js';
import { compileFixture, privateCopy } from './helpers/compile.js';
import { readelfFrames, readelfSymbols } from './helpers/readelf.js';

const open = (path: string): CodeFile => new CodeFile(OpenedFile.open(path));
const question = { trustPlace: false, processes: [] };
const hexadecimal = (digits: string): number => parseInt(digits, 16);
const ascending = (a: number, b: number): number => a - b;

/** Function starts that objdump shows in a resolver: behind # the addresses made, as constants those loaded. */
function namedByObjdump(path: string, from: number, size: number, starts: ReadonlySet<number>): number[] {
  const range = [`--start-address=${from}`, `--stop-address=${from + size}`];
  const text = execFileSync('objdump', ['-dw', '--no-show-raw-insn', ...range, path], { encoding: 'utf8' });
  const made = [...text.matchAll(/\tlea .*# ([0-9a-f]+)/g), ...text.matchAll(/\tmov\w* +\$0x([0-9a-f]+),/g)];
  const found = made.map(([, digits]) => hexadecimal(digits!)).filter((a) => starts.has(a));
  return [...new Set(found)].toSorted(ascending);
}

const LIBRARIES = ['libc.so.6', 'libm.so.6'].map((name) => `/lib/x86_64-linux-gnu/${name}`);
const BUILDS = [
  ['-O0', '-fPIE', '-pie'],
  ['-O2', '-fPIE', '-pie'],
  ['-O0', '-no-pie', '-fno-pie'],
  ['-O2', '-no-pie', '-fno-pie'],
  ['-O1', '-static', '-no-pie', '-fno-pie'],
  ['-O1', '-static-pie', '-fPIE'],
];

void describe('the functions that a resolver names are those that objdump shows in it', () => {
  for (const path of [...LIBRARIES, ...BUILDS.map((flags) => compileFixture('ifunc', { flags }))])
    void it(`of ${path}`, () => {
      const code = open(path);
      const starts = new Set(readelfFrames(path).map((e) => e.start));
      const ifuncs = readelfSymbols(path).filter((s) => s.type === 'IFUNC');
      assert.ok(ifuncs.length >= 5);
      for (const { address, size, name } of new Map(ifuncs.map((s) => [s.address, s])).values()) {
        const { addresses } = candidatesOf(code, address as never);
        assert.deepEqual(addresses, namedByObjdump(path, address, size, starts), name);
      }
      code.close();
    });
});

void describe('an ifunc', () => {
  const path = compileFixture('ifunc', { flags: ['-O1', '-fPIE', '-pie'] });
  const code = open(path);
  const addressOf = (name: string): number => readelfSymbols(path).find((s) => s.name === name)!.address;
  const error = (file: CodeFile, place: Place, several = true): PlaceError => {
    try {
      if (several) resolvePlaces(file, place, question);
      else resolvePlace(file, place, question);
    } catch (e) {
      assert.ok(e instanceof PlaceError, String(e));
      assert.equal(e.code, 'ifunc-symbol');
      return e;
    }
    assert.fail('the place was taken');
  };

  void it('stands for each function that it may choose', () => {
    const found = resolvePlaces(code, { symbol: 'chosen' }, question);
    assert.deepEqual(
      found.map((f) => f.address),
      ['plain', 'vector', 'rare'].map(addressOf).toSorted(ascending),
    );
    for (const { symbol, symbolOffset, ifunc } of found) {
      assert.deepEqual([symbol, symbolOffset, ifunc?.count], ['chosen', 0, 3]);
      assert.match(ifunc?.name ?? '', /^(plain|vector|rare)$/);
    }
  });

  void it('is an error where one place is wanted, which lists them', () => {
    const { message } = error(code, { symbol: 'chosen' }, false);
    assert.match(message, /registerUprobes arms all of them/);
    for (const name of ['plain', 'vector', 'rare'])
      assert.ok(message.includes(`${name} at 0x${addressOf(name).toString(16)}`), message);
  });

  void it('with an offset is a place only where it can choose just one function', () => {
    const { address, symbol, symbolOffset } = resolvePlace(code, { symbol: 'pointed' }, question);
    assert.deepEqual([address, symbol, symbolOffset], [addressOf('pointed_plain'), 'pointed', 0]);
    const second = code.instructionAt(address)!.bytes.length;
    const place = resolvePlace(code, { symbol: 'pointed', symbolOffset: second }, question);
    assert.deepEqual([place.address, place.symbolOffset], [address + second, second]);
    assert.match(
      error(code, { symbol: 'chosen', symbolOffset: 4 }).message,
      /chosen\+0x4 is not one place: .*vector at/,
    );
    assert.throws(
      () => resolvePlace(code, { symbol: 'pointed', symbolOffset: 4096 }, question),
      (e) => e instanceof PlaceError && e.code === 'outside-symbol',
    );
    assert.throws(
      () => resolvePlace(code, { symbol: 'pointed', symbolOffset: second + 1 }, question),
      (e) => e instanceof PlaceError && e.code === 'middle-of-instruction',
    );
  });

  void it('whose code does not name the functions is refused', () => {
    assert.match(error(code, { symbol: 'from_table' }).message, /does not show which ones there are/);
  });

  void it('that asks others is refused, with what it names itself', () => {
    for (const flags of BUILDS) {
      const built = open(compileFixture('ifunc', { flags }));
      assert.match(
        error(built, { symbol: 'by_asking' }).message,
        /asks others.*plain at 0x/,
        flags.join(' '),
      );
    }
    assert.match(error(open(LIBRARIES[0]!), { symbol: 'time' }).message, /asks others.*vDSO/);
  });

  void it('may choose functions without names, and functions that others may replace', () => {
    const library = privateCopy(compileFixture('library'));
    const named = resolvePlaces(open(library), { symbol: 'lib_fast' }, question);
    execFileSync('strip', [library]);
    const unnamed = resolvePlaces(open(library), { symbol: 'lib_fast' }, question);
    assert.deepEqual(
      unnamed.map((f) => [f.address, f.ifunc?.name]),
      named.map((f) => [f.address, undefined]),
    );
    const replaceable = compileFixture('ifunc-replaceable', { flags: ['-O1', '-shared', '-fPIC'] });
    assert.deepEqual(
      resolvePlaces(open(replaceable), { symbol: 'replaceable' }, question).map((f) => f.ifunc?.name),
      ['replaceable_fast', 'replaceable_plain'],
    );
  });
});
