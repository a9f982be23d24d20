/** Code that adds a value to a cell: the value in r8, the cell's address in r1. Everything is atomic. Uses r0–r5. */
import {
  isImmediate,
  R0,
  R1,
  R2,
  R3,
  R4,
  R5,
  R8,
  type Assembler,
  type Label,
} from '../../arch/bpf/assembler.js';
import { rangeOf } from '../ir.js';
import {
  cellWords,
  FIRST_POWER,
  linearBuckets,
  NEGATIVE,
  STATS,
  ZERO,
  type CellShape,
  type LinearShape,
} from '../shapes.js';

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

function histogram(asm: Asm, signed: boolean): void {
  const found = asm.label();
  if (signed) {
    asm.mov(R0, BigInt(NEGATIVE));
    asm.jumpIf('slt', R8, 0n, found);
  }
  asm.mov(R0, BigInt(ZERO));
  asm.jumpIf('eq', R8, 0n, found);
  asm.mov(R0, BigInt(FIRST_POWER));
  asm.mov(R2, R8);
  for (const bits of [32n, 16n, 8n, 4n, 2n, 1n]) {
    const isBelow = asm.label();
    asm.mov(R3, R2);
    asm.alu('rsh', R3, bits);
    asm.jumpIf('eq', R3, 0n, isBelow);
    asm.mov(R2, R3);
    asm.alu('add', R0, bits);
    asm.place(isBelow);
  }
  asm.place(found);
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

/** More CPUs than a machine has would have to be first, one after the other, for a value not to be seen. */
const MOST_TRIES = 128n;

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
  extreme(asm, least * 8, (isThere) => asm.jumpIf(signed ? 'sle' : 'le', R0, R8, isThere));
  extreme(asm, most * 8, (isThere) => asm.jumpIf(signed ? 'sge' : 'ge', R0, R8, isThere));
}

/** What is there (r0) is replaced, until it is one that `test` is content with. */
function extreme(asm: Asm, offset: number, test: (isThere: Label) => void): void {
  const [again, end] = [asm.label(), asm.label()];
  asm.load(8, R0, R1, offset);
  asm.mov(R3, MOST_TRIES);
  asm.place(again);
  test(end);
  asm.mov(R4, R0);
  asm.mov(R5, R8);
  asm.atomic('cmpxchg', R1, offset, R5);
  asm.jumpIf('eq', R0, R4, end);
  asm.alu('sub', R3, 1n);
  asm.jumpIf('ne', R3, 0n, again);
  asm.place(end);
}
