/**
 * Where an ELF file's bytes come from, and the one error of this room. Nothing here opens files: whoever holds the
 * descriptor hands in a `ByteSource`, and only the parts that are asked for are ever read.
 */
import { UprobeError } from '../base/errors.js';

/** A file's bytes, read on demand. The size is taken once; the file must not be expected to grow. */
export interface ByteSource {
  readonly size: number;
  /** Exactly `length` bytes at `offset`. Throws where the file does not have them. */
  read(offset: number, length: number): Uint8Array;
}

export type ElfErrorCode =
  | 'not-elf'
  | 'elf-32-bit'
  | 'elf-machine'
  | 'elf-big-endian'
  | 'elf-not-loadable'
  | 'elf-truncated'
  | 'elf-malformed'
  | 'elf-too-large';

/** A file that is not a 64-bit x86 program or library, or is a damaged one. */
export class ElfError extends UprobeError {
  override readonly name = 'ElfError';
  declare readonly code: ElfErrorCode;
  /** The file, as the message calls it. */
  readonly file: string;
  constructor(code: ElfErrorCode, file: string, what: string) {
    super(code, `${file} ${what}`);
    this.file = file;
  }
}

/** A source over bytes already in memory (a vDSO, a test). */
export function memorySource(bytes: Uint8Array): ByteSource {
  return {
    size: bytes.length,
    read(offset, length) {
      if (offset < 0 || length < 0 || offset + length > bytes.length)
        throw new ElfError('elf-truncated', 'memory', `has ${bytes.length} bytes, not ${offset + length}`);
      return bytes.subarray(offset, offset + length);
    },
  };
}

/** Nothing this reader takes in one piece is longer; a file that claims more is refused, not allocated. */
const LARGEST_READ = 2 ** 30;

/** A named source whose every read is checked against the file's size before anything is allocated. */
export class ElfBytes {
  readonly name: string;
  readonly size: number;
  readonly #source: ByteSource;

  constructor(source: ByteSource, name: string) {
    this.name = name;
    this.size = source.size;
    this.#source = source;
  }

  /** `what` names the part for the error, e.g. `'section headers'`. */
  read(offset: number, length: number, what: string): Buffer {
    if (!(offset >= 0 && length >= 0 && offset + length <= this.size))
      throw this.truncated(what, offset, length);
    if (length > LARGEST_READ)
      throw new ElfError(
        'elf-too-large',
        this.name,
        `has ${length} bytes of ${what}, more than can be read here`,
      );
    const bytes = this.#source.read(offset, length);
    if (bytes.length !== length) throw this.truncated(what, offset, length);
    return Buffer.from(bytes.buffer, bytes.byteOffset, length);
  }

  /** The NUL-terminated string at `offset`, which must end before `limit` bytes. Decoded as UTF-8. */
  string(offset: number, limit: number, what: string): string {
    for (let length = 64; ; length *= 8) {
      const bytes = this.read(offset, Math.min(length, limit, Math.max(this.size - offset, 0)), what);
      const end = bytes.indexOf(0);
      if (end >= 0) return bytes.toString('utf8', 0, end);
      if (bytes.length < length) throw this.malformed(`its ${what} has no end`);
    }
  }

  malformed(what: string): ElfError {
    return new ElfError(
      'elf-malformed',
      this.name,
      `is a damaged ELF file: ${what}. Reinstall it or copy it again`,
    );
  }

  truncated(what: string, offset: number, length: number): ElfError {
    return new ElfError(
      'elf-truncated',
      this.name,
      `is cut short: its ${what} should be at bytes ${offset} to ${offset + length}, ` +
        `but it has only ${this.size}. Reinstall it or copy it again`,
    );
  }
}

/** A 64-bit little-endian word as a double: exact up to 2^53, and above it still above 2^53. */
export const u64 = (bytes: Buffer, at: number): number =>
  bytes.readUInt32LE(at + 4) * 2 ** 32 + bytes.readUInt32LE(at);
