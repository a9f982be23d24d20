/** BPF instructions are what LLVM makes of the same text. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import {
  Assembler,
  JumpTooFar,
  R0,
  R1,
  R2,
  R3,
  R6,
  R7,
  R9,
  R10,
  type Reg,
} from '#uprobe/arch/bpf/assembler.js';
import { disassemble } from '#uprobe/arch/bpf/disassemble.js';
import {
  ALU,
  HELPER,
  JUMP,
  type AluOperation,
  type Helper,
  type JumpOperation,
} from '#uprobe/arch/bpf/opcodes.js';
import { temporaryDirectory } from './helpers/compile.js';

function whyNoAssembler(): string | false {
  for (const program of ['clang', 'llvm-objcopy']) {
    const { status } = spawnSync(program, ['--version'], { stdio: 'ignore' });
    if (status !== 0) return `${program} is not installed`;
  }
  const { stdout } = spawnSync('clang', ['-print-targets'], { encoding: 'latin1' });
  return !stdout.includes('bpf') && 'this clang knows no BPF';
}

/** What LLVM's assembler makes of text. */
function assembled(lines: readonly string[]): Uint8Array {
  const directory = temporaryDirectory();
  const [source, object, code] = ['code.s', 'code.o', 'code.bin'].map((name) => join(directory, name)) as [
    string,
    string,
    string,
  ];
  writeFileSync(source, `.text\n${lines.join('\n')}\n`);
  execFileSync('clang', ['-target', 'bpf', '-mcpu=v3', '-c', source, '-o', object]);
  execFileSync('llvm-objcopy', ['-O', 'binary', '--only-section=.text', object, code]);
  return new Uint8Array(readFileSync(code));
}

const registers: readonly Reg[] = [R0, R1, R2, R6, R9];
const numbers = [0n, 1n, -1n, 63n, 0x7fff_ffffn, -0x8000_0000n];

/** What LLVM 14 can write. The rest (UNWRITTEN, stores of constants) runs in handler-bpf.test.ts. */
const UNWRITTEN: readonly string[] = ['mod', 'set'];
function everything(asm: Assembler<undefined>): void {
  for (const name of Object.keys(ALU) as AluOperation[]) {
    if (UNWRITTEN.includes(name)) continue;
    if (name === 'neg') {
      for (const to of registers) asm.neg(to);
      continue;
    }
    const isShift = name.endsWith('sh');
    for (const to of registers) {
      asm.alu(name, to, R7);
      asm.alu32(name, to, R7);
      for (const by of numbers) {
        if (isShift && (by < 0n || by > 31n)) continue;
        asm.alu(name, to, by);
        asm.alu32(name, to, by);
      }
    }
  }
  for (const value of [1n << 32n, -1n - (1n << 40n), 0x1234_5678_9abc_def0n, 0x8000_0000n])
    asm.load64(R3, value);
  for (const size of [1, 2, 4, 8] as const) {
    for (const offset of [0, 8, -8, 0x7ff8, -0x8000]) {
      asm.load(size, R2, R10, offset);
      asm.store(size, R10, offset, R6);
    }
  }
  for (const offset of [0, 56, -16]) asm.atomic('add', R1, offset, R2);
  const [back, forth] = [asm.label(), asm.label()];
  asm.place(back);
  for (const name of Object.keys(JUMP) as JumpOperation[]) {
    if (UNWRITTEN.includes(name)) continue;
    asm.jumpIf(name, R1, R2, forth);
    for (const by of numbers) asm.jumpIf(name, R6, by, back);
  }
  asm.place(forth);
  for (const name of Object.keys(HELPER) as Helper[]) asm.call(name);
  asm.exit();
}

/** Helpers have numbers in LLVM's text. */
const inNumbers = (line: string): string =>
  line.replace(/^call (\w+)$/, (_, name: Helper) => `call ${HELPER[name]}`);

void describe('BPF instructions', () => {
  void it('are encoded as by LLVM', { skip: whyNoAssembler() }, () => {
    const asm = new Assembler<undefined>();
    everything(asm);
    const code = asm.finish();
    const lines = disassemble(code);
    const theirs = assembled(lines.filter((line) => line !== '').map(inNumbers));
    assert.ok(code.length > 8 * 500);
    for (let at = 0; at < code.length; at += 8)
      assert.deepEqual(theirs.subarray(at, at + 8), code.subarray(at, at + 8), lines[at / 8]);
    assert.equal(theirs.length, code.length);
  });

  void it('that nothing leads to are left out', () => {
    const asm = new Assembler<string>();
    const [never, later] = [asm.label(), asm.label()];
    asm.jumpIf('eq', R1, 0n, later);
    asm.exit();
    asm.mov(R0, 1n);
    asm.loadMap(R1, 0);
    asm.jump(never);
    asm.place(never);
    asm.mov(R0, 2n);
    asm.place(later);
    asm.origin = 'here';
    asm.mov(R0, 3n);
    assert.deepEqual(disassemble(asm.finish()), ['if r1 == 0 goto +1', 'exit', 'r0 = 3']);
    assert.deepEqual(asm.references, []);
    assert.deepEqual(asm.origins, [undefined, undefined, 'here']);
  });

  void it('say where they want maps', () => {
    const asm = new Assembler<undefined>();
    asm.mov(R0, 0n);
    asm.loadMap(R1, 3);
    asm.loadMapValue(R2, 4, 72);
    assert.deepEqual(asm.references, [
      { at: 1, map: 3, offset: undefined },
      { at: 3, map: 4, offset: 72 },
    ]);
    assert.deepEqual(disassemble(asm.finish()), ['r0 = 0', 'r1 = map 0', '', 'r2 = map 0 + 72', '']);
  });

  void it('do not jump further than 16 bits reach, nor hold what 32 bits do not', () => {
    const asm = new Assembler<undefined>();
    const far = asm.label();
    asm.jumpIf('eq', R1, 0n, far);
    for (let i = 0; i < 0x7fff; i++) asm.mov(R0, 0n);
    asm.place(far);
    asm.mov(R0, 0n);
    assert.equal(asm.finish().length, 8 * (0x7fff + 2));
    const further = new Assembler<undefined>();
    const end = further.label();
    further.jump(end);
    further.place(end);
    further.jumpIf('eq', R1, 0n, end);
    for (let i = 0; i <= 0x8000; i++) further.mov(R0, 0n);
    further.jump(end);
    assert.throws(() => further.finish(), JumpTooFar);
    assert.throws(() => asm.alu('add', R0, 1n << 31n), RangeError);
    assert.throws(() => asm.load(8, R0, R1, 0x8000), RangeError);
  });
});
