/** Names a person may have meant. */
import { editDistance } from '../base/edit-distance.js';

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
    const tooLong = lower.length > LONGEST || other.length > LONGEST;
    const edits = tooLong ? undefined : editDistance(lower, other, limit);
    if (edits !== undefined) return edits;
    if (lower.length < 3) return undefined;
    const at = other.indexOf(lower);
    if (at < 0) return undefined;
    return (at === 0 ? 4 : 5) + Math.min(other.length - lower.length, 999) / 1000;
  };
}

const strip = (name: string): string => name.replace(/^_+/, '');
