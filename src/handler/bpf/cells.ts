/** Code that adds a value to a cell: the value in r8, the cell's address in r1. Everything is atomic. Uses r0–r5. */
import { isImmediate, R0, R1, R2, R3, R4, R5, R8, type Assembler } from '../../arch/bpf/assembler.js';
import { rangeOf } from '../ir.js';
import { cellWords, linearBuckets, STATS, ZERO, type CellShape, type LinearShape } from '../shapes.js';

type Asm = Assembler<unknown>;

export function addToCell(asm: Asm, shape: CellShape, signed: boolean): void {
  switch (shape.kind) {
    case 'counter':
      return asm.atomic('add', R1, 0, R8);
    case 'histogram':
      return histogram(asm, signed);
    case 'linear':
      return linear(asm, shape, signed);
    case 'stats':
      return stats(asm, signed);
  }
}

/** One more in the word whose number is in r0. */
function countWord(asm: Asm): void {
  asm.alu('lsh', R0, 3n);
  asm.alu('add', R1, R0);
  asm.mov(R2, 1n);
  asm.atomic('add', R1, 0, R2);
}

/** Two bits for each number from 0 to 15: its logarithm. */
const HIGHEST_BITS = 0xffff_aa50n;

/** Without a branch: the verifier would follow each path, at each round of a loop around it. */
function histogram(asm: Asm, signed: boolean): void {
  // r3 = 1 where r3, which is at most 2^63, is not 0: the sign of its negative.
  const isNonZero = (): void => {
    asm.neg(R3);
    asm.alu('rsh', R3, 63n);
  };
  asm.mov(R0, BigInt(ZERO));
  asm.mov(R2, R8);
  for (const [power, bits] of [5n, 4n, 3n, 2n].map((n) => [n, 1n << n] as const)) {
    asm.mov(R3, R2);
    asm.alu('rsh', R3, bits);
    isNonZero();
    asm.alu('lsh', R3, power);
    asm.alu('rsh', R2, R3);
    asm.alu('add', R0, R3);
  }
  // Four bits are left: whether there are any, and where the highest is.
  asm.mov(R3, R2);
  isNonZero();
  asm.alu('add', R0, R3);
  asm.load64(R3, HIGHEST_BITS);
  asm.alu('lsh', R2, 1n);
  asm.alu('rsh', R3, R2);
  asm.alu('and', R3, 3n);
  asm.alu('add', R0, R3);
  if (signed) {
    asm.mov(R3, R8);
    asm.alu('rsh', R3, 63n);
    asm.alu('sub', R3, 1n);
    asm.alu('and', R0, R3); // NEGATIVE
  }
  countWord(asm);
}

function linear(asm: Asm, shape: LinearShape, signed: boolean): void {
  const [least, most] = rangeOf(signed ? 'i64' : 'u64');
  const found = asm.label();
  const last = BigInt(cellWords(shape) - 1);
  const isLess = signed ? 'slt' : 'lt';
  const against = (value: bigint, jump: 'slt' | 'lt' | 'sge' | 'ge'): void => {
    if (isImmediate(value)) return asm.jumpIf(jump, R8, BigInt.asIntN(64, value), found);
    asm.load64(R2, value);
    asm.jumpIf(jump, R8, R2, found);
  };
  asm.mov(R0, 0n);
  if (shape.min > most) asm.jump(found);
  else if (shape.min > least) against(shape.min, isLess);
  asm.mov(R0, last);
  if (shape.max <= least) asm.jump(found);
  else if (shape.max <= most) against(shape.max, signed ? 'sge' : 'ge');
  // Modulo 2^64, where every distance within the buckets is right.
  asm.mov(R0, R8);
  asm.load64(R2, shape.min);
  asm.alu('sub', R0, R2);
  if (isImmediate(shape.step)) asm.alu('div', R0, shape.step);
  else {
    asm.load64(R2, shape.step);
    asm.alu('div', R0, R2);
  }
  asm.alu('add', R0, 1n);
  // It is; the verifier does not know.
  asm.jumpIf('le', R0, BigInt(linearBuckets(shape)), found);
  asm.mov(R0, last);
  asm.place(found);
  countWord(asm);
}

/** So many others would have to be first, one after the other, each with a better value, for one not to be seen. */
const MOST_TRIES = 4n;

function stats(asm: Asm, signed: boolean): void {
  asm.mov(R2, 1n);
  asm.atomic('add', R1, STATS.count * 8, R2);
  asm.alu32('mov', R2, R8);
  asm.atomic('add', R1, STATS.low * 8, R2);
  asm.mov(R2, R8);
  asm.alu(signed ? 'arsh' : 'rsh', R2, 32n);
  asm.atomic('add', R1, STATS.high * 8, R2);
  const [least, most] = signed
    ? [STATS.leastSigned, STATS.mostSigned]
    : [STATS.leastUnsigned, STATS.mostUnsigned];
  extreme(asm, least * 8, signed ? 'slt' : 'lt');
  extreme(asm, most * 8, signed ? 'sgt' : 'gt');
}

/**
 * What is there (r0) is replaced where r8 is better. The verifier follows what does not jump first: that is the short way, so that it
 * has few paths to come back to.
 */
function extreme(asm: Asm, offset: number, isBetter: 'slt' | 'lt' | 'sgt' | 'gt'): void {
  const [again, better, changed, end] = [asm.label(), asm.label(), asm.label(), asm.label()];
  asm.load(8, R0, R1, offset);
  asm.mov(R3, MOST_TRIES);
  asm.place(again);
  asm.jumpIf(isBetter, R8, R0, better);
  asm.jump(end);
  asm.place(better);
  asm.mov(R4, R0);
  asm.mov(R5, R8);
  asm.atomic('cmpxchg', R1, offset, R5);
  asm.jumpIf('ne', R0, R4, changed);
  asm.jump(end);
  asm.place(changed);
  asm.alu('sub', R3, 1n);
  asm.jumpIf('ne', R3, 0n, again);
  asm.place(end);
}
