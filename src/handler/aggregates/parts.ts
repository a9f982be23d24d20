/** What an aggregate is made of: what was added here, what engines have, and what engines had that are gone. */
import type { CellShape, CellSource } from '../shapes.js';
import { emptyCell, STATS } from '../shapes.js';

/** Add one cell to another of the same shape. */
export function mergeCell(shape: CellShape, into: BigInt64Array, from: BigInt64Array): void {
  if (shape.kind !== 'stats') {
    for (let i = 0; i < into.length; i++) into[i]! += from[i]!;
    return;
  }
  for (const i of [STATS.count, STATS.low, STATS.high]) into[i]! += from[i]!;
  if (from[STATS.leastSigned]! < into[STATS.leastSigned]!) into[STATS.leastSigned] = from[STATS.leastSigned]!;
  if (from[STATS.mostSigned]! > into[STATS.mostSigned]!) into[STATS.mostSigned] = from[STATS.mostSigned]!;
  const unsigned = (words: BigInt64Array, i: number): bigint => BigInt.asUintN(64, words[i]!);
  if (unsigned(from, STATS.leastUnsigned) < unsigned(into, STATS.leastUnsigned))
    into[STATS.leastUnsigned] = from[STATS.leastUnsigned]!;
  if (unsigned(from, STATS.mostUnsigned) > unsigned(into, STATS.mostUnsigned))
    into[STATS.mostUnsigned] = from[STATS.mostUnsigned]!;
}

/** The parts of one cell that are not its owner's additions. Tables have thousands of them: nothing is made before it is needed. */
export class Parts {
  readonly #shape: CellShape;
  #kept: BigInt64Array | undefined;
  #sources: Set<CellSource> | undefined;

  constructor(shape: CellShape) {
    this.#shape = shape;
  }

  /** Add all to the words. */
  addTo(words: BigInt64Array): BigInt64Array {
    if (this.#kept !== undefined) mergeCell(this.#shape, words, this.#kept);
    for (const source of this.#sources ?? []) mergeCell(this.#shape, words, source.cell());
    return words;
  }

  attach(source: CellSource): () => void {
    (this.#sources ??= new Set()).add(source);
    return () => {
      if (!this.#sources!.has(source)) return;
      this.keep(source.cell());
      this.#sources!.delete(source);
    };
  }

  keep(words: BigInt64Array): void {
    mergeCell(this.#shape, (this.#kept ??= emptyCell(this.#shape)), words);
  }

  clear(): void {
    this.#kept = undefined;
    for (const source of this.#sources ?? []) source.clear();
  }
}
