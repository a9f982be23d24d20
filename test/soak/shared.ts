/** The words that test/fixtures/soak.c and the soak share, in a file that it maps. */
import { closeSync, openSync, readSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { temporaryDirectory } from '../helpers/compile.js';

/** Kinds of calls. The order is that of soak.c's `enum word`. */
export const KINDS = [
  'counted',
  'pre',
  'post',
  'skipped',
  'changed',
  'thrown',
  'late',
  'in_signal',
  'loaded',
  'storm',
  'epoch',
] as const;
export type Kind = (typeof KINDS)[number];

const FIRST_STATE = 16;
const STATES = [
  'ready',
  'go',
  'stop',
  'paused',
  'parked',
  'gate',
  'inGate',
  'wasSkipped',
  'wasChanged',
  'alive',
  'exec',
  'failed',
  'inHandler',
  'signals',
] as const;
export type State = (typeof STATES)[number];

export class Shared {
  readonly path = join(temporaryDirectory(), 'words');
  readonly #fd: number;

  constructor() {
    writeFileSync(this.path, Buffer.alloc(4096));
    this.#fd = openSync(this.path, 'r+');
  }

  calls(kind: Kind): bigint {
    return this.#read(KINDS.indexOf(kind));
  }
  state(name: State): number {
    return Number(this.#read(FIRST_STATE + STATES.indexOf(name)));
  }
  set(name: State, value: number): void {
    const bytes = Buffer.alloc(8);
    bytes.writeBigInt64LE(BigInt(value));
    writeSync(this.#fd, bytes, 0, 8, 8 * (FIRST_STATE + STATES.indexOf(name)));
  }
  close(): void {
    closeSync(this.#fd);
  }

  #read(index: number): bigint {
    const bytes = Buffer.alloc(8);
    readSync(this.#fd, bytes, 0, 8, 8 * index);
    return bytes.readBigInt64LE();
  }
}
