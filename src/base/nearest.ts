/** The names a mistyped one may have meant. */
import { editDistance } from './edit-distance.js';

/** Longer ones are no typing errors of each other, and nobody would read them in a message. */
const LONGEST = 256;

/**
 * At most `count` of the names, the nearest first: other case or underscores, a few keystrokes away, then names that
 * begin with the wanted one or contain it (so `Start` finds `_ZN4node5StartEiPPc`). Case is ignored.
 */
export function nearest(wanted: string, names: Iterable<string>, count = 3): string[] {
  const best: { readonly name: string; readonly score: number }[] = [];
  const scoreOf = scorer(wanted.toLowerCase());
  for (const name of names) {
    const score = scoreOf(name);
    const worst = best[count - 1];
    if (score === undefined || (worst && score >= worst.score) || best.some((b) => b.name === name)) continue;
    best.push({ name, score });
    best.sort((a, b) => a.score - b.score);
    best.length = Math.min(best.length, count);
  }
  return best.map((b) => b.name);
}

/** Lower is nearer; undefined: not alike. */
function scorer(wanted: string): (name: string) => number | undefined {
  const bare = withoutUnderscores(wanted);
  const limit = wanted.length <= 4 ? 1 : wanted.length <= 8 ? 2 : 3;
  return (name) => {
    if (name === '' || name.length > LONGEST || wanted.length > LONGEST) return undefined;
    const other = name.toLowerCase();
    if (other === wanted) return 0;
    if (bare !== '' && withoutUnderscores(other) === bare) return 0.5;
    return editDistance(wanted, other, limit) ?? containing(wanted, other);
  };
}

/** Behind every typing error; the less there is around it, the nearer. */
function containing(wanted: string, other: string): number | undefined {
  const at = wanted.length < 3 ? -1 : other.indexOf(wanted);
  return at < 0 ? undefined : (at === 0 ? 4 : 5) + (other.length - wanted.length) / (LONGEST + 1);
}

const withoutUnderscores = (name: string): string => name.replace(/^_+/, '');
