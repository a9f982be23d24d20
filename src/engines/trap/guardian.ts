/**
 * The guardian: a program of its own that waits for the end of the process that probes. If that ends without a word, it
 * takes the breakpoints out of the targets and gives them their own action for SIGTRAP again. Until then they have
 * carried on by themselves (carrier.ts); our memory stays in them, for a thread may be on its way through it.
 */
import { readSync, readdirSync } from 'node:fs';
import { ProcessError } from '../../base/errors.js';
import { BELL_WORDS, BellWait } from '../../linux/doorbell.js';
import { mapRegion } from '../../linux/memory.js';
import { ProcessMemory } from '../../linux/process-memory.js';
import { Arming } from './arming.js';
import { Carrier, readCarrier } from './carrier.js';
import { LEDGER_FD } from './guard.js';
import { Ledger, type LedgerEntry } from './ledger.js';
import type { Thread } from './thread.js';
import { Tracees, type StopListener } from './tracees.js';

/** How long to try: the tracer's end takes a moment, and longer where it dumps its memory. */
const PATIENCE_MS = 30_000;
const PAUSE_MS = 20;

class Mender implements StopListener {
  readonly #tracees: Tracees;
  readonly #arming: Arming;
  readonly #ledger: Ledger;

  constructor(ledger: Ledger) {
    const { address, bytes } = mapRegion(4096);
    this.#tracees = new Tracees(new BellWait(address, new Int32Array(bytes.buffer, 0, BELL_WORDS)), this);
    this.#arming = new Arming(this.#tracees, () => true);
    this.#ledger = ledger;
  }

  run(): void {
    const limit = performance.now() + PATIENCE_MS;
    let left = this.#targets();
    while (left.length > 0 && performance.now() < limit) {
      left = left.filter((entry) => !this.#mend(entry));
      if (left.length > 0) pause(PAUSE_MS);
      // what has been forked while we were at it
      else left = this.#targets();
    }
    while (this.#tracees.threads.size > 0 && performance.now() < limit) this.#tracees.take(PAUSE_MS);
  }

  readonly #done = new Set<number>();

  /** The processes in the ledger, and those that have inherited a carrier of theirs. */
  #targets(): LedgerEntry[] {
    const known = this.#ledger.entries();
    const carriers = [...new Set(known.map((entry) => entry.carrier))];
    const found = new Map(known.map((entry) => [entry.pid, entry]));
    for (const name of readdirSync('/proc')) {
      const pid = Number(name);
      if (!Number.isInteger(pid) || found.has(pid) || pid === process.pid) continue;
      const carrier = carriers.find((base) => this.#isCarried(pid, base));
      if (carrier !== undefined) found.set(pid, { pid, carrier });
    }
    return [...found.values()].filter(({ pid }) => !this.#done.has(pid));
  }

  #isCarried(pid: number, carrier: number): boolean {
    try {
      const memory = new ProcessMemory(pid);
      try {
        return readCarrier(memory, carrier, this.#ledger.mark) !== undefined;
      } finally {
        memory.close();
      }
    } catch {
      return false; // not ours to look at, or gone
    }
  }

  /** False: not yet. */
  #mend({ pid, carrier: base }: LedgerEntry): boolean {
    if (!this.#isCarried(pid, base)) return this.#isDone(pid);
    try {
      const process = this.#tracees.attach(pid);
      const { space } = process;
      const carried = readCarrier(space.memory, base, this.#ledger.mark);
      if (carried !== undefined) {
        process.trapAction = carried.own;
        space.carrier = new Carrier(base, this.#ledger.mark, true);
        space.adopt(carried.entries);
      }
      this.#arming.detach(space);
      return this.#isDone(pid);
    } catch (e) {
      // its tracer has not ended yet, or it has another one now
      return e instanceof ProcessError && e.code === 'no-such-process' && this.#isDone(pid);
    }
  }

  #isDone(pid: number): true {
    this.#done.add(pid);
    return true;
  }

  stopped(thread: Thread, status: number): void {
    thread.process.role = 'leaving';
    thread.pending = status;
    this.#arming.leave(thread);
  }
  postponed(thread: Thread, status: number): number {
    return this.#arming.postponed(thread, status);
  }
  threadGone(): void {
    // it held nothing
  }
  processGone(): void {
    // nobody asks
  }
  processLeft(): void {
    // nor here
  }
  born(): void {
    // nobody is followed
  }
  copied(): void {
    // nobody is followed
  }
  memoryLeft(): void {
    // all of it is being left
  }
  memoryClosed(): void {
    // a program that needs no mending
  }
  childEnded(): void {
    // we have none
  }
}

function pause(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

/** True when the process that probes has ended, false when it says that all is well. */
function waitForEnd(): boolean {
  return readSync(0, Buffer.alloc(16)) === 0;
}

if (waitForEnd()) new Mender(Ledger.open(LEDGER_FD)).run();
