/** The reader of relocations against readelf. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { ElfImage } from '#uprobe/elf/image.js';
import { Relocations } from '#uprobe/elf/relocations.js';
import { memorySource } from '#uprobe/elf/source.js';
import { compileFixture, linkedPair } from './helpers/compile.js';
import { readelfRelocations, readelfSymbols, type ReadelfRelocation } from './helpers/readelf.js';

const open = (path: string): Relocations =>
  Relocations.of(ElfImage.parse(memorySource(readFileSync(path)), path));

const ifunc = (...flags: string[]): string => compileFixture('ifunc', { flags });
const files: Readonly<Record<string, string>> = {
  'a position-independent program': ifunc('-O1', '-fPIE', '-pie'),
  'a program at a fixed address': ifunc('-O1', '-no-pie', '-fno-pie'),
  'a static program': ifunc('-O1', '-static', '-no-pie', '-fno-pie'),
  'a static position-independent program': ifunc('-O1', '-static-pie', '-fPIE'),
  'a program linked with a library': linkedPair().program,
  libc: '/lib/x86_64-linux-gnu/libc.so.6',
  bash: '/bin/bash',
};

const ascending = (a: number, b: number): number => a - b;
const BY_SYMBOL = new Set(['R_X86_64_64', 'R_X86_64_GLOB_DAT', 'R_X86_64_JUMP_SLOT']);

/** `name`, `name@VERSION` or `name@@VERSION`. */
const plainName = (symbol: string): string => symbol.split('@')[0]!;

for (const [what, path] of Object.entries(files))
  void describe(`the relocations of ${what}`, () => {
    const known = readelfRelocations(path);
    const relocations = open(path);

    void it('say which words each resolver fills', () => {
      const byResolver = new Map<number, number[]>();
      for (const { type, at, addend } of known)
        if (type === 'R_X86_64_IRELATIVE') byResolver.set(addend, [...(byResolver.get(addend) ?? []), at]);
      for (const [resolver, slots] of byResolver)
        assert.deepEqual(
          relocations.slotsOfResolver(resolver).toSorted(ascending),
          slots.toSorted(ascending),
        );
      assert.deepEqual(relocations.slotsOfResolver(1), []);
    });

    void it('say which words are to point at a symbol, by name and version', () => {
      const named = known.filter((r) => BY_SYMBOL.has(r.type) && r.symbol !== undefined && r.addend === 0);
      const names = new Set(named.map((r) => plainName(r.symbol!)));
      const described = (r: ReadelfRelocation): string => `${r.at} ${r.symbol!.replace('@@', '@')}`;
      const found = relocations
        .slotsNamed(names)
        .map(({ at, name, version }) => `${at} ${name}${version === undefined ? '' : `@${version}`}`);
      assert.deepEqual(found.toSorted(), named.map(described).toSorted());
      assert.deepEqual(relocations.slotsNamed(new Set(['no_such_name'])), []);
    });
  });

void describe('a word that the file fills itself', () => {
  void it('points at what its relocation says, or at what is in it', () => {
    const path = files['a position-independent program']!;
    const relative = readelfRelocations(path).find((r) => r.type === 'R_X86_64_RELATIVE')!;
    assert.equal(open(path).targetOf(relative.at), relative.addend);
    const fixed = files['a program at a fixed address']!;
    const table = readelfSymbols(fixed).find((s) => s.name === 'table')!;
    const plain = readelfSymbols(fixed).find((s) => s.name === 'plain')!;
    assert.equal(open(fixed).targetOf(table.address), plain.address);
    assert.equal(open(path).targetOf(0xffff_ffff), undefined);
  });

  void it('points at a function of its own that others may replace', () => {
    const path = compileFixture('ifunc-replaceable', { flags: ['-O1', '-shared', '-fPIC'] });
    const slot = readelfRelocations(path).find((r) => r.symbol?.startsWith('replaceable_fast'))!;
    const fast = readelfSymbols(path).find((s) => s.name === 'replaceable_fast')!;
    assert.equal(open(path).targetOf(slot.at), fast.address);
  });
});
