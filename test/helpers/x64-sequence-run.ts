/** Speaks to test/fixtures/x64-sequences.c: the states that sequences begin with, and those that they end in. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Random } from './random.js';
import { DATA, DATA_SIZE, STACK, STACK_SIZE } from './x64-sequence.js';
import type { Roles } from './x64-sequence-pool.js';

export interface Run {
  readonly code: number;
  readonly image: number;
  readonly fuel: number;
  /** By register number. */
  readonly gpr: readonly bigint[];
  readonly flags: number;
}

const VECTORS = 512 + 32 * 64 + 8 * 8;
const OUTCOME = 8 * (5 + 16);
const TRIAL_RECORD = OUTCOME + VECTORS;
export const RECORD = TRIAL_RECORD + DATA_SIZE + STACK_SIZE;

export const RSP = 4;
export const RBP = 5;

/** Registers as their roles want them; the others hold anything. */
export function someRun(random: Random, code: number, roles: Roles): Run {
  const gpr = Array.from({ length: 16 }, () =>
    random.pick([
      () => random.u64(),
      () => random.pick([0n, 1n, 0x7fn, 0x80n, 0x7fff_ffffn, 0xffff_ffffn, 1n << 63n, (1n << 64n) - 1n]),
      () => BigInt(random.below(64)),
    ])(),
  );
  for (const r of roles.pointers) gpr[r] = BigInt(DATA + 0x800 + 64 * random.below(0x40));
  for (const r of roles.small) gpr[r] = BigInt(8 * random.below(8));
  gpr[RSP] = BigInt(STACK + 0x800);
  gpr[RBP] = BigInt(STACK + 0xc00);
  // Carry, parity, adjust, zero, sign, direction, overflow.
  const flags = random.u32() & (random.once(4) ? 0xcd5 : 0x8d5);
  return { code, image: random.below(IMAGES), fuel: 10, gpr, flags };
}

const IMAGES = 8;

/** Words that numbers of all kinds are made of. */
function someWord(random: Random): bigint {
  const view = new DataView(new ArrayBuffer(8));
  random.pick([
    () => view.setBigUint64(0, random.u64(), true),
    () => view.setBigUint64(0, BigInt(random.below(256)), true),
    () => view.setFloat64(0, (random.below(2000) - 1000) / 8, true),
    () => {
      view.setFloat32(0, random.below(1000) / 4, true);
      view.setFloat32(4, -random.below(1000), true);
    },
    () => view.setBigUint64(0, 0n, true),
  ])();
  return view.getBigUint64(0, true);
}

/** Vector registers, x87 state and memory to begin with. */
function someImage(random: Random): Uint8Array {
  const image = new Uint8Array(VECTORS + DATA_SIZE + STACK_SIZE);
  const view = new DataView(image.buffer);
  for (let at = 512; at < image.length; at += 8) view.setBigUint64(at, someWord(random), true);
  // FXSAVE image, Intel SDM vol. 1, 10.5.1: control word, all but one register in use, MXCSR, registers
  view.setUint16(0, 0x37f, true);
  image[4] = 0x7f;
  view.setUint32(24, 0x1f80, true);
  for (let i = 0; i < 8; i++) {
    view.setBigUint64(32 + 16 * i, random.u64() | (1n << 63n), true);
    view.setUint16(32 + 16 * i + 8, 0x3fff + random.below(16), true);
  }
  for (let i = 0; i < 16; i++) image.copyWithin(160 + 16 * i, 512 + 64 * i, 512 + 64 * i + 16);
  return image;
}

/** The files that a run is described by. */
export interface Inputs {
  readonly list: string;
  readonly images: string;
}

export function writeInputs(directory: string, random: Random, runs: readonly Run[]): Inputs {
  const list = Buffer.alloc(runs.length * 8 * 20);
  runs.forEach(({ code, image, fuel, gpr, flags }, i) => {
    [BigInt(code), BigInt(image), BigInt(fuel), ...gpr, BigInt(flags)].forEach((word, at) =>
      list.writeBigUInt64LE(word, 8 * (20 * i + at)),
    );
  });
  const inputs = { list: join(directory, 'list'), images: join(directory, 'images') };
  writeFileSync(inputs.list, list);
  writeFileSync(inputs.images, Buffer.concat(Array.from({ length: IMAGES }, () => someImage(random))));
  return inputs;
}

/** Where the outcome has the flags. */
export const FLAGS = 32;

/** What a run ended in. */
export interface Outcome {
  readonly signal: number;
  readonly ip: number;
  readonly record: Buffer;
}

export function readOutcomes(path: string, isTrial = false): Outcome[] {
  const bytes = readFileSync(path);
  const size = isTrial ? TRIAL_RECORD : RECORD;
  return Array.from({ length: Math.floor(bytes.length / size) }, (_, i) => {
    const record = bytes.subarray(i * size, (i + 1) * size);
    return { signal: record.readUInt32LE(0), ip: Number(record.readBigUInt64LE(24)), record };
  });
}

const GPRS = 'rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15'.split(' ');
const AREAS: readonly (readonly [name: string, start: number, width: number])[] = [
  ...['signal', 'si_code', 'si_addr', 'ip', 'flags', ...GPRS].map((name, i) => [name, 8 * i, 8] as const),
  ['x87 state', OUTCOME, 512],
  ...Array.from({ length: 32 }, (_, i) => [`zmm${i}`, OUTCOME + 512 + 64 * i, 64] as const),
  ...Array.from({ length: 8 }, (_, i) => [`k${i}`, OUTCOME + 512 + 2048 + 8 * i, 8] as const),
  ['data', TRIAL_RECORD, DATA_SIZE],
  ['stack', TRIAL_RECORD + DATA_SIZE, STACK_SIZE],
];

/** In what two outcomes differ; empty when they are the same. */
export function outcomeDifferences(is: Outcome, should: Outcome): string[] {
  if (is.record.equals(should.record)) return [];
  return AREAS.flatMap(([name, start, width]) => {
    const a = is.record.subarray(start, start + width);
    const b = should.record.subarray(start, start + width);
    if (a.equals(b)) return [];
    const first = a.findIndex((byte, i) => byte !== b[i]) & ~7;
    const shown = (bytes: Buffer): string =>
      Buffer.from(bytes.subarray(first, first + 8))
        .reverse()
        .toString('hex');
    return [`${name}${width > 8 ? `+0x${first.toString(16)}` : ''} is ${shown(a)}, should be ${shown(b)}`];
  });
}
