/**
 * The calls of probed functions that have not returned yet, of one memory. A call is known by where its return address
 * stands on the stack: no two frames that live share that word, whichever threads run on the stack meanwhile (fibers), and
 * no word of the stack is changed. Only functions that have jumped to each other (tail calls) share it: they return as one.
 *
 * A frame that is left by longjmp or an exception tells nobody. Its record is found out when the word is used again: by
 * another call, or for something else. Until then it does no harm.
 */
import type { Process } from './thread.js';

export interface Call {
  /** Unique among all calls. */
  readonly id: number;
  /** The function's site. */
  readonly siteId: number;
  readonly process: Process;
  /** The thread that made it. */
  readonly tid: number;
  readonly returnAddress: number;
  /** Address of the word that holds the return address. */
  readonly sp: number;
  /** CLOCK_MONOTONIC, ns. */
  readonly time: bigint;
  /** The registers of the first arguments. */
  readonly args: BigUint64Array;
  /** The newest uprobe that saw it begin. */
  readonly lastConsumer: number;
}

/** How many there may be before all of them are looked at: deep recursion is not unusual, and a look reads a word each. */
const FEW = 1024;

export class Calls {
  /** By `sp`; of those that share it, the outermost first. */
  readonly #bySp = new Map<number, Call[]>();
  #size = 0;
  #limit = FEW;

  /** A function is entered. The calls whose frames it overwrites go to `left`. */
  enter(call: Call, left: (call: Call) => void): void {
    const chain = this.#bySp.get(call.sp);
    this.#size++;
    if (chain === undefined) {
      this.#bySp.set(call.sp, [call]);
      return;
    }
    // Another return address: those frames are gone. The same one and the same function: called again after it was left.
    const gone =
      chain[0]!.returnAddress !== call.returnAddress ? 0 : chain.findIndex((c) => c.siteId === call.siteId);
    if (gone >= 0) for (const c of this.#removed(chain, gone)) left(c);
    if (chain.length === 0) this.#bySp.set(call.sp, chain);
    chain.push(call);
  }

  /** A thread arrives at a return address with `sp` as after the return: the calls that have returned, the innermost first. */
  returned(returnAddress: number, sp: number): Call[] {
    const chain = this.#bySp.get(sp - WORD);
    if (chain?.[0]?.returnAddress !== returnAddress) return [];
    return this.#removed(chain, 0).reverse();
  }

  /** Look, from time to time, at the stacks: whose word holds something else was left. */
  get areMany(): boolean {
    return this.#size > this.#limit;
  }
  sweep(wordAt: (sp: number) => number | undefined, left: (call: Call) => void): void {
    for (const [sp, chain] of this.#bySp)
      if (wordAt(sp) !== chain[0]!.returnAddress) for (const call of this.#removed(chain, 0)) left(call);
    this.#limit = Math.max(FEW, 2 * this.#size);
  }

  /** Take out those that meet a condition. */
  remove(which: (call: Call) => boolean): Call[] {
    const found: Call[] = [];
    for (const [sp, chain] of this.#bySp) {
      const staying = chain.filter((c) => !which(c));
      if (staying.length === chain.length) continue;
      found.push(...chain.filter(which));
      if (staying.length === 0) this.#bySp.delete(sp);
      else this.#bySp.set(sp, staying);
    }
    this.#size -= found.length;
    return found;
  }

  /** For the memory of a child that fork made: it is in the same calls as the thread that made it. */
  copyInto(copy: Calls, maker: number, process: Process): void {
    for (const [sp, all] of this.#bySp) {
      const chain = all.filter((c) => c.tid === maker);
      if (chain.length === 0) continue;
      copy.#bySp.set(sp, chain.map((call) => ({ ...call, process, tid: process.pid }))); // prettier-ignore
      copy.#size += chain.length;
    }
  }

  #removed(chain: Call[], from: number): Call[] {
    const [{ sp }] = chain as [Call];
    const gone = chain.splice(from);
    this.#size -= gone.length;
    if (chain.length === 0) this.#bySp.delete(sp);
    return gone;
  }
}

const WORD = 8;
