/** What a failure means for the exit status. */
import { FileError, PlaceError, ProcessError, RefusedError, SpecError, UprobeError } from '../base/errors.js';
import { UsageError } from './usage-error.js';

/** A process that cannot be named at all, in contrast to one that may not be traced by this user. */
const WRONG_PROCESS = new Set([
  'no-such-process',
  'is-a-thread',
  'is-init',
  'is-ourselves',
  'is-our-ancestor',
  'is-a-kernel-thread',
  'is-a-zombie',
]);

/** By name: the class is the library's, which must not be loaded to say that an option is wrong. */
const isElfError = (e: unknown): boolean => e instanceof UprobeError && e.name === 'ElfError';

export function exitStatusOf(e: unknown): 1 | 2 {
  if (e instanceof UsageError || e instanceof SpecError || e instanceof PlaceError) return 2;
  if (e instanceof FileError || e instanceof RefusedError || isElfError(e)) return 2;
  return e instanceof ProcessError && WRONG_PROCESS.has(e.code) ? 2 : 1;
}

/** An error that nobody foresaw: whoever repairs it needs to know where. */
export const isBug = (e: unknown): e is Error =>
  e instanceof TypeError ||
  e instanceof RangeError ||
  e instanceof ReferenceError ||
  e instanceof SyntaxError;
