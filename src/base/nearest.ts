/** The names a mistyped one may have meant. */
import { editDistance } from './edit-distance.js';

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
    const steps = editDistance(lower, candidate, limit);
    if (steps !== undefined) found.push({ name, rank: steps });
    else if (lower.length >= 3 && candidate.includes(lower)) found.push({ name, rank: limit + name.length });
  }
  found.sort((a, b) => a.rank - b.rank || (a.name < b.name ? -1 : 1));
  return found.slice(0, count).map((f) => f.name);
}
