/**
 * Sequences of instructions, laid out and written into a copy of test/fixtures/x64-sequences.c's program, whose
 * section .gen has room for them.
 */
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { compileFixture, temporaryDirectory } from './compile.js';

/** The program's regions, and what fs and gs point at. */
export const GEN = 0x1000_0000;
const TABLES = 0x1800_0000;
export const DATA = 0x2000_0000;
export const DATA_SIZE = 0x2000;
export const STACK = 0x2100_0000;
export const STACK_SIZE = 0x1000;
export const FUEL = 0x2200_0000;

/** One function of the section .gen. */
export const ROOM = 1024;
export const MOST_SEQUENCES = 1024;
const TABLE_WORDS = 8192;

/** An item of a part of the sequence: part 0 is where it begins, the others are functions that it calls. */
export interface Label {
  readonly part: number;
  readonly item: number;
}

/** What of a piece depends on where things are: relative to its end, or absolute. */
export interface Field {
  readonly at: number;
  readonly size: 1 | 4;
  readonly to: Label | number;
}

/** One instruction. */
export interface Piece {
  readonly bytes: readonly number[];
  readonly field?: Field;
}

/** Instructions that are only run from the first one on. */
export type Item = readonly Piece[];

export interface Sequence {
  readonly address: number;
  readonly bytes: Uint8Array;
  /** Addresses of its instructions. */
  readonly places: readonly number[];
}

export class DoesNotFit extends Error {}

/** A word of the section .gentab that holds where something is. */
interface TableWord {
  readonly at: number;
  readonly to: Label | number;
}

/** The words that the sequences of one program jump through. The first one of the section is the sequences' end. */
export class Tables {
  readonly #words = new BigUint64Array(TABLE_WORDS);
  #used = 1;
  #open: TableWord[] = [];

  /** The address of a table of these places of the sequence that is being made. */
  add(targets: readonly Label[]): number {
    if (this.#used + targets.length > TABLE_WORDS) throw new DoesNotFit('too many tables');
    const at = this.#used;
    targets.forEach((to, i) => this.#open.push({ at: at + i, to }));
    this.#used += targets.length;
    return TABLES + 8 * at;
  }

  get end(): number {
    return TABLES;
  }

  /** The places of the sequence are known. */
  resolve(placeOf: (label: Label | number) => number): void {
    for (const { at, to } of this.#open) this.#words[at] = BigInt(placeOf(to));
    this.#open = [];
  }

  /** The sequence is given up. */
  forget(): void {
    this.#open = [];
  }

  bytes(): Uint8Array {
    return new Uint8Array(this.#words.buffer, 8);
  }
}

/** Give every instruction of the parts its address, from `address` on, and make their bytes. */
export function layOut(parts: readonly (readonly Item[])[], address: number, tables: Tables): Sequence {
  const starts: number[][] = [];
  const places: number[] = [];
  let at = address;
  for (const items of parts) {
    const its: number[] = [];
    starts.push(its);
    for (const item of items) {
      its.push(at);
      for (const { bytes } of item) {
        places.push(at);
        at += bytes.length;
      }
    }
  }
  if (at - address > ROOM) throw new DoesNotFit('too long');
  const placeOf = (to: Label | number): number => {
    const place = typeof to === 'number' ? to : starts[to.part]?.[to.item];
    if (place === undefined) throw new Error(`no such label: ${JSON.stringify(to)}`);
    return place;
  };
  tables.resolve(placeOf);
  const bytes = parts.flat(2).flatMap((piece, i) => bound(piece, places[i]!, placeOf));
  return { address, bytes: Uint8Array.from(bytes), places };
}

function bound({ bytes, field }: Piece, address: number, placeOf: (to: Label | number) => number): number[] {
  const made = [...bytes];
  if (field === undefined) return made;
  const distance = placeOf(field.to) - address - bytes.length;
  if (field.size === 1 && (distance < -128 || distance > 127))
    throw new DoesNotFit('too far for a short jump');
  for (let i = 0; i < field.size; i++) made[field.at + i] = (distance >> (8 * i)) & 255;
  return made;
}

/** Where the file has what is at an address (elf(5): program headers). */
function fileOffset(elf: Buffer, address: number): number {
  const headers = Number(elf.readBigUInt64LE(32));
  for (let i = 0; i < elf.readUInt16LE(56); i++) {
    const at = headers + i * elf.readUInt16LE(54);
    const start = Number(elf.readBigUInt64LE(at + 16));
    if (elf.readUInt32LE(at) === 1 && start === address) return Number(elf.readBigUInt64LE(at + 8));
  }
  throw new Error(`nothing is loaded at 0x${address.toString(16)}`);
}

const fixture = (): string => compileFixture('x64-sequences');

/** The address that a sequence jumps to in the end. */
export function endOfSequences(): number {
  const elf = readFileSync(fixture());
  return Number(elf.readBigUInt64LE(fileOffset(elf, TABLES)));
}

export interface SequenceProgram {
  readonly path: string;
  /** What to add to an address of an instruction for its file offset. */
  readonly toOffset: number;
}

/** A copy of the program with these sequences in it. */
export function programOf(sequences: readonly Sequence[], tables: Tables): SequenceProgram {
  const path = join(temporaryDirectory(), 'x64-sequences');
  copyFileSync(fixture(), path);
  const elf = readFileSync(path);
  const toOffset = fileOffset(elf, GEN) - GEN;
  for (const { address, bytes } of sequences) elf.set(bytes, address + toOffset);
  elf.set(tables.bytes(), fileOffset(elf, TABLES) + 8);
  writeFileSync(path, elf);
  return { path, toOffset };
}
