import { test } from 'node:test';
import assert from 'node:assert/strict';
import iced from 'iced-x86';
import { asAddress } from '#uprobe/base/address.js';
import { SLOT_SIZE, type Displaced, type SlotTemplate } from '#uprobe/arch/arch.js';
import { bindSlot, stopAt } from '#uprobe/arch/slot.js';
import { x64 } from '#uprobe/arch/x64/x64.js';
import { Random } from './helpers/random.js';
import { generators } from './helpers/x64-generate.js';

const site = asAddress(0x40_1000);
const slot = asAddress(0x50_0000);
const bytesOf = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text.replaceAll(' ', ''), 'hex'));
const displace = (text: string): Displaced => x64.displace({ address: site, bytes: bytesOf(text) });

function templateOf(text: string): SlotTemplate {
  const displaced = displace(text);
  assert.ok(displaced.ok, `${text} is refused: ${JSON.stringify(displaced)}`);
  return displaced.template;
}

/** What is in the slot, as text, up to `n` instructions. */
function slotText(text: string, n: number): string[] {
  const code = bindSlot(templateOf(text), site, slot) ?? new Uint8Array();
  const found: string[] = [];
  for (let at = 0; found.length < n;) {
    const instruction = x64.decode(code.subarray(at), asAddress(slot + at));
    assert.ok(instruction);
    found.push(x64.format(instruction));
    at += instruction.bytes.length;
  }
  return found;
}

const begun = { at: 0, resume: 0, undoSp: 0 };

test('an instruction that knows nothing of its place is copied, and jumps back', () => {
  assert.deepEqual(slotText('4889e5', 2), ['mov rbp,rsp', 'jmp 0x401003']);
  assert.deepEqual(templateOf('4889e5').stops, [begun, { at: 3, resume: 3, undoSp: 0 }]);
});

test('an operand relative to rip is pointed at what it meant, also with an immediate behind it', () => {
  const named = (text: string): unknown => {
    const { rel32 } = templateOf(text);
    return rel32[0];
  };
  // The operand is 0x100 behind the instruction.
  assert.deepEqual(named('488b05 00010000'), { at: 3, end: 7, delta: 7 + 0x100 });
  assert.deepEqual(named('c705 00010000 01000000'), { at: 2, end: 10, delta: 10 + 0x100 });
  assert.deepEqual(named('c5fe6f05 00010000'), { at: 4, end: 8, delta: 8 + 0x100 }); // vmovdqu ymm0,[rip+…]
  assert.deepEqual(named('62f17c482805 00010000'), { at: 6, end: 10, delta: 10 + 0x100 }); // vmovaps zmm0,[rip+…]
  assert.deepEqual(named('62f37d482505 00010000 07'), { at: 6, end: 11, delta: 11 + 0x100 }); // vpternlogd …,7
  assert.deepEqual(named('8fe878c005 00010000 03'), { at: 5, end: 10, delta: 10 + 0x100 }); // vprotb xmm0,[rip+…],3
});

test('jumps go to their targets', () => {
  assert.deepEqual(slotText('eb10', 1), ['jmp 0x401012']);
  assert.deepEqual(slotText('e9 00010000', 1), ['jmp 0x401105']);
  assert.deepEqual(slotText('74f0', 2), ['je 0x400ff2', 'jmp 0x401002']);
  assert.deepEqual(slotText('0f85 00010000', 2), ['jne 0x401106', 'jmp 0x401006']);
  assert.deepEqual(templateOf('eb10').stops, [begun]);
  assert.deepEqual(templateOf('74f0').stops, [begun, { at: 6, resume: 2, undoSp: 0 }]);
});

test('loop and jrcxz choose between two jumps', () => {
  assert.deepEqual(slotText('e2f0', 3), ['loop 0x500007', 'jmp 0x401002', 'jmp 0x400ff2']);
  assert.deepEqual(slotText('67e310', 3), ['jecxz 0x500008', 'jmp 0x401003', 'jmp 0x401013']);
  const done = { at: 2, resume: 2, undoSp: 0 };
  assert.deepEqual(templateOf('e2f0').stops, [begun, done, { at: 7, resume: undefined, undoSp: 0 }]);
});

test('a call pushes the return address of the program', () => {
  assert.deepEqual(slotText('e8 fb0f0000', 2), ['push qword ptr [rip+0x5]', 'jmp 0x402000']);
  const template = templateOf('e8 fb0f0000');
  const code = bindSlot(template, site, slot) ?? new Uint8Array();
  assert.equal(Buffer.from(code).readBigUInt64LE(11), BigInt(site + 5));
  assert.deepEqual(template.stops, [begun, { at: 6, resume: undefined, undoSp: 8 }]);
});

test('a call through memory finds its operand after the push', () => {
  const jumpOf = (text: string): string | undefined => slotText(text, 2)[1];
  assert.equal(jumpOf('ffd0'), 'jmp rax');
  assert.equal(jumpOf('41ffd4'), 'jmp r12');
  assert.equal(jumpOf('ff5008'), 'jmp qword ptr [rax+0x8]');
  assert.equal(jumpOf('ff1424'), 'jmp qword ptr [rsp+0x8]');
  assert.equal(jumpOf('ff542478'), 'jmp qword ptr [rsp+0x80]');
  assert.equal(jumpOf('ff54cc10'), 'jmp qword ptr [rsp+rcx*8+0x18]');
  assert.equal(jumpOf('41ff542408'), 'jmp qword ptr [r12+0x8]');
  assert.equal(jumpOf('64ff1425 10000000'), 'jmp qword ptr fs:[0x10]');
  assert.deepEqual(templateOf('ff15 00010000').rel32, [{ at: 8, end: 12, delta: 6 + 0x100 }]);
});

test('returns and indirect jumps need no way back', () => {
  for (const text of ['c3', 'f3c3', 'c21000', 'ffe0', '3effe0', 'ff2425 00100000', '66c3']) {
    const template = templateOf(text);
    assert.deepEqual(template.code, bytesOf(text));
    assert.deepEqual(template.stops, [begun]);
  }
});

test('only instructions that push the flags are said to', () => {
  assert.equal(templateOf('9c').pushesFlags, true);
  assert.equal(templateOf('669c').pushesFlags, true);
  assert.equal(templateOf('0f9cc0').pushesFlags, false); // setl
  assert.equal(templateOf('50').pushesFlags, false);
});

test('a 66 prefix that REX.W overrides leaves a branch unambiguous', () => {
  assert.deepEqual(slotText('666648e8 00000000', 2)[1], 'jmp 0x401008'); // as thread-local storage is called for
});

test('a system call leaves its own address in rcx', () => {
  assert.deepEqual(slotText('0f05', 3), ['syscall', 'mov rcx,0x401002', 'jmp 0x401002']);
  const template = templateOf('0f05');
  assert.equal(template.entersKernel, true);
  assert.deepEqual(template.stops, [
    begun,
    { at: 2, resume: 2, undoSp: 0, afterSyscall: true },
    { at: 12, resume: 2, undoSp: 0, silent: true, afterSyscall: true },
  ]);
  assert.deepEqual(slotText('480f05', 3), ['syscall', 'mov rcx,0x401003', 'jmp 0x401003']);
});

test('what traps later than others has a nop before its jump back', () => {
  for (const text of ['9d', '669d', '8ed0', '488ed0', '8e10', '0fb200', 'cd80']) {
    const { code, stops, length } = templateOf(text);
    assert.deepEqual([...code.subarray(0, length + 2)], [...bytesOf(text), 0x90, 0xe9]);
    const silent = { at: length + 1, resume: length, undoSp: 0, silent: true };
    assert.deepEqual(stops, [begun, { at: length, resume: length, undoSp: 0 }, silent]);
  }
  assert.equal(templateOf('9d').loadsFlags, true);
  assert.equal(templateOf('8ed0').loadsFlags, undefined);
  assert.equal(templateOf('cd80').entersKernel, true);
  assert.equal(templateOf('cd03').raisesTrap, true);
});

test("the program's own breakpoints are copied", () => {
  for (const text of ['cc', 'f1']) {
    assert.equal(templateOf(text).raisesTrap, true);
    assert.deepEqual(templateOf(text).code.subarray(0, 1), bytesOf(text));
  }
});

test('far returns and jumps and iret go where they go from anywhere', () => {
  for (const text of ['cb', 'ca1000', '48cb', 'cf', '48cf', '48ff28', 'f30f01ec', '0f34', '66ff20']) {
    const template = templateOf(text);
    assert.deepEqual(template.code, bytesOf(text));
    assert.deepEqual(template.stops, [begun]);
  }
  assert.deepEqual(
    ['cf', '48cf', 'cb'].map((text) => templateOf(text).loadsFlags),
    [true, true, undefined],
  );
  assert.deepEqual(templateOf('48ff2d 00010000').rel32, [{ at: 3, end: 7, delta: 7 + 0x100 }]);
});

test('a transaction that aborts goes to its fallback', () => {
  assert.deepEqual(slotText('c7f8 00010000', 2), ['xbegin 0x401106', 'jmp 0x401006']);
  assert.deepEqual(slotText('66c7f8 f0ff', 2), ['xbegin 0x400ff5', 'jmp 0x401005']);
});

test('privileged instructions fault where they are', () => {
  for (const text of ['f4', 'fa', 'e460', 'ec', '6c', 'f36e', '0f30', '0f20c0', '0f01f8', '0f07', '0f35'])
    assert.deepEqual(templateOf(text).code.subarray(0, bytesOf(text).length), bytesOf(text));
});

test('what can run nowhere else is stepped in its own place', () => {
  const branches = ['66e800000000', '66eb00', '667400', '660f8400000000', '66e200', '66ffd0'];
  const eipRelative = ['678b0500000000', '67ff1500000000', '67ff2500000000'];
  const throughStack = ['ffd4', 'ff5424f8', 'ff5424f1', 'ff5424ff', 'ff9424f8ffffff', 'ff9424f9ffff7f'];
  for (const text of [...branches, ...eipRelative, ...throughStack, 'ff18', '48ff18']) {
    const template = templateOf(text);
    assert.equal(template.inPlace, true, text);
    assert.equal(template.length, bytesOf(text).length);
    assert.deepEqual([template.code.length, template.stops], [0, [begun]]);
  }
});

test('only calls are said to be calls', () => {
  for (const text of ['e800000000', 'ffd0', 'ff15 00010000']) assert.equal(templateOf(text).calls, true);
  for (const text of ['e900000000', 'ffe0', 'c3', '0f05']) assert.equal(templateOf(text).calls, undefined);
});

test('every refusal is made by name, with its reason', () => {
  const refused: Readonly<Record<string, readonly string[]>> = {
    'not-an-instruction': ['06', 'f090', '4889', '909090', '', '0f04'],
    transactional: ['c6f800', '0f01d5'],
    'enclave-instruction': ['0f01d7'],
  };
  for (const [code, all] of Object.entries(refused)) {
    for (const text of all) {
      const displaced = displace(text);
      assert.equal(displaced.ok ? 'displaced' : displaced.refusal.code, code, text);
      assert.ok(!displaced.ok && /^[a-z].*[^.]$/.test(displaced.refusal.reason));
    }
  }
});

test('what looks like the exceptional is copied and jumps back', () => {
  const fine = [
    '8ed8',
    '0fa9',
    'c6c000',
    'c7c000000000',
    'ff30',
    'ffc0',
    '0f01d0',
    '0f0b',
    '0fa2',
    '0f31',
    'f30f1efa',
    '0f3801c1',
    '660f3805c1',
    'c5f877',
    'a1 0000000000000000',
  ];
  for (const text of fine) {
    const { code, inPlace, stops } = templateOf(text);
    assert.deepEqual([...code].slice(0, -4), [...bytesOf(text), 0xe9], text);
    assert.deepEqual([inPlace, stops.length], [undefined, 2], text);
  }
  for (const text of ['41ffd4', 'ff5424f0', 'ff542400'])
    assert.equal(templateOf(text).inPlace, undefined, text);
});

test('a field that does not reach leaves the slot unbound', () => {
  const call = templateOf('e8 00000000');
  const far = (distance: number): boolean =>
    bindSlot(call, asAddress(0x5_0000_0000 + distance), asAddress(0x5_0000_0000)) !== undefined;
  assert.equal(far(0x7fff_fff0), true);
  assert.equal(far(0x8000_0006), false);
  assert.equal(far(-0x7fff_fff0), true);
  assert.equal(far(-0x8000_0010), false);
  assert.ok(bindSlot(templateOf('c3'), asAddress(0x5_0000_0000), asAddress(0))); // has none
});

test('binding a template leaves it as it was', () => {
  const template = templateOf('e8 00000000');
  const before = Uint8Array.from(template.code);
  bindSlot(template, site, slot);
  assert.deepEqual(template.code, before);
});

test('a thread is stopped at the stops of its slot and nowhere else', () => {
  const template = templateOf('e8 00000000');
  assert.equal(stopAt(template, 0)?.resume, 0);
  assert.equal(stopAt(template, 6)?.undoSp, 8);
  for (const at of [-1, 1, 5, 7, 11, 100]) assert.equal(stopAt(template, at), undefined);
});

/** What runs out of line in other words: its prefixes dropped, or its fallback relocated. */
const NOT_COPIED = /\b(syscall|int )|^xbegin/;
/** Returns from the kernel, which fault where they are. */
const FAULTS = /\b(sys(ret|exit)|rsm$)/;

/** Whether the template is the instruction, but for a displacement from rip, and a jump back. */
function isCopy(template: SlotTemplate, bytes: Uint8Array, hasOperand: boolean): boolean {
  const { code, rel32, stops, length } = template;
  const operand = hasOperand ? rel32[0]?.at : undefined;
  const isSame = (byte: number, i: number): boolean =>
    byte === code[i] || (operand !== undefined && i >= operand && i < operand + 4);
  const nop = stops.at(-1)?.silent && code[length] === 0x90 ? 1 : 0;
  const isBack = code.length === length + nop + 5 && rel32.at(-1)?.delta === length;
  const end = length + nop;
  return isBack && bytes.every(isSame) && rel32.length === (hasOperand ? 2 : 1) && stops.at(-1)?.at === end;
}

test('exactly the instructions that do not change the flow are copied', () => {
  const random = new Random(11);
  const all = Object.values(generators);
  const instruction = new iced.Instruction();
  for (let i = 0; i < 60_000; i++) {
    const decoded = x64.decode(Uint8Array.from(all[i % all.length]?.(random) ?? []), site);
    if (decoded === undefined) continue;
    const decoder = new iced.Decoder(64, decoded.bytes, iced.DecoderOptions.None);
    decoder.decodeOut(instruction);
    decoder.free();
    const { flowControl, isIpRelMemoryOperand } = instruction;
    const goesOn =
      flowControl === iced.FlowControl.Next ||
      flowControl === iced.FlowControl.Exception ||
      flowControl === iced.FlowControl.Interrupt;
    const displaced = x64.displace(decoded);
    const text = x64.format(decoded);
    if (!displaced.ok) {
      assert.match(displaced.refusal.code, /^(transactional|enclave-instruction)$/, text);
    } else if (displaced.template.inPlace) {
      // everything else that goes on is position-independent but for an operand that is relative to eip
      assert.ok(!goesOn || text.includes('[eip'), text);
    } else if (!NOT_COPIED.test(text)) {
      assert.ok(displaced.template.code.length <= SLOT_SIZE, text);
      const isCopied = isCopy(displaced.template, decoded.bytes, isIpRelMemoryOperand);
      assert.equal(isCopied, goesOn || FAULTS.test(text), text);
    }
  }
  instruction.free();
});
