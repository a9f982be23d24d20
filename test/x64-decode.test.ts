import { test } from 'node:test';
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { asAddress } from '#uprobe/base/address.js';
import { plainLength } from '#uprobe/arch/x64/plain-length.js';
import { withExports } from '#uprobe/arch/x64/wasm-exports.js';
import { x64 } from '#uprobe/arch/x64/x64.js';
import { Random } from './helpers/random.js';
import { sectionsOf } from './helpers/x64-text.js';

const here = asAddress(0x40_1000);
const decode = (...bytes: number[]): ReturnType<typeof x64.decode> =>
  x64.decode(Uint8Array.from(bytes), here);

/** Offsets of the instructions objdump sees. */
function objdumpStarts(path: string, section: { name: string; address: number }, length: number): number[] {
  const range = [`--start-address=${section.address}`, `--stop-address=${section.address + length}`];
  const args = ['-dw', '--no-show-raw-insn', '-j', section.name, ...range, path];
  const { stdout, status } = spawnSync('objdump', args, { encoding: 'latin1', maxBuffer: 1 << 30 });
  assert.equal(status, 0, 'objdump must run (node scripts/test-tools.mjs says how to get it)');
  return [...stdout.matchAll(/^ *([0-9a-f]+):\t/gm)].map(
    (m) => Number.parseInt(m[1] ?? '', 16) - section.address,
  );
}

for (const path of ['/bin/bash', '/lib/x86_64-linux-gnu/libc.so.6', process.execPath]) {
  test(`instructions of ${path} start where objdump says`, () => {
    for (const section of sectionsOf(readFileSync(path))) {
      const code = section.code.subarray(0, 1_500_000);
      const { starts, end } = x64.boundaries(code, asAddress(section.address));
      const theirs = objdumpStarts(path, section, code.length);
      // Where the part read ends within an instruction, objdump prints what there is of it.
      if (end < code.length)
        assert.ok(end > code.length - x64.maxInstruction, `${section.name}: ends at ${end}`);
      assert.deepEqual(
        [...starts],
        theirs.filter((start) => start < end),
        section.name,
      );
    }
  });
}

test('the short way to the length of an instruction is right, and stops where bytes are missing', () => {
  let known = 0;
  for (const rex of [undefined, 0x40, 0x41, 0x48, 0x4f])
    for (let opcode = 0; opcode < 256; opcode++)
      for (let modrm = 0; modrm < 256; modrm++) {
        const start = rex === undefined ? [opcode, modrm] : [rex, opcode, modrm];
        const bytes = Uint8Array.from([
          ...start,
          (modrm * 37 + opcode) & 0xff,
          1,
          2,
          3,
          4,
          5,
          6,
          7,
          8,
          9,
          10,
        ]);
        const length = plainLength(bytes);
        if (length === undefined) continue;
        known++;
        const { starts, end } = x64.boundaries(bytes, here);
        assert.equal(starts[1] ?? end, length, Buffer.from(bytes).toString('hex'));
        assert.equal(plainLength(bytes.subarray(0, length - 1)), undefined);
      }
  assert.ok(known > 50_000, `${known}`);
  assert.equal(plainLength(Uint8Array.of(0xf3, 0x0f, 0x1e, 0xfa)), 4);
  assert.equal(plainLength(Uint8Array.of(0x48, 0x8d, 0xc0)), undefined); // lea of a register
});

test('boundaries do not depend on how the code is cut into windows', () => {
  const nops = new Uint8Array(200_003).fill(0x90);
  const { starts, end } = x64.boundaries(nops, here);
  assert.equal(end, nops.length);
  assert.deepEqual([...starts.subarray(-3)], [200_000, 200_001, 200_002]);
  // mov qword ptr [rsp+0],0 in twelve bytes: no window ends with one.
  const unit = [0x48, 0xc7, 0x84, 0x24, 0, 0, 0, 0, 0, 0, 0, 0];
  const movs = Uint8Array.from({ length: 12 * 20_000 }, (_, i) => unit[i % 12] ?? 0);
  const expected = Array.from({ length: 20_000 }, (_, i) => 12 * i);
  assert.deepEqual([...x64.boundaries(movs, here).starts], expected);
});

test('boundaries say where decoding failed', () => {
  const at = (...bytes: number[]): unknown => {
    const { starts, end } = x64.boundaries(Uint8Array.from(bytes), here);
    return { starts: [...starts], end };
  };
  assert.deepEqual(at(), { starts: [], end: 0 });
  assert.deepEqual(at(0x90, 0xc3), { starts: [0, 1], end: 2 });
  assert.deepEqual(at(0x90, 0x06, 0x90), { starts: [0], end: 1 }); // push es: none in 64-bit mode
  assert.deepEqual(at(0x90, 0xe8, 0, 0), { starts: [0], end: 1 }); // a call cut short
});

test('padding is what stands behind the last instruction and runs never', () => {
  const padding = (text: string): number => {
    const code = Uint8Array.from(Buffer.from(text.replaceAll(' ', ''), 'hex'));
    return x64.countPadding(code, x64.boundaries(code, here));
  };
  assert.equal(padding('50 58 c3'), 0);
  assert.equal(padding('50 58 c3 90 6690 0f1f8000000000 662e0f1f840000000000'), 4);
  assert.equal(padding('e900000000 cccccc'), 3);
  assert.equal(padding('ffe0 00000000'), 2); // jmp rax
  assert.equal(padding('c3 90 c3 90'), 1);
  assert.equal(padding('c3 f390'), 0); // pause
  assert.equal(padding('c3 4190'), 0); // xchg r8,rax
  assert.equal(padding('50 90 90'), 0); // runs on into what stands behind
  assert.equal(padding('90 90'), 0);
  assert.equal(padding(''), 0);
});

test('one instruction is decoded with exactly its bytes', () => {
  assert.deepEqual(decode(0x55, 0x48, 0x89, 0xe5), { address: here, bytes: Uint8Array.of(0x55) });
  assert.deepEqual(decode(0xf3, 0x0f, 0x1e, 0xfa)?.bytes.length, 4);
  assert.equal(decode(), undefined);
  assert.equal(decode(0x06), undefined);
  assert.equal(decode(0xf0, 0x90), undefined); // lock nop
  assert.equal(decode(0xe8, 0, 0, 0), undefined);
  assert.equal(decode(...Array.from({ length: 15 }, () => 0x66), 0x90), undefined); // 16 bytes
});

test('bytes cut short are no instruction, whatever was decoded before them', () => {
  for (const [...whole] of [
    [0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8],
    [0x62, 0xf1, 0x7c, 0x48, 0x28, 0x05, 0, 0, 0, 0],
  ]) {
    assert.equal(decode(...whole)?.bytes.length, whole.length);
    for (let n = 0; n < whole.length; n++) assert.equal(decode(...whole.slice(0, n)), undefined);
  }
});

test('the bytes of an instruction are its own, not a view of the file', () => {
  const file = Buffer.from([0x90, 0xc3, 0xc3]);
  const instruction = x64.decode(file, here);
  assert.equal(instruction?.bytes.buffer.byteLength, 1);
  file[0] = 0xcc;
  assert.deepEqual(instruction?.bytes, Uint8Array.of(0x90));
});

test('an instruction is written as assemblers write it', () => {
  const text = (...bytes: number[]): string => x64.format(decode(...bytes)!);
  assert.equal(text(0x48, 0x8b, 0x3d, 0x1c, 0x2f, 0, 0), 'mov rdi,[rip+0x2f1c]');
  assert.equal(text(0xe8, 0xfb, 0x0f, 0, 0), 'call 0x402000');
  assert.equal(text(0xc7, 0x45, 0xfc, 0xff, 0, 0, 0), 'mov dword ptr [rbp-0x4],0xff');
  assert.equal(text(0xf3, 0xa4), 'rep movsb [rdi],[rsi]');
  assert.equal(x64.format({ address: here, bytes: Uint8Array.of(0x06) }), '(bad)');
});

test('any bytes are decoded or refused, and decoding them again says the same', () => {
  const random = new Random(4);
  for (let i = 0; i < 20_000; i++) {
    const bytes = Uint8Array.from(random.bytes(random.below(18)));
    const instruction = x64.decode(bytes, here);
    if (instruction === undefined) continue;
    assert.ok(instruction.bytes.length <= bytes.length);
    assert.deepEqual(x64.decode(instruction.bytes, here), instruction);
    assert.notEqual(x64.format(instruction), '(bad)');
  }
});

test('a WebAssembly module keeps the exports asked for and no others', () => {
  // Two functions of type () -> (), exported as "a" and "b".
  const sections = '010401600000 0303020000 07090201610000016200 01'.replaceAll(' ', '');
  const module = Buffer.from(`0061736d01000000${sections}0a070202000b02000b`, 'hex');
  const kept = withExports(module, new Set(['b', 'c']));
  assert.equal(kept.toString('hex').includes('070501016200010a07'), true);
  assert.equal(kept.length, module.length - 4);
  const bare = Buffer.from('0061736d01000000', 'hex');
  assert.equal(withExports(bare, new Set(['b'])), bare);
  assert.throws(() => withExports(module.subarray(0, 24), new Set()), RangeError);
});
