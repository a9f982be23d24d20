/**
 * TypeScript to JavaScript by blanking its types out: no character that stays moves, so that errors name the right places and
 * a handler's text is its author's. It is what Node itself does where it can; this way it is the same on every Node.
 */
import { createRequire } from 'node:module';
import type { transformSync } from '@swc/wasm-typescript';

/** What the parser throws: plain data. */
interface Problem {
  readonly code: string;
  readonly message: string;
  readonly startLine?: number;
  readonly startColumn?: number;
}

/** Loaded when a TypeScript file is: it is 3 MB of WebAssembly. */
let transform: typeof transformSync | undefined;

/** @param file its path, for messages. */
export function stripTypes(source: string, file: string): string {
  transform ??= (
    createRequire(import.meta.url)('@swc/wasm-typescript') as { transformSync: typeof transformSync }
  ).transformSync;
  try {
    return transform(source, { mode: 'strip-only', filename: file, sourceMap: false }).code;
  } catch (e) {
    if (!isProblem(e)) throw e;
    const { code, message, startLine, startColumn = 0 } = e;
    const place = startLine === undefined ? file : `${file}:${startLine}:${startColumn + 1}`;
    // Some words of TypeScript are code, not types: they would have to be translated.
    const advice =
      code === 'UnsupportedSyntax' ? `. Only what can be erased is TypeScript here: ${ERASABLE}` : '';
    throw new SyntaxError(`${place}: ${message.replace(/\.$/, '')}${advice}`);
  }
}

const ERASABLE =
  'write an object for an enum, a module for a namespace, an assignment for a parameter property';

const isProblem = (e: unknown): e is Problem =>
  typeof e === 'object' && e !== null && !(e instanceof Error) && 'code' in e && 'message' in e;
