/**
 * Where our carriers are (carrier.ts): which processes somebody has to mend when we are gone. It is in memory that the
 * guardian shares and that outlives us; the tracer writes it before it changes a process and after it has left it whole.
 */
import { randomBytes } from 'node:crypto';
import { mapFile, memoryFile } from '../../linux/memory-file.js';
import { viewRegion } from '../../linux/memory.js';

const RECORDS = 8192;
const LENGTH = 16 + RECORDS * 16;

export interface LedgerEntry {
  readonly pid: number;
  /** The address of the carrier. */
  readonly carrier: number;
}

export class Ledger {
  readonly #words: BigUint64Array;

  private constructor(readonly address: number) {
    this.#words = new BigUint64Array(viewRegion(address, LENGTH));
  }

  /** A new one, and the descriptor of its memory. */
  static create(): { readonly ledger: Ledger; readonly fd: number } {
    const fd = memoryFile('uprobe', LENGTH);
    const ledger = new Ledger(mapFile(fd, LENGTH));
    ledger.#words[0] = randomBytes(8).readBigUInt64LE();
    return { ledger, fd };
  }
  /** As another thread, or another process, sees it. */
  static at(address: number): Ledger {
    return new Ledger(address);
  }
  static open(fd: number): Ledger {
    return new Ledger(mapFile(fd, LENGTH));
  }

  /** What tells carriers of this tracer from everybody else's. */
  get mark(): bigint {
    return this.#words[0]!;
  }

  /** Before anything is changed. One that finds no room is not guarded. */
  add(pid: number, carrier: number): void {
    const used = Number(this.#words[1]!);
    const free = this.#find(0n) ?? used;
    if (free === RECORDS) return;
    this.#words[3 + free * 2] = BigInt(carrier);
    Atomics.store(this.#words, 2 + free * 2, BigInt(pid));
    if (free === used) Atomics.store(this.#words, 1, BigInt(used + 1));
  }

  /** It is whole again, or is no more. */
  remove(pid: number): void {
    const at = this.#find(BigInt(pid));
    if (at !== undefined) Atomics.store(this.#words, 2 + at * 2, 0n);
  }

  entries(): LedgerEntry[] {
    return Array.from({ length: Number(Atomics.load(this.#words, 1)) }, (_, i) => ({
      pid: Number(Atomics.load(this.#words, 2 + i * 2)),
      carrier: Number(this.#words[3 + i * 2]),
    })).filter(({ pid }) => pid !== 0);
  }

  get isEmpty(): boolean {
    return this.entries().length === 0;
  }

  #find(pid: bigint): number | undefined {
    const used = Number(this.#words[1]!);
    for (let i = 0; i < used; i++) if (this.#words[2 + i * 2] === pid) return i;
    return undefined;
  }
}
