/** What goes to the user's callbacks. Theirs may throw: that is theirs to see, never a probe's to suffer from. */
import { messageOf } from '../base/errors.js';
import type { Registration } from './registration.js';
import type { ArmState, HandlerError } from './types.js';

/** A handler threw, or the uprobe ended by itself. Without an onError: a warning of the process, once per uprobe. */
export function reportError(
  registration: Registration,
  kind: HandlerError['kind'],
  pid: number,
  tid: number,
  error: unknown,
): void {
  const { onError } = registration.spec;
  if (onError !== undefined) {
    guarded(() => onError({ uprobe: registration.view, kind, pid, tid, error }));
    return;
  }
  if (registration.warned) return;
  registration.warned = true;
  const what =
    kind === 'uprobe'
      ? messageOf(error)
      : `the ${kind} handler of ${nameOf(registration)} threw in process ${pid} (the program went on): ` +
        `${messageOf(error)}. Further errors of it are only counted (nerrors); give an onError to see them`;
  process.emitWarning(what, 'UprobeWarning');
}

export function reportState(registration: Registration, state: ArmState): void {
  const { onState } = registration.spec;
  if (onState !== undefined) guarded(() => onState(state));
}

/** What a callback throws becomes an uncaught exception of its own, after us. */
function guarded(call: () => void): void {
  try {
    call();
  } catch (e) {
    queueMicrotask(() => {
      throw e;
    });
  }
}

/** `PATH:symbol+0x4`, as on the command line. */
export function nameOf({ site, symbol, symbolOffset }: Registration): string {
  const place =
    symbol === undefined
      ? `0x${site.offset.toString(16)}`
      : symbolOffset === 0
        ? symbol
        : `${symbol}+0x${symbolOffset.toString(16)}`;
  return `${site.module.path}:${place}`;
}
