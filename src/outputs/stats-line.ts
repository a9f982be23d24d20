/** Count, mean, least, greatest and sum as one line. */

export interface ShownStats {
  readonly count: number;
  readonly sum: bigint;
  readonly min: bigint | undefined;
  readonly max: bigint | undefined;
  readonly mean: number | undefined;
}

/**
 * `count 3  mean 2.33  min 1  max 4  sum 7`.
 *
 * @param show how a value is shown; `durationText` for nanoseconds
 */
export function statsLine(
  { count, sum, min, max, mean }: ShownStats,
  show?: (value: bigint) => string,
): string {
  if (min === undefined || max === undefined || mean === undefined) return `count ${count}`;
  const text = show ?? String;
  const average = show === undefined ? meanText(mean) : show(BigInt(Math.round(mean)));
  return `count ${count}  mean ${average}  min ${text(min)}  max ${text(max)}  sum ${text(sum)}`;
}

/** Two digits behind the point at most. */
export const meanText = (mean: number): string => String(Number(mean.toFixed(2)));
