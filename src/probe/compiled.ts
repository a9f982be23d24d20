/** `compiled`, as users see it. */
import { compileHandler } from '../handler/compile-handler.js';
import type { Compiled } from '../handler/compiled-handler.js';
import type { Conversion } from '../handler/conversions.js';
import type { Aggregate } from '../handler/shapes.js';
import type { Hit, PreHit, ReturnHit } from './types.js';

/** What a compiled handler may know from outside: constants and aggregates. */
export type Scope = Readonly<Record<string, bigint | number | string | boolean | Aggregate | Conversion>>;

export interface CompiledOptions<S extends Scope> {
  /** What the handler gets as its second parameter. It is copied: what is changed later changes nothing. */
  readonly scope?: S;
}

/**
 * A handler that can run elsewhere than here: in the kernel, in the probed process. Its own text is compiled, so it can use
 * nothing but its hit, its scope and the language that docs/handlers.md describes; everything else is a CompileError, which
 * says what to write. Where no engine runs it elsewhere it is called like any other handler, and does the same.
 *
 *     const sizes = histogram();
 *     await registerUprobe({
 *       pathname: 'libc',
 *       symbol: 'malloc',
 *       preHandler: compiled({ scope: { sizes } }, (hit, { sizes }) => {
 *         sizes.add(hit.arg(0));
 *       }),
 *     });
 */
export function compiled<D = undefined, S extends Scope = Scope, R = void>(
  options: CompiledOptions<S>,
  handler: (hit: HitOf<D>, scope: S) => R,
): Compiled<(hit: Hit & { readonly duration?: D }) => R>;
/** A handler that stands alone: its hit's type is written there, `(hit: ReturnHit<bigint>, …)`. */
export function compiled<H extends Hit, S extends Scope = Scope, R = void>(
  options: CompiledOptions<S>,
  handler: (hit: H, scope: S) => R,
): Compiled<(hit: Whatever<H>) => R>;
export function compiled<S extends Scope, R>(
  options: CompiledOptions<S>,
  handler: (hit: never, scope: S) => R,
): Compiled<(hit: never) => R> {
  // Who leaves the options out gives a function in their place, and is told by what is missing.
  const scope = typeof options === 'object' ? (options.scope ?? ({} as S)) : ({} as S);
  return compileHandler(handler, scope, callSite());
}

/** Of hits only that of a return has a duration: by that TypeScript finds out which handler this is. */
type HitOf<D> = D extends bigint ? ReturnHit<bigint> : PreHit<bigint>;

/** The same hit, whatever plain handlers keep in its `call`. */
type Whatever<H extends Hit> =
  H extends ReturnHit<bigint> ? ReturnHit : H extends PreHit<bigint> ? PreHit : H;

/** Where `compiled` was called: file:line:column. */
function callSite(): string | undefined {
  const holder: { stack?: string } = {};
  Error.captureStackTrace(holder, compiled);
  const place = /at (?:.*\()?([^()\n]+:\d+:\d+)\)?$/m.exec(holder.stack ?? '')?.[1];
  return place?.replace(/^file:\/\//, '');
}
