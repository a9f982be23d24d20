import { LIBRARY_WORDS, type Phrase, type Words } from './words.js';

/** Of errors and refusals that tell what to write. Beside them: errors and refusals are plain to their users. */
const phrases = new WeakMap<object, Phrase>();

/**
 * Every error a user can meet. `message` says what happened, to which file or process, and what to do next;
 * `code` is stable and meant for programs.
 */
export class UprobeError extends Error {
  override readonly name: string = 'UprobeError';
  /** A stable word for programs, e.g. `'symbol-not-found'`. */
  readonly code: string;
  constructor(code: string, message: string | Phrase, options?: { cause?: unknown }) {
    super(typeof message === 'string' ? message : message(LIBRARY_WORDS), options);
    if (typeof message !== 'string') phrases.set(this, message);
    this.code = code;
  }
}

/** The spec itself is wrong: refused before any file or process was touched. */
export class SpecError extends UprobeError {
  override readonly name = 'SpecError';
}

/** The place cannot be probed: no such symbol, not code, the middle of an instruction … */
export class PlaceError extends UprobeError {
  override readonly name = 'PlaceError';
}

/** A file that is not what it must be: not ELF, 32-bit, damaged, unreadable. */
export class FileError extends UprobeError {
  override readonly name = 'FileError';
}

/** A process that does not exist, may not be touched, or is someone else's tracee. */
export class ProcessError extends UprobeError {
  override readonly name = 'ProcessError';
  readonly pid: number;
  constructor(code: string, pid: number, message: string, options?: { cause?: unknown }) {
    super(code, message, options);
    this.pid = pid;
  }
}

/** What an engine will not do, and why. An expected answer: passed as a value, never thrown by engines. */
export interface Refusal {
  /** The stable name of the refusal, e.g. `'syscall-instruction'`; docs/refusals.md lists them all. */
  readonly code: string;
  /** One sentence for people, naming the thing refused. */
  readonly reason: string;
  /** What the user can do instead, where there is something. */
  readonly remedy?: string;
}

/** A registration that no engine would take, or that the forced engine refused. */
export class RefusedError extends UprobeError {
  override readonly name = 'RefusedError';
  readonly refusal: Refusal;
  constructor(what: string, refusal: Refusal) {
    const { code, reason } = refusal;
    super(code, (words) => {
      const remedy = remedyIn(words, refusal);
      return `${what}: ${reason}${remedy ? `. ${remedy}` : ''} (${code})`;
    });
    this.refusal = refusal;
  }
}

export function makeRefusal(code: string, reason: string, remedy: Phrase): Refusal {
  const made = { code, reason, remedy: remedy(LIBRARY_WORDS) };
  phrases.set(made, remedy);
  return made;
}

export const remedyIn = (words: Words, of: Refusal): string | undefined =>
  phrases.get(of)?.(words) ?? of.remedy;

export const messageOf = (e: unknown): string => (e instanceof Error ? e.message : String(e));

/** The message in the words of who shows it. */
export const messageIn = (words: Words, e: unknown): string =>
  (e instanceof UprobeError ? phrases.get(e)?.(words) : undefined) ?? messageOf(e);
