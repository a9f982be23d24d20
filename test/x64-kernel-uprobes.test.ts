import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { asAddress } from '#uprobe/base/address.js';
import { kernelHandling } from '#uprobe/arch/x64/kernel-uprobes.js';
import { x64 } from '#uprobe/arch/x64/x64.js';
import { refuseInstruction } from '#uprobe/engines/kernel/instructions.js';
import { unavailable } from '#uprobe/engines/kernel/machine.js';
import { LINK_CALL, linkDirectly, loadProgram, prepareLink } from '#uprobe/linux/bpf.js';
import { closeFd } from '#uprobe/linux/fds.js';
import { SyscallError } from '#uprobe/linux/syscall-error.js';
import { compileFixture, temporaryDirectory } from './helpers/compile.js';

const SLOT = 16;
/** ENOEXEC: it cannot decode it. ENOTSUPP: it will not have it. */
const REFUSALS = [8, 524];

/** Every opcode of one and two bytes with some operands, and some with every prefix. */
function* everyInstruction(): Generator<number[]> {
  const modrms = [0xc0, 0xc8, 0xd0, 0xd8, 0xe8, 0xf8, 0x00, 0x05, 0x18];
  const opcodes = Array.from({ length: 256 }, (_, i) => i);
  for (const opcode of opcodes)
    for (const modrm of modrms)
      for (const escape of [[], [0x0f]]) yield [...escape, opcode, modrm, 0, 0, 0, 0, 0, 0];
  for (const prefix of [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x48])
    for (const opcode of [0x01, 0x50, 0x74, 0x8b, 0x90, 0xc3, 0xe8, 0xff])
      yield [prefix, opcode, 0xc0, 0, 0, 0, 0, 0, 0];
  for (const opcode of opcodes)
    for (const vex of [
      [0xc5, 0xf8],
      [0xc5, 0xf9],
      [0xc5, 0xfa],
      [0xc4, 0xe2, 0x79],
      [0xc4, 0xe3, 0x79],
      [0x62, 0xf1, 0x7d, 0x48],
      [0x8f, 0xe8, 0x78],
    ])
      // prettier-ignore
      yield [...vex, opcode, 0xc1, 0, 0, 0, 0];
  yield* [[0xc5, 0xf8, 0x77], [0xc4, 0xe2, 0x79, 0x18, 0], [0x62, 0xf1, 0x7c, 0x48, 0x28, 0xc1], [0xf3, 0x0f, 0x1e, 0xfa]]; // prettier-ignore
}

const at0 = asAddress(0);
const decoded = [...everyInstruction()]
  .map((bytes) => x64.decode(Uint8Array.from([...bytes, ...Array<number>(15).fill(0x90)]), at0))
  .filter((instruction) => instruction !== undefined);

void describe('what the kernel does with an instruction', () => {
  const code = (...bytes: number[]): string | undefined => {
    const instruction = x64.decode(Uint8Array.from(bytes), at0)!;
    return refuseInstruction({ instruction, template: undefined, refusal: { code: '', reason: '' } })?.code;
  };
  void it('is refusing it, or breaking the program: both are refused', () => {
    assert.equal(code(0xf0, 0x48, 0xff, 0x00), 'kernel-refuses-instruction'); // lock inc qword [rax]
    assert.equal(code(0x8e, 0xd0), 'kernel-refuses-instruction'); // mov ss, eax
    assert.equal(code(0x0f, 0x05), 'kernel-breaks-instruction'); // syscall
    assert.equal(code(0x9c), 'kernel-breaks-instruction'); // pushf
    assert.equal(code(0xc5, 0xf8, 0x28, 0x05, 0, 0, 0, 0), 'kernel-breaks-instruction'); // vmovaps xmm0, [rip]
    assert.equal(code(0xf3, 0xa4), 'kernel-breaks-instruction'); // rep movsb
    assert.equal(code(0x0f, 0x1f, 0x44, 0, 0), 'kernel-breaks-instruction'); // nop, not at an entry
    assert.equal(code(0xc5, 0xfa, 0x6f, 0x00), 'kernel-refuses-instruction'); // vmovdqu xmm0, [rax]
    assert.equal(code(0xc5, 0xf8, 0x77), 'kernel-breaks-instruction'); // vzeroupper
    assert.equal(code(0xa4), undefined); // movsb
    assert.equal(code(0xc5, 0xf8, 0x28, 0xc1), undefined); // vmovaps xmm0, xmm1
    assert.equal(code(0x55), undefined); // push rbp
  });
});

void describe('the kernel of this machine', { skip: unavailable()?.reason ?? false }, () => {
  const file = join(temporaryDirectory(), 'instructions.bin');
  let mapper: ChildProcess;
  before(async () => {
    const bytes = Buffer.alloc(decoded.length * SLOT + 4096, 0x90);
    decoded.forEach((instruction, i) => bytes.set(instruction.bytes, i * SLOT));
    writeFileSync(file, bytes);
    mapper = spawn(compileFixture('code-mapper'), [file], { stdio: ['pipe', 'pipe', 'inherit'] });
    await once(mapper.stdout!, 'data');
  });
  after(async () => {
    mapper.stdin!.end();
    await once(mapper, 'exit');
  });

  void it('takes what we say it takes, and nothing else', () => {
    // mov r0, 0; exit
    const nothing = Uint8Array.of(0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0);
    const program = loadProgram({ instructions: nothing, kind: 'entry', sleeps: false }, 'uprobe_test');
    const attach = (numbers: readonly number[]): number =>
      linkDirectly(
        prepareLink({
          program,
          kind: 'entry',
          path: file,
          offsets: numbers.map((n) => n * SLOT),
          cookies: numbers.map(() => 0n),
          pid: mapper.pid!,
        }),
        LINK_CALL,
      );
    const wrong: string[] = [];
    const say = (n: number, what: string): void =>
      void wrong.push(
        `${x64.format(decoded[n]!)} (${Buffer.from(decoded[n]!.bytes).toString('hex')}): ${what}`,
      );
    const refuses = (n: number): boolean => kernelHandling(decoded[n]!).does === 'refuses';
    const numbers = [...decoded.keys()];
    for (const n of numbers.filter(refuses)) {
      try {
        closeFd(attach([n]));
        say(n, 'is taken');
      } catch (e) {
        if (!(e instanceof SyscallError && REFUSALS.includes(e.errno))) say(n, String(e));
      }
    }
    // All at once; one by one, or rather half by half, only where that fails: a link takes milliseconds to go.
    const look = (some: readonly number[]): void => {
      try {
        closeFd(attach(some));
      } catch (e) {
        if (some.length === 1) return say(some[0]!, String(e));
        look(some.slice(0, some.length / 2));
        look(some.slice(some.length / 2));
      }
    };
    look(numbers.filter((n) => !refuses(n)));
    closeFd(program);
    assert.deepEqual(wrong, []);
    assert.ok(numbers.length > 2000 && numbers.filter(refuses).length > 100);
  });
});
