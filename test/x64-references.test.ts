import { test } from 'node:test';
import assert from 'node:assert/strict';
import { asAddress } from '#uprobe/base/address.js';
import { x64 } from '#uprobe/arch/x64/x64.js';

const at = asAddress(0x40_1000);

/** What the instruction of these bytes (in hexadecimal) refers to. */
function referenceOf(hex: string): unknown {
  const instruction = x64.decode(Uint8Array.from(Buffer.from(hex.replaceAll(' ', ''), 'hex')), at);
  assert.ok(instruction !== undefined, hex);
  assert.equal(instruction.bytes.length, hex.replaceAll(' ', '').length / 2, `${hex} is one instruction`);
  return x64.reference(instruction);
}

const address = (kind: string, to: number): unknown => ({ kind, address: to });

test('an address is made relative to the instruction pointer or from nothing', () => {
  assert.deepEqual(referenceOf('48 8d 05 f9 0f 00 00'), address('address', 0x40_2000)); // lea rax,[rip+0xff9]
  assert.deepEqual(referenceOf('4c 8d 3d f9 ff ff ff'), address('address', 0x40_1000)); // lea r15,[rip-7]
  assert.deepEqual(referenceOf('48 8d 04 25 34 12 40 00'), address('address', 0x40_1234)); // lea rax,ds:0x401234
  assert.deepEqual(referenceOf('b8 34 12 40 00'), address('immediate', 0x40_1234)); // mov eax,0x401234
  assert.deepEqual(referenceOf('41 bf 34 12 40 80'), address('immediate', 0x8040_1234)); // mov r15d,0x80401234
  assert.deepEqual(referenceOf('48 c7 c0 34 12 40 00'), address('immediate', 0x40_1234)); // mov rax,0x401234
  assert.deepEqual(referenceOf('48 c7 45 f8 34 12 40 00'), address('immediate', 0x40_1234)); // mov [rbp-8],0x401234
  assert.deepEqual(
    referenceOf('48 b8 34 12 40 00 7f 00 00 00'), // movabs rax,0x7f00401234
    address('immediate', 0x7f_0040_1234),
  );
});

test('a pointer is loaded from a word', () => {
  assert.deepEqual(referenceOf('48 8b 05 f9 0f 00 00'), address('pointer', 0x40_2000)); // mov rax,[rip+0xff9]
  assert.deepEqual(referenceOf('48 0f 44 05 f8 0f 00 00'), address('pointer', 0x40_2000)); // cmove rax,[rip+0xff8]
  assert.equal(referenceOf('8b 05 fa 0f 00 00'), undefined, '32 bits are no pointer');
});

test('a jump goes where it says', () => {
  assert.deepEqual(referenceOf('eb fe'), address('jump', 0x40_1000));
  assert.deepEqual(referenceOf('75 10'), address('jump', 0x40_1012));
  assert.deepEqual(referenceOf('e9 fb 0f 00 00'), address('jump', 0x40_2000));
  assert.deepEqual(referenceOf('0f 84 fa 0f 00 00'), address('jump', 0x40_2000));
});

test('what is called or jumped to through a register may be anything', () => {
  for (const hex of ['ff d0', 'ff 90 28 03 00 00', '41 ff d3', 'ff e0', '3e ff e0', 'ff 25 fa 0f 00 00'])
    assert.deepEqual(referenceOf(hex), { kind: 'unknown' }, hex);
  assert.equal(referenceOf('ff 15 fa 0f 00 00'), undefined, 'call [rip+…]: another module, which comes back');
});

test('other instructions refer to nothing', () => {
  for (const hex of [
    'c3',
    'e8 fb 0f 00 00', // call: what is called is another function
    '48 8d 04 08', // lea rax,[rax+rcx]
    '48 8d 45 f8', // lea rax,[rbp-8]
    '67 48 8d 05 f8 0f 00 00', // relative to eip
    '66 b8 34 12', // mov ax,0x1234
    '48 8b 04 24', // mov rax,[rsp]
    '48 8d 04 24', // lea rax,[rsp]
    'c5 fe 6f 05 f8 0f 00 00', // vmovdqu ymm0,[rip+…]
    'ff 05 fa 0f 00 00', // inc [rip+…]
  ])
    assert.equal(referenceOf(hex), undefined, hex);
});

test('an address outside of what a program can have is none', () => {
  assert.equal(referenceOf('48 b8 ff ff ff ff ff ff ff ff'), undefined);
  assert.equal(referenceOf('48 8d 05 00 00 00 80'), undefined, 'below zero');
});
