/** Names a person may have meant. */

/** Beyond this a name is not a typing error of another. */
const LONGEST = 256;

/**
 * At most `max` of `names` that resemble `wanted`, the best first: other case or underscores, a few letters different,
 * then names that begin with it or contain it (so `Start` finds `_ZN4node5StartEiPPc`).
 */
export function similarNames(wanted: string, names: Iterable<string>, max: number): string[] {
  const best: { name: string; score: number }[] = [];
  const score = scorer(wanted);
  for (const name of names) {
    const s = score(name);
    const worst = best[max - 1];
    if (s === undefined || (worst && s >= worst.score) || best.some((b) => b.name === name)) continue;
    best.push({ name, score: s });
    best.sort((a, b) => a.score - b.score);
    best.length = Math.min(best.length, max);
  }
  return best.map((b) => b.name);
}

/** Lower is nearer; undefined: not alike. */
function scorer(wanted: string): (name: string) => number | undefined {
  const lower = wanted.toLowerCase();
  const bare = strip(lower);
  const limit = lower.length <= 4 ? 1 : lower.length <= 8 ? 2 : 3;
  return (name) => {
    if (name === wanted) return undefined;
    const other = name.toLowerCase();
    if (other === lower) return 0;
    if (bare !== '' && strip(other) === bare) return 0.5;
    const edits = Math.abs(other.length - lower.length) <= limit ? distance(lower, other, limit) : undefined;
    if (edits !== undefined) return edits;
    if (lower.length < 3) return undefined;
    const at = other.indexOf(lower);
    if (at < 0) return undefined;
    return (at === 0 ? 4 : 5) + Math.min(other.length - lower.length, 999) / 1000;
  };
}

const strip = (name: string): string => name.replace(/^_+/, '');

/**
 * Insertions, deletions, replacements and swaps of neighbours that turn one into the other, if at most `limit`
 * (optimal string alignment, cut off as soon as a row is beyond the limit).
 */
function distance(a: string, b: string, limit: number): number | undefined {
  if (a.length > LONGEST || b.length > LONGEST) return undefined;
  let before: number[] = [];
  let above = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      let cost = Math.min(above[j]! + 1, row[j - 1]! + 1, above[j - 1]! + (same ? 0 : 1));
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        cost = Math.min(cost, before[j - 2]! + 1);
      row.push(cost);
    }
    if (Math.min(...row) > limit) return undefined;
    before = above;
    above = row;
  }
  const edits = above[b.length]!;
  return edits <= limit ? edits : undefined;
}
