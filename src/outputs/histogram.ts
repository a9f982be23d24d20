/** Histograms as lines, as bpftrace's users know them. */

/** How many values there were of at least `from` and less than `to`. */
export interface ShownBucket {
  readonly from: bigint;
  readonly to: bigint;
  readonly count: number;
}

/** Where 64 bits begin and end: a bucket that reaches there has no other limit. */
const LEAST = -(1n << 63n);
const END = 1n << 64n;

/** bpftrace's widths, for lines of 79 characters. They grow with what they hold; the bar shrinks with the terminal. */
const LABEL_WIDTH = 16;
const COUNT_WIDTH = 8;
const BAR_WIDTH = 52;
/** A narrower bar says nothing. */
const LEAST_BAR = 4;

/**
 * A line for each bucket: its limits, its count, and a bar, the longest for the one with the most. A terminal that is too narrow for
 * a bar gets none.
 *
 * @param limit how a limit is shown: `powerText`, or `durationText` for nanoseconds
 */
export function histogramLines(
  buckets: readonly ShownBucket[],
  columns: number,
  limit: (value: bigint) => string = powerText,
): string[] {
  const most = buckets.reduce((max, { count }) => Math.max(max, count), 1);
  const labels = buckets.map((bucket) => labelOf(bucket, limit));
  const labelWidth = labels.reduce((width, { length }) => Math.max(width, length + 1), LABEL_WIDTH);
  const countWidth = Math.max(COUNT_WIDTH, String(most).length);
  // The last column stays free: some terminals begin a new line when it is written.
  const room = columns - 1 - (labelWidth + countWidth + ' ||'.length);
  const barWidth = Math.min(BAR_WIDTH, room);
  return buckets.map(({ count }, i) => {
    const line = labels[i]!.padEnd(labelWidth) + String(count).padStart(countWidth);
    if (barWidth < LEAST_BAR) return line;
    return `${line} |${'@'.repeat(Math.floor((count / most) * barWidth)).padEnd(barWidth)}|`;
  });
}

function labelOf({ from, to }: ShownBucket, limit: (value: bigint) => string): string {
  if (from === LEAST) return `(..., ${limit(to)})`;
  if (to === END) return `[${limit(from)}, ...)`;
  return to - from === 1n ? `[${limit(from)}]` : `[${limit(from)}, ${limit(to)})`;
}

const SUFFIXES = ['', 'K', 'M', 'G', 'T', 'P', 'E'];

/** `4K` for 4096: only where nothing is lost by it. */
export function powerText(value: bigint): string {
  let left = value;
  let power = 0;
  while (left !== 0n && left % 1024n === 0n) {
    left /= 1024n;
    power++;
  }
  return `${left}${SUFFIXES[power]!}`;
}
