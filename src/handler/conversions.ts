/**
 * `u8` … `i64`: the lowest bits of a whole number, as unsigned or signed. Plain functions, which compiled handlers know
 * by these names.
 */
import type { IntType } from './ir.js';
import { wrap } from './ir.js';

export type Conversion = (value: bigint | number | boolean) => bigint;

const conversion =
  (type: IntType): Conversion =>
  (value) =>
    wrap(type, BigInt(value));

export const u8 = conversion('u8');
export const u16 = conversion('u16');
export const u32 = conversion('u32');
export const u64 = conversion('u64');
export const i8 = conversion('i8');
export const i16 = conversion('i16');
export const i32 = conversion('i32');
export const i64 = conversion('i64');

export const CONVERSIONS: Readonly<Record<IntType, Conversion>> = { u8, u16, u32, u64, i8, i16, i32, i64 };
