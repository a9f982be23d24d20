/** What the main thread and the probe thread say to each other. Hits take no part in it: they stay on the probe thread. */
import type { ExitStatus } from '../index.js';
import { ProcessError, SpecError, UprobeError } from '../base/errors.js';
import type { GivenParameters } from './parameters.js';
import type { Parameters, ProbeContext } from './types.js';

/** A file to load, and what was given behind it. */
export interface ModuleRequest {
  readonly file: string;
  readonly given: GivenParameters;
}

/** What a file says of itself. */
export interface ModuleDescription {
  readonly file: string;
  readonly description: string | undefined;
  readonly parameters: Parameters | undefined;
}

export interface LoadRequest {
  readonly processes: ProbeContext['processes'];
  readonly command: readonly string[] | undefined;
  /** Where `print` prints. */
  readonly fd: number;
}

export type Request =
  /** Read the files and run their top level: nothing is probed yet. Answered with their descriptions. */
  | { readonly kind: 'import'; readonly modules: readonly ModuleRequest[]; readonly check: boolean }
  /** Answered with the pid. */
  | { readonly kind: 'spawn'; readonly command: string; readonly args: readonly string[] }
  | { readonly kind: 'resume' }
  | ({ readonly kind: 'load' } & LoadRequest)
  | { readonly kind: 'unload' }
  /** The process ends: let every target go. */
  | { readonly kind: 'close' };

export type Command = Request & { readonly id: number };

export type Answer =
  /** `engine`: what to close it by when the thread no longer can. */
  | { readonly kind: 'ready'; readonly engine: number }
  | { readonly kind: 'done'; readonly id: number; readonly value: unknown }
  | { readonly kind: 'failed'; readonly id: number; readonly error: PlainError }
  /** The started command has ended. */
  | { readonly kind: 'exited'; readonly status: ExitStatus }
  /** Every module has said that it has done its work. */
  | { readonly kind: 'ended' }
  | { readonly kind: 'output-broken'; readonly message: string; readonly code: string | undefined }
  /** Something failed outside of any call of ours, and the run is over. */
  | { readonly kind: 'crashed'; readonly message: string }
  | { readonly kind: 'note'; readonly text: string }
  /** Of a tree: whether every uprobe is gone, for nobody is left that could hit it. */
  | { readonly kind: 'nothing-left'; readonly isSo: boolean }
  /** The thread has heard that it shall unload: it is not stuck. */
  | { readonly kind: 'unloading' };

/** An error between threads: structured clone would lose its class and code. */
export interface PlainError {
  readonly message: string;
  /** Whether the request was wrong in itself. */
  readonly isWrong: boolean;
  readonly code?: string;
  readonly pid?: number;
}

/** @param message what the error says, with its place */
export function toPlain(e: unknown, message: string): PlainError {
  if (e instanceof ProcessError) return { message, code: e.code, pid: e.pid, isWrong: false };
  if (!(e instanceof UprobeError)) return { message, isWrong: false };
  const isWrong = ['SpecError', 'PlaceError', 'FileError', 'RefusedError', 'ElfError'].includes(e.name);
  return { message, code: e.code, isWrong };
}

export function fromPlain({ message, code, pid, isWrong }: PlainError): Error {
  if (code === undefined) return new Error(message);
  if (pid !== undefined) return new ProcessError(code, pid, message);
  return isWrong ? new SpecError(code, message) : new UprobeError(code, message);
}
