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
 * What gives other results each time (time, random numbers, the processor's own state), hypercalls, and xsave and
 * xrstor, whose header says what was in use since the last context switch.
 */
const INCOMPARABLE =
  /\b(rdtsc|rdpmc|rdrand|rdseed|cpuid|rdpru|xsave|xrstor|xgetbv|monitor|mwait|vmcall|vmmcall|vmgexit)/;

function isComparable({ instruction, template }: slots.Case): boolean {
  // A branch onto itself need not end.
  const namesItself = template.rel32.some(({ delta }) => delta >= 0 && delta < template.length);
  return !namesItself && !INCOMPARABLE.test(x64.format(instruction));
}

/**
 * A call through memory reads its target before it pushes, its slot after: which of two faults comes differs, and
 * what is read where the return address goes (an index can lead there from rsp).
 */
function isPushSeen({ instruction, regs }: slots.Case): boolean {
  const text = x64.format(instruction);
  const hasNoStack = (regs[slots.RSP] ?? 0n) < BigInt(slots.STACK + 16);
  const mayReadBelow = /\[[er]sp\+[er]\w+(\*\d)?(-|\]|\+0x.\])/.test(text);
  return (hasNoStack || mayReadBelow) && /call .*\[/.test(text);
}

function casesOf(random: Random, generate: Generator, count: number): slots.Case[] {
  const cases: slots.Case[] = [];
  for (let tries = 0; cases.length < count && tries < 20 * count; tries++) {
    const regs = slots.someRegisters(random);
    // Counters small enough to be reached, and the edge of the 32-bit ones.
    if (random.once(2)) regs[slots.RCX] = random.pick([0n, 1n, 2n, 5n, 1n << 32n, (1n << 32n) + 1n]);
    const made = slots.caseOf(random, generate(random), regs);
    if (made && isComparable(made) && !isPushSeen(made)) cases.push(made);
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
    const cases = casesOf(new Random(1000 * seed + i), generate, 400 * rounds);
    assert.ok(cases.length >= 40, `only ${cases.length} cases`);
    expectAgreement(cases);
  });
}

for (const path of ['/bin/bash', '/lib/x86_64-linux-gnu/libc.so.6', process.execPath]) {
  test(`instructions of ${path} do in a slot what they do in place`, () => {
    const random = new Random(seed);
    const { code } = textOf(readFileSync(path));
    const { starts } = x64.boundaries(code.subarray(0, 1_000_000), asAddress(0));
    const generate = (): number[] =>
      pointedAtData(random, [...code.subarray(...from(starts[random.below(starts.length)]))]);
    expectAgreement(casesOf(random, generate, 1500 * rounds));
  });
}

const from = (at = 0): [number, number] => [at, at + 15];

/** The instruction at the start; where it is relative to rip, its operand moved to where there is data here. */
function pointedAtData(random: Random, bytes: number[]): number[] {
  const instruction = x64.decode(Uint8Array.from(bytes), asAddress(0));
  if (!instruction || !x64.format(instruction).includes('[rip')) return bytes;
  const displaced = x64.displace(instruction);
  const at = displaced.ok ? displaced.template.rel32[0]?.at : undefined;
  if (at === undefined || at >= instruction.bytes.length) return bytes;
  const to = slots.DATA - slots.SITE - 0xc00 + random.below(slots.SIZE);
  return bytes
    .with(at, to & 255)
    .with(at + 1, (to >> 8) & 255)
    .with(at + 2, (to >> 16) & 255)
    .with(at + 3, to >> 24);
}
