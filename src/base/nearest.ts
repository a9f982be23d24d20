/** The names a mistyped one may have meant. */

/**
 * Insertions, deletions, replacements and swaps of neighbours between two words (optimal string alignment), given
 * up as `limit + 1` once they must be more than `limit`.
 */
function distance(a: string, b: string, limit: number): number {
  if (Math.abs(a.length - b.length) > limit) return limit + 1;
  let before: number[] = [];
  let above = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = above[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      let cost = Math.min(replaced, above[j]! + 1, row[j - 1]! + 1);
      const isSwap = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (isSwap) cost = Math.min(cost, before[j - 2]! + 1);
      row.push(cost);
    }
    if (Math.min(...row) > limit) return limit + 1;
    before = above;
    above = row;
  }
  return above[b.length]!;
}

/**
 * At most `count` of the names, nearest first: those a few keystrokes away, then those that contain the wanted one.
 * Case is ignored. Names of hostile length are passed over, so that the cost stays linear in their number.
 */
export function nearest(wanted: string, names: Iterable<string>, count = 3): string[] {
  const lower = wanted.toLowerCase().slice(0, 100);
  const limit = Math.max(1, Math.floor(lower.length / 3));
  const found: { name: string; rank: number }[] = [];
  for (const name of new Set(names)) {
    if (name === '' || name.length > 200) continue;
    const candidate = name.toLowerCase();
    const steps = distance(lower, candidate, limit);
    if (steps <= limit) found.push({ name, rank: steps });
    else if (lower.length >= 3 && candidate.includes(lower)) found.push({ name, rank: limit + name.length });
  }
  found.sort((a, b) => a.rank - b.rank || (a.name < b.name ? -1 : 1));
  return found.slice(0, count).map((f) => f.name);
}
