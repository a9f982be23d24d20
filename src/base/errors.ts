/**
 * Every error a user can meet. `message` says what happened, to which file or process, and what to do next;
 * `code` is stable and meant for programs.
 */
export class UprobeError extends Error {
  override readonly name: string = 'UprobeError';
  /** A stable word for programs, e.g. `'symbol-not-found'`. */
  readonly code: string;
  constructor(code: string, message: string, options?: { cause?: unknown }) {
    super(message, options);
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
    super(
      refusal.code,
      `${what}: ${refusal.reason}${refusal.remedy ? `. ${refusal.remedy}` : ''} (${refusal.code})`,
    );
    this.refusal = refusal;
  }
}

export const messageOf = (e: unknown): string => (e instanceof Error ? e.message : String(e));
