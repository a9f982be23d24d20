/** Options' words to values, each with a message that says what would be right. */
import { InvalidArgumentError } from 'commander';

/** setTimeout takes a signed 32-bit number of milliseconds. */
const LONGEST_SECONDS = Math.floor(0x7fff_ffff / 1000);

/** `-p 12 -p 13,14`. */
export function parsePids(text: string, before: readonly number[] | undefined): readonly number[] {
  return [...new Set([...(before ?? []), ...text.split(',').map(parsePid)])];
}

function parsePid(word: string): number {
  const pid = /^\s*\d+\s*$/.test(word) ? Number(word) : NaN;
  // include/linux/threads.h: PID_MAX_LIMIT is 2^22.
  if (!(pid >= 1 && pid <= 1 << 22)) throw new InvalidArgumentError(`'${word.trim()}' is not a process id.`);
  return pid;
}

export function parseCount(text: string): number {
  const count = /^\d+$/.test(text) ? Number(text) : NaN;
  if (!(count >= 1 && Number.isSafeInteger(count)))
    throw new InvalidArgumentError('It must be a whole number, 1 or more.');
  return count;
}

/** Seconds, also fractions, as milliseconds. */
export function parseSeconds(text: string): number {
  const seconds = /^(?:\d+\.?\d*|\.\d+)$/.test(text) ? Number(text) : NaN;
  if (!(seconds > 0 && seconds <= LONGEST_SECONDS)) {
    throw new InvalidArgumentError(`It must be a number of seconds above 0, at most ${LONGEST_SECONDS}.`);
  }
  return Math.ceil(seconds * 1000);
}

export function parseMilliseconds(text: string): number {
  const ms = /^(?:\d+\.?\d*|\.\d+)$/.test(text) ? Number(text) : NaN;
  if (!(ms > 0 && ms <= 3_600_000)) {
    throw new InvalidArgumentError('It must be a number of milliseconds above 0, at most 3600000.');
  }
  return ms;
}

/** Where a linear histogram begins and ends, and how wide its buckets are. */
export interface LinearRange {
  readonly min: bigint;
  readonly max: bigint;
  readonly step: bigint;
}

/** `MIN:MAX:STEP`. */
export function parseLinear(text: string): LinearRange {
  const words = text.split(':');
  if (words.length !== 3 || !words.every((w) => /^(?:-?\d+|0x[0-9a-f]+)$/i.test(w)))
    throw new InvalidArgumentError('Write MIN:MAX:STEP in whole numbers, as in 0:1000:100.');
  const [min, max, step] = words.map(BigInt) as [bigint, bigint, bigint];
  if (min >= max || step < 1n)
    throw new InvalidArgumentError('MIN must be less than MAX, and STEP at least 1, as in 0:1000:100.');
  const most = BigInt(MOST_BUCKETS);
  if (min < -(1n << 63n) || max > (1n << 64n) - 1n)
    throw new InvalidArgumentError('The limits must fit in 64 bits.');
  if ((max - min + step - 1n) / step > most)
    throw new InvalidArgumentError(
      `There may be ${most} buckets: make STEP ${(max - min + most - 1n) / most} or more.`,
    );
  return { min, max, step };
}

/** More are not looked at; the kernel has each for every CPU. */
const MOST_BUCKETS = 1000;
