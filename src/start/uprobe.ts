#!/usr/bin/env node
/** The command `uprobe`. */
import { fileURLToPath } from 'node:url';
import { keepsCode, load } from './load.js';

/** Node's own last step. What hooks it later (signal-exit does) calls what it found, so this comes after all else. */
const node = process as unknown as { reallyExit(this: void, code: number): void };
const { reallyExit } = node;
let keep = (): void => undefined;
if (keepsCode)
  node.reallyExit = (code) => {
    keep(); // what has not run by now is not worth keeping
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000); // the tracer's thread keeps its own
    reallyExit(code);
  };

keep = load(fileURLToPath(new URL('main.cjs', import.meta.url)));
