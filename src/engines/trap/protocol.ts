/** What the two threads of the trap engine say to each other besides hits. Plain data. */
import { ProcessError, UprobeError } from '../../base/errors.js';
import type { Program } from '../../linux/clone.js';
import { SyscallError } from '../../linux/syscall-error.js';
import type { ArmReport, Consumer, Phase, SiteFacts } from '../engine.js';

/** One uprobe as the tracer needs it: `counter` is where its hits are counted when it has no handlers. */
export interface TracerConsumer extends Consumer {
  readonly counter: number;
}

export interface TracerChange {
  readonly site: SiteFacts;
  readonly consumers: readonly TracerConsumer[];
}

/** What a site's facts are: they are found out here, and sent as they are. */
export const plainSite = ({ id, module, offset, instruction, template, refusal }: SiteFacts): SiteFacts => ({
  id,
  module,
  offset,
  instruction,
  template,
  refusal,
});

/** How each site stands in each process; `refused` are those of descendants that are not traced at all. */
export interface Applied {
  readonly reports: readonly ArmReport[];
  readonly refused: readonly ArmReport[];
}

export type Command =
  | { readonly id: number; readonly kind: 'apply'; readonly changes: readonly TracerChange[] }
  | { readonly id: number; readonly kind: 'spawn'; readonly program: Program }
  | { readonly id: number; readonly kind: 'resume'; readonly pid: number }
  | { readonly id: number; readonly kind: 'close' };

export type Answer =
  | { readonly kind: 'wake' }
  | { readonly kind: 'done'; readonly id: number; readonly value: unknown }
  | { readonly kind: 'failed'; readonly id: number; readonly error: PlainError }
  | { readonly kind: 'state'; readonly report: ArmReport }
  | {
      readonly kind: 'missed';
      readonly siteId: number;
      readonly pid: number;
      readonly trees: readonly number[];
      readonly phase: Phase;
      readonly why: string;
    }
  | {
      readonly kind: 'abandoned';
      readonly siteId: number;
      readonly pid: number;
      readonly trees: readonly number[];
      readonly calls: readonly number[];
    }
  | { readonly kind: 'ended'; readonly pid: number }
  /** A new process, which stands as its parent does at every site that is wanted in its trees. */
  | {
      readonly kind: 'born';
      readonly pid: number;
      readonly parent: number;
      readonly trees: readonly number[];
    }
  /** No process of a tree is left. */
  | { readonly kind: 'treeEnded'; readonly root: number }
  | {
      readonly kind: 'exited';
      readonly pid: number;
      readonly code: number | null;
      readonly signal: number | null;
    }
  | { readonly kind: 'crashed'; readonly error: PlainError };

/** An error between threads: structured clone would lose its class and code. */
export interface PlainError {
  readonly message: string;
  readonly code: string;
  readonly pid?: number;
  readonly syscall?: string;
  readonly errno?: number;
  readonly hint?: string;
  readonly stack?: string;
}

export function toPlain(e: unknown): PlainError {
  if (e instanceof SyscallError) {
    const { message, code, syscall, errno, hint } = e;
    return { message, code, syscall, errno, ...(hint === undefined ? {} : { hint }) };
  }
  if (e instanceof ProcessError) return { message: e.message, code: e.code, pid: e.pid };
  if (e instanceof UprobeError) return { message: e.message, code: e.code };
  if (e instanceof Error)
    return {
      message: e.message,
      code: 'internal-error',
      ...(e.stack === undefined ? {} : { stack: e.stack }),
    };
  return { message: String(e), code: 'internal-error' };
}

export function fromPlain(e: PlainError): Error {
  if (e.syscall !== undefined && e.errno !== undefined) return new SyscallError(e.syscall, e.errno, e.hint);
  if (e.pid !== undefined) return new ProcessError(e.code, e.pid, e.message);
  const error = new UprobeError(e.code, e.message);
  if (e.stack !== undefined) error.stack = e.stack;
  return error;
}
