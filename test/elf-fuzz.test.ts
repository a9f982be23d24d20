/** Damaged files: whatever the bytes, the reader answers or throws an ElfError, soon and in little memory. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { copyFileSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { describe, it } from 'node:test';
import { EhFrame } from '#uprobe/elf/eh-frame.js';
import { ElfImage } from '#uprobe/elf/image.js';
import { parseLdCache } from '#uprobe/elf/ld-cache.js';
import { Relocations } from '#uprobe/elf/relocations.js';
import { ElfError, memorySource } from '#uprobe/elf/source.js';
import { SymbolTable } from '#uprobe/elf/symbols.js';
import { compileFixture, repositoryRoot, temporaryDirectory } from './helpers/compile.js';

const fixtures = join(repositoryRoot, 'test', 'fixtures');

/** mulberry32: the same numbers in every run. */
function randomNumbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

/** Everything the reader offers. */
function readAll(bytes: Uint8Array): void {
  const image = ElfImage.parse(memorySource(bytes), 'fuzz.bin');
  const attempts: (() => unknown)[] = [
    () => [
      image.interp,
      image.buildId,
      image.debugLink,
      image.sections.length,
      image.isStatic,
      image.isStaticPie,
    ],
    () => [image.soname, image.needed, image.rpath, image.runpath],
    () => image.executableAt(image.addressToOffset(image.entry) ?? 0),
  ];
  const symbols = SymbolTable.of(image);
  attempts.push(
    () => ['tail', 'answer@@V3', 'x', '_start'].map((name) => symbols.lookup(name)),
    () => [...symbols.all()].length,
    () => symbols.forEachFunction((f) => f.symbols.length),
    () => symbols.at(image.entry),
    () => symbols.similar('anwser'),
    () => SymbolTable.of(image, image).lookup('add'),
  );
  const frames = EhFrame.of(image);
  attempts.push(
    () => frames.extentAt(image.entry),
    () => frames.extents().map((e) => frames.extentAt(e.start)),
  );
  const relocations = Relocations.of(image);
  attempts.push(
    () => relocations.slotsOfResolver(image.entry),
    () => relocations.slotsNamed(new Set(['puts', 'answer', ''])),
    () => relocations.targetOf(image.entry),
  );
  for (const attempt of attempts) onlyElfErrors(attempt);
}

function onlyElfErrors(attempt: () => unknown): boolean {
  try {
    attempt();
    return true;
  } catch (e) {
    if (e instanceof ElfError) return false;
    throw e;
  }
}

const INTERESTING = [
  0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xfffffff0, 0xffffffff,
];

/** One to eight changes: bytes, words of telling values, blocks moved, blocks zeroed. */
function mutate(original: Buffer, random: (below: number) => number): Buffer {
  const bytes = Buffer.from(original);
  // Half of the changes go where the tables are described.
  const place = (room: number): number =>
    random(random(2) === 0 ? Math.min(1024, bytes.length - room) : bytes.length - room);
  for (let changes = 1 + random(8); changes > 0; changes--) {
    const kind = random(5);
    if (kind === 0) bytes[place(1)] = random(256);
    else if (kind === 1) bytes.writeUInt32LE(INTERESTING[random(INTERESTING.length)]!, place(4));
    else if (kind === 2) bytes.writeUInt32LE(random(bytes.length * 2), place(8));
    else if (kind === 3) bytes.copy(bytes, place(64), place(64), place(64));
    else bytes.fill(0, place(64), place(64));
  }
  return random(4) === 0 ? bytes.subarray(0, random(bytes.length)) : bytes;
}

function stripped(path: string): string {
  const copy = join(temporaryDirectory(), basename(path));
  copyFileSync(path, copy);
  execFileSync('strip', [copy]);
  return copy;
}

const subjects: Readonly<Record<string, () => string>> = {
  'a library with versions': () =>
    compileFixture('elf-versioned', { flags: ['-g0', '-Wl,--hash-style=both'] }),
  'a stripped library': () => stripped(compileFixture('elf-versioned', { flags: ['-g0'] })),
  'a library with unwind entries but no index': () =>
    compileFixture('elf-versioned', { flags: ['-g0', '-Wl,--no-eh-frame-hdr'] }),
  'a program': () => compileFixture('elf-shapes', { flags: ['-g0'], libs: [join(fixtures, 'elf-other.c')] }),
  'a static program': () => compileFixture('elf-freestanding', { flags: ['-g0'] }),
};

const SECONDS = 20;
const MEGABYTES = 300;

/** Runs it and holds it to its time and memory. */
function bounded(work: () => void): void {
  const before = process.memoryUsage().rss;
  const start = performance.now();
  work();
  assert.ok(performance.now() - start < SECONDS * 1000, `took ${performance.now() - start} ms`);
  const grown = (process.memoryUsage().rss - before) / 2 ** 20;
  assert.ok(grown < MEGABYTES, `took ${grown} MB`);
}

describe('A thousand damaged copies are read or refused with an ElfError:', () => {
  for (const [name, build] of Object.entries(subjects))
    it(name, (t) => {
      const original = readFileSync(build());
      readAll(original);
      const random = randomNumbers(original.length);
      let parsed = 0;
      bounded(() => {
        for (let i = 0; i < 1000; i++) if (onlyElfErrors(() => readAll(mutate(original, random)))) parsed++;
      });
      t.diagnostic(`${parsed} of 1000 could be opened`);
      assert.ok(parsed > 100);
    });

  it('every length a file can be cut to', () => {
    const original = readFileSync(compileFixture('elf-freestanding', { flags: ['-g0'] }));
    bounded(() => {
      for (let length = 0; length < original.length; length += length < 1024 ? 1 : 37)
        onlyElfErrors(() => readAll(original.subarray(0, length)));
    });
  });

  it('/etc/ld.so.cache', () => {
    const original = readFileSync('/etc/ld.so.cache');
    const random = randomNumbers(1);
    bounded(() => {
      for (let i = 0; i < 500; i++) onlyElfErrors(() => parseLdCache(mutate(original, random)));
    });
  });
});

describe('A file made to cost much', () => {
  /** The library with versions, with one section header changed. */
  function withSection(type: number, change: (bytes: Buffer, header: number) => void, grow = 0): Buffer {
    const bytes = Buffer.concat([readFileSync(subjects['a library with versions']!()), Buffer.alloc(grow)]);
    const start = Number(bytes.readBigUInt64LE(40));
    for (let i = 0; i < bytes.readUInt16LE(60); i++)
      if (bytes.readUInt32LE(start + i * 64 + 4) === type) change(bytes, start + i * 64);
    return bytes;
  }
  const SHT_SYMTAB = 2;

  it('with a hundred thousand symbols that all point into one endless name is refused or read soon', () => {
    const grow = 8 * 2 ** 20;
    const bytes = withSection(
      SHT_SYMTAB,
      (all, header) => {
        const at = all.length - grow;
        const symbols = all.subarray(at, at + 24 * 100_000);
        // Each a global function at its own address, its name somewhere in the long string.
        for (let i = 0; i < 100_000; i++) {
          symbols.writeUInt32LE(i, i * 24);
          symbols.writeUInt32LE(0x00010012, i * 24 + 4);
          symbols.writeUInt32LE(i, i * 24 + 8);
        }
        const strings = Number(all.readBigUInt64LE(40)) + all.readUInt32LE(header + 40) * 64;
        all.fill('a', at + symbols.length);
        all.writeBigUInt64LE(BigInt(at), header + 24);
        all.writeBigUInt64LE(BigInt(symbols.length), header + 32);
        all.writeBigUInt64LE(BigInt(at + symbols.length), strings + 24);
        all.writeBigUInt64LE(BigInt(grow - symbols.length), strings + 32);
      },
      grow,
    );
    bounded(() => readAll(bytes));
    const table = SymbolTable.of(ElfImage.parse(memorySource(bytes), 'fuzz.bin'));
    assert.throws(() => table.forEachFunction(() => undefined), /symbol names overlap beyond reason/);
  });

  it('with a symbol table larger than the file is refused before anything is allocated', () => {
    const bytes = withSection(SHT_SYMTAB, (all, header) => all.writeBigUInt64LE(2n ** 40n, header + 32));
    const table = SymbolTable.of(ElfImage.parse(memorySource(bytes), 'fuzz.bin'));
    assert.throws(() => table.lookup('tail'), { code: 'elf-truncated' });
  });

  it('that claims to be a terabyte long is refused where a part of it is too large', () => {
    const bytes = withSection(SHT_SYMTAB, (all, header) => all.writeBigUInt64LE(2n ** 35n, header + 32));
    const sparse = {
      size: 2 ** 40,
      read: (at: number, n: number) => Buffer.concat([bytes, Buffer.alloc(n)]).subarray(at, at + n),
    };
    assert.throws(() => SymbolTable.of(ElfImage.parse(sparse, 'fuzz.bin')).lookup('tail'), {
      code: 'elf-too-large',
    });
  });
});
