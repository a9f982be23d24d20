/**
 * Instructions run out of line do what they do in place: registers, flags, vector state, memory, signal, address.
 * UPROBE_SLOT_ROUNDS=100 runs a hundred times as many, UPROBE_SLOT_SEED others.
 */
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { x64 } from '#uprobe/arch/x64/x64.js';
import { asAddress } from '#uprobe/base/address.js';
import { Random } from './helpers/random.js';
import { generators, type Generator } from './helpers/x64-generate.js';
import * as slots from './helpers/x64-slots.js';
import { textOf } from './helpers/x64-text.js';

const rounds = Number(process.env['UPROBE_SLOT_ROUNDS'] ?? 1);
const seed = Number(process.env['UPROBE_SLOT_SEED'] ?? 1);

/**
 * Not compared: what gives other results each time (time, random numbers, the processor's own state), hypercalls,
 * and xsave and xrstor, whose header says what was in use since the last context switch.
 */
function isComparable({ instruction }: slots.Case): boolean {
  const name = x64.format(instruction);
  const excluded =
    /^(rdtsc|rdtscp|rdpmc|rdrand|rdseed|cpuid|xsave|xrstor|xgetbv|monitor|mwait|vm[a-z]*call|rdpru)/;
  return !excluded.test(name) && !isShortLoop(instruction.bytes) && !enters(instruction);
}

/** Whether it may jump onto or into itself: it would not end, or would run what a breakpoint replaces. */
const isShortLoop = (bytes: Uint8Array): boolean => {
  const last = (bytes.at(-1) ?? 0) - 256;
  return (
    last >= -bytes.length && last < 0 && /^(.{2})*(7.|eb|e[0-3])..$/.test(Buffer.from(bytes).toString('hex'))
  );
};
const enters = ({ bytes }: { bytes: Uint8Array }): boolean =>
  bytes.length > 12 && bytes[0] === 0x0f && bytes[1] === 1;

function casesOf(random: Random, generate: Generator, count: number): slots.Case[] {
  const cases: slots.Case[] = [];
  for (let tries = 0; cases.length < count && tries < 20 * count; tries++) {
    const regs = slots.someRegisters(random);
    const bytes = generate(random);
    // Counters small enough to be reached, and the 32-bit ones' edge.
    if (random.once(2)) regs[slots.RCX] = random.pick([0n, 1n, 2n, 5n, 1n << 32n, (1n << 32n) + 1n]);
    const made = slots.caseOf(random, bytes, regs);
    if (made && isComparable(made)) cases.push(made);
  }
  return cases;
}

function expectAgreement(cases: readonly slots.Case[]): void {
  const replies = slots.runCases(cases);
  const wrong = cases.flatMap((c, i) => {
    const found = slots.differences(c, replies[i] as slots.Reply);
    return found.length > 0 ? [`${slots.nameOf(c)}: ${found.join('; ')}`] : [];
  });
  const shown = wrong.slice(0, 8).join('\n');
  assert.equal(wrong.length, 0, `${wrong.length} of ${cases.length} differ (seed ${seed}):\n${shown}`);
}

for (const [i, [name, generate]] of Object.entries(generators).entries()) {
  test(`${name} do in a slot what they do in place`, () => {
    const cases = casesOf(new Random(1000 * seed + i), generate, 150 * rounds);
    assert.ok(cases.length >= 20, `only ${cases.length} cases`);
    expectAgreement(cases);
  });
}

test('instructions of bash and libc do in a slot what they do in place', () => {
  const random = new Random(seed);
  const cases = ['/bin/bash', '/lib/x86_64-linux-gnu/libc.so.6'].flatMap((path) => {
    const { code } = textOf(readFileSync(path));
    const { starts } = x64.boundaries(code, asAddress(0));
    return casesOf(
      random,
      () => pointedAtData(random, code, random.pick([...starts.subarray(0, 100_000)])),
      1000 * rounds,
    );
  });
  expectAgreement(cases);
});

/** The instruction at `at`; where it is relative to rip, its operand moved to where there is data here. */
function pointedAtData(random: Random, code: Uint8Array, at: number): number[] {
  const bytes = [...code.subarray(at, at + 15)];
  const instruction = x64.decode(Uint8Array.from(bytes), asAddress(0));
  const displaced = instruction && x64.displace(instruction);
  const field = displaced?.ok ? displaced.template.rel32[0] : undefined;
  const isOperand =
    field !== undefined &&
    field.at < (instruction?.bytes.length ?? 0) &&
    / ptr |\[/.test(x64.format(instruction!));
  if (isOperand) new DataView(Uint8Array.from(bytes).buffer);
  if (isOperand) {
    const to = slots.DATA - slots.SITE - 0xc00 + random.below(slots.SIZE);
    [0, 8, 16, 24].forEach((shift, i) => (bytes[field.at + i] = (to >> shift) & 255));
  }
  return bytes;
}
