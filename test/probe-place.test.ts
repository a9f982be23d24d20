import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { describe, it } from 'node:test';
import { PlaceError } from '#uprobe/base/errors.js';
import { ElfError } from '#uprobe/elf/source.js';
import { CodeFile } from '#uprobe/probe/code-file.js';
import { resolvePlace, type ResolvedPlace } from '#uprobe/probe/place.js';
import type { Place } from '#uprobe/probe/types.js';
import { readMaps } from '#uprobe/process/maps.js';
import { OpenedFile } from '#uprobe/process/opened-file.js';
import { compileFixture, repositoryRoot, temporaryDirectory } from './helpers/compile.js';
import { victim } from './helpers/victim.js';

const fixtures = join(repositoryRoot, 'test', 'fixtures');
const shapes = (...flags: string[]): string =>
  compileFixture('elf-shapes', { flags: ['-O0', ...flags], libs: [join(fixtures, 'elf-other.c')] });

function through(path: string, ...command: [string, ...string[]]): string {
  const copy = join(temporaryDirectory(), basename(path));
  copyFileSync(path, copy);
  execFileSync(command[0], [...command.slice(1), copy]);
  return copy;
}

/** Every address a name has, as nm prints them. */
const nm = (path: string, name: string): number[] =>
  execFileSync('nm', [path], { encoding: 'utf8' })
    .split('\n')
    .filter((line) => line.endsWith(` ${name}`))
    .map((line) => parseInt(line, 16));

class Opened {
  readonly code: CodeFile;
  constructor(readonly path: string) {
    this.code = new CodeFile(OpenedFile.open(path));
  }
  at(place: Place, trustPlace = false): ResolvedPlace {
    return resolvePlace(this.code, place, { trustPlace, processes: [] });
  }
  /** The error; every one names the file. */
  error(place: Place, trustPlace = false): PlaceError {
    try {
      this.at(place, trustPlace);
    } catch (e) {
      assert.ok(e instanceof PlaceError, String(e));
      assert.ok(e.message.startsWith(`${this.path}: `), e.message);
      return e;
    }
    assert.fail('the place was taken');
  }
}

void describe('a symbol', () => {
  const program = new Opened(shapes('-fPIE', '-pie'));
  const [area = 0] = nm(program.path, 'shape_area');

  void it('becomes a file offset, also where addresses and offsets differ', () => {
    for (const flags of [
      ['-no-pie'],
      ['-fPIE', '-pie'],
      ['-static'],
      ['-static-pie'],
      ['-Wl,-z,noseparate-code'],
      ['-no-pie', '-Wl,-Ttext-segment=0x12345000'],
      ['-no-pie', '-Wl,--section-start=.text=0x5000abc0'],
    ]) {
      const built = new Opened(shapes(...flags));
      const { address, offset, instruction } = built.at({ symbol: 'shape_area' });
      assert.equal(address, nm(built.path, 'shape_area')[0], flags.join(' '));
      const bytes = readFileSync(built.path).subarray(offset, offset + instruction.bytes.length);
      assert.deepEqual(new Uint8Array(bytes), new Uint8Array(instruction.bytes), flags.join(' '));
    }
    const odd = new Opened(
      compileFixture('elf-freestanding', {
        flags: ['-O1', `-Wl,-T,${fixtures}/elf-odd.ld`, '-Wl,--build-id=none'],
      }),
    );
    const { address, offset } = odd.at({ symbol: 'add' });
    assert.ok(address >= 0x50000940 && offset < 0x10000);
    assert.equal(odd.at({ offset }).address, address);
    assert.equal(odd.at({ addr: BigInt(address) }).offset, offset);
  });

  void it('may be any of the names of a function', () => {
    assert.equal(program.at({ symbol: 'shape_alias' }).address, area);
    assert.equal(program.at({ symbol: 'shape_alias' }).symbol, 'shape_alias');
  });

  void it('may have an offset to the start of another instruction', () => {
    const second = program.at({ symbol: 'shape_area' }).instruction.bytes.length;
    const place = program.at({ symbol: 'shape_area', symbolOffset: second });
    assert.equal(place.address, area + second);
    assert.equal(place.symbolOffset, second);
  });

  void it('may be a label without type or size', () => {
    assert.equal(program.at({ symbol: 'bare_label' }).address, nm(program.path, 'bare_label')[0]);
    assert.equal(
      program.at({ symbol: 'sizeless', symbolOffset: 1 }).address,
      nm(program.path, 'sizeless')[0]! + 1,
    );
  });

  void it('may have a version', () => {
    const library = new Opened(compileFixture('elf-versioned'));
    const [old, current] = [library.at({ symbol: 'answer@V1' }), library.at({ symbol: 'answer' })];
    assert.equal(old.address, nm(library.path, 'answer_1')[0]);
    assert.equal(current.address, library.at({ symbol: 'answer@@V3' }).address);
    assert.equal(current.address, nm(library.path, 'answer_2')[0]);
    assert.match(
      library.error({ symbol: 'retired' }).message,
      /means 2 places: .*retired@V[12] at .*retired@V[12] at /,
    );
    assert.equal(library.error({ symbol: 'answer@V9' }).code, 'symbol-not-found');
  });

  void it('that is not there comes with those that are near', () => {
    const error = program.error({ symbol: 'shape_aera' });
    assert.equal(error.code, 'symbol-not-found');
    assert.match(error.message, /Did you mean .*shape_area/);
  });

  void it('that is not there says so when local symbols were stripped', () => {
    const stripped = new Opened(through(program.path, 'strip'));
    assert.match(stripped.error({ symbol: 'twice' }).message, /no symbols of its local functions: install/);
  });

  void it('that means several local functions lists their addresses', () => {
    const error = program.error({ symbol: 'twice' });
    assert.equal(error.code, 'ambiguous-symbol');
    for (const address of nm(program.path, 'twice')) {
      assert.ok(error.message.includes(`0x${address.toString(16)}`));
      assert.equal(program.at({ addr: BigInt(address) }).symbol, 'twice');
    }
  });

  void it('that is a variable is refused', () => {
    assert.equal(program.error({ symbol: 'counter' }).code, 'not-executable');
  });

  void it('that is an ifunc is what it may choose', () => {
    const [fast] = nm(program.path, 'area_fast');
    assert.equal(program.at({ symbol: 'area_ifunc' }).address, fast);
    const libc = new Opened('/lib/x86_64-linux-gnu/libc.so.6');
    assert.equal(libc.error({ symbol: 'memcpy' }).code, 'ifunc-symbol');
  });

  void it('is found as fast when there are many of them', () => {
    const bash = new Opened('/bin/bash');
    const names = [...bash.code.symbols.functions()].map((f) => f.symbols[0]!.name);
    for (const symbol of names)
      assert.deepEqual(bash.code.lookup(symbol), bash.code.symbols.lookup(symbol), symbol);
    assert.equal(bash.error({ symbol: 'no_such_name' }).code, 'symbol-not-found');
  });

  void it('cannot lead out of its function', () => {
    assert.equal(program.error({ symbol: 'shape_area', symbolOffset: 0x10000 }).code, 'outside-symbol');
  });

  void it('comes from a separate debug file when its link and checksum fit', () => {
    const directory = temporaryDirectory();
    const stripped = join(directory, 'shapes');
    const debug = join(directory, 'shapes.debug');
    copyFileSync(shapes('-fPIE', '-pie', '-Wl,--build-id=none'), stripped);
    execFileSync('objcopy', ['--only-keep-debug', stripped, debug]);
    execFileSync('strip', [stripped]);
    execFileSync('objcopy', [`--add-gnu-debuglink=${debug}`, stripped]);
    const found = new Opened(stripped);
    assert.equal(
      found.at({ symbol: 'shape_area' }).offset,
      found.at({ addr: BigInt(found.at({ symbol: 'shape_area' }).address) }).offset,
    );
    assert.equal(found.error({ symbol: 'twice' }).code, 'ambiguous-symbol');
    const bytes = readFileSync(debug);
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(debug, bytes);
    assert.equal(new Opened(stripped).error({ symbol: 'twice' }).code, 'symbol-not-found');
  });
});

void describe('an instruction', () => {
  const program = new Opened(shapes('-fPIE', '-pie'));
  const start = program.at({ symbol: 'shape_area' });

  void it('must start at the place; the nearest ones are named', () => {
    const push = start.instruction.bytes.length;
    const error = program.error({ symbol: 'shape_area', symbolOffset: push + 1 });
    assert.equal(error.code, 'middle-of-instruction');
    const [before, after] = [...error.message.matchAll(/shape_area\+(0x[0-9a-f]+): /g)].map((m) =>
      Number(m[1]),
    );
    assert.ok(before! < push + 1 && after! > push + 1);
    assert.equal(
      program.error({ symbol: 'shape_area', symbolOffset: push + 1 }, true).code,
      'middle-of-instruction',
    );
  });

  void it('starts wherever a disassembler shows one', () => {
    for (const path of [program.path, compileFixture('calls', { flags: ['-O2'] })]) {
      const opened = new Opened(path);
      const lines = execFileSync('objdump', ['-d', '--no-show-raw-insn', '-j', '.text', path], {
        encoding: 'utf8',
      });
      const starts = new Set(
        [...lines.matchAll(/^\s+([0-9a-f]+):\t(?!\(bad\)|\.byte)/gm)].map((m) => parseInt(m[1]!, 16)),
      );
      let taken = 0;
      for (const address of starts) {
        try {
          opened.at({ addr: BigInt(address) });
          taken++;
        } catch (e) {
          // Padding between functions is nobody's; everything else must be taken.
          assert.ok(e instanceof PlaceError);
          assert.equal(e.code, 'unknown-instruction-start', e.message);
        }
      }
      assert.ok(taken > starts.size * 0.8, `${taken} of ${starts.size} of ${path}`);
    }
  });

  void it('is found by the unwind table where there are no symbols', () => {
    const stripped = new Opened(through(program.path, 'strip'));
    const push = start.instruction.bytes.length;
    assert.equal(stripped.at({ addr: BigInt(start.address + push) }).symbol, undefined);
    assert.equal(stripped.error({ addr: BigInt(start.address + push + 1) }).code, 'middle-of-instruction');
  });

  void it('that nothing vouches for needs trust', () => {
    const stripped = new Opened(through(program.path, 'strip', '-R', '.eh_frame', '-R', '.eh_frame_hdr'));
    const addr = BigInt(start.address);
    assert.equal(stripped.error({ addr }).code, 'unknown-instruction-start');
    assert.match(stripped.error({ addr }).message, /trustPlace: true/);
    assert.equal(stripped.at({ addr }, true).offset, start.offset);
  });

  void it('must be code', () => {
    const [counter = 0] = nm(program.path, 'counter');
    assert.equal(program.error({ offset: 0 }).code, 'not-executable');
    assert.equal(program.error({ addr: BigInt(counter) }).code, 'not-executable');
    assert.equal(program.error({ addr: BigInt(counter) }, true).code, 'not-executable');
    assert.equal(program.error({ offset: 0x7fff_ffff }).code, 'offset-not-mapped');
    assert.equal(program.error({ addr: 0xffff_ffff_ffff_ffffn }).code, 'address-not-in-file');
  });

  void it('must be one of this processor', () => {
    const error = program.error({ symbol: 'not_code' });
    assert.equal(error.code, 'not-an-instruction');
    assert.match(error.message, /06 06/);
  });

  void it('may be given by offset and address when both mean the same', () => {
    const { offset, address } = start;
    assert.equal(program.at({ offset, addr: BigInt(address) }).symbol, 'shape_area');
    assert.equal(
      program.error({ offset: offset + 4, addr: BigInt(address) }).code,
      'offset-and-address-differ',
    );
  });
});

void describe('a live address', () => {
  void it('becomes the place in the file that is mapped there', () => {
    const pid = victim();
    const sleep = new Opened('/bin/sleep');
    const mapping = readMaps(pid).find((m) => m.perms === 'r-xp' && m.ino === sleep.code.file.ino)!;
    const entry = sleep.code.image.entry;
    const offset = sleep.code.image.addressToOffset(entry)!;
    const liveAddr = BigInt(mapping.start + offset - mapping.offset);
    assert.equal(sleep.at({ pid, liveAddr }).address, entry);
    const stack = readMaps(pid).find((m) => m.path === '[stack]')!;
    assert.equal(sleep.error({ pid, liveAddr: BigInt(stack.start) }).code, 'live-address-elsewhere');
    assert.equal(sleep.error({ pid, liveAddr: 16n }).code, 'live-address-unmapped');
  });
});

void describe('a file', () => {
  const make = (bytes: Uint8Array): string => {
    const path = join(temporaryDirectory(), 'file');
    writeFileSync(path, bytes);
    return path;
  };
  const codeOf = (path: string): string => {
    try {
      assert.ok(new Opened(path));
    } catch (e) {
      assert.ok(e instanceof ElfError && e.message.includes(path), String(e));
      return e.code;
    }
    return 'ok';
  };
  void it('of a 32-bit program is refused by name', () => {
    const bytes = readFileSync('/bin/true');
    bytes[4] = 1; // EI_CLASS: ELFCLASS32
    assert.equal(codeOf(make(bytes)), 'elf-32-bit');
  });
  void it('that is a script, a text or nothing is refused', () => {
    for (const text of ['#!/bin/sh\n', 'hello', '']) assert.equal(codeOf(make(Buffer.from(text))), 'not-elf');
  });
});
