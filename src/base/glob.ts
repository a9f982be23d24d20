/**
 * Glob patterns over names: `*` any run of characters, `?` any one character, `[abc]`, `[a-z]`, `[!a-z]` one of a
 * set, `\` before a character takes it literally. A `[` without its `]` is an ordinary character, as in the shell.
 * Matching is linear in practice and at worst pattern × name: no pattern can make it explode, as a regular
 * expression could.
 */

/** One element of a pattern. A star is `undefined`. */
type Element = { readonly any: true } | { readonly char: string } | CharSet | undefined;
interface CharSet {
  readonly negated: boolean;
  /** Pairs of code units, both included. */
  readonly ranges: readonly (readonly [string, string])[];
}

/** Whether the text has glob characters that are not escaped. */
export const isGlob = (pattern: string): boolean =>
  parse(pattern).some((e) => e === undefined || !('char' in e));

/** The text a pattern without glob characters means: escapes taken off. */
export const unescapeGlob = (pattern: string): string => pattern.replace(/\\(.)/gsu, '$1');

/** A function that says whether a name matches the whole pattern. */
export function globMatcher(pattern: string): (name: string) => boolean {
  const elements = parse(pattern);
  const prefix = literalPrefix(elements);
  if (prefix.length === elements.length) return (name) => name === prefix;
  return (name) => name.startsWith(prefix) && matches(elements, name);
}

function literalPrefix(elements: readonly Element[]): string {
  let prefix = '';
  for (const element of elements) {
    if (element === undefined || !('char' in element)) break;
    prefix += element.char;
  }
  return prefix;
}

/** By code unit, so that names that are not well-formed Unicode match like any other. */
function parse(pattern: string): Element[] {
  const elements: Element[] = [];
  for (let i = 0; i < pattern.length; i++) {
    const char = pattern.charAt(i);
    if (char === '*') {
      // Two stars in a row mean what one does.
      if (elements.length === 0 || elements.at(-1) !== undefined) elements.push(undefined);
    } else if (char === '?') {
      elements.push({ any: true });
    } else if (char === '\\' && i + 1 < pattern.length) {
      elements.push({ char: pattern.charAt(++i) });
    } else if (char === '[') {
      const set = parseSet(pattern, i);
      elements.push(set === undefined ? { char } : set.set);
      i = set === undefined ? i : set.end;
    } else {
      elements.push({ char });
    }
  }
  return elements;
}

/** POSIX.1-2024 XCU 2.14.1: a `]` that comes first in the set is an ordinary character. */
function parseSet(pattern: string, start: number): { set: CharSet; end: number } | undefined {
  let i = start + 1;
  const negated = pattern.charAt(i) === '!' || pattern.charAt(i) === '^';
  if (negated) i++;
  const ranges: [string, string][] = [];
  for (let first = true; i < pattern.length; first = false) {
    let low = pattern.charAt(i++);
    if (low === ']' && !first) return { set: { negated, ranges }, end: i - 1 };
    if (low === '\\' && i < pattern.length) low = pattern.charAt(i++);
    let high = low;
    if (pattern.charAt(i) === '-' && i + 1 < pattern.length && pattern.charAt(i + 1) !== ']') {
      high = pattern.charAt(i + 1);
      i += 2;
    }
    ranges.push([low, high]);
  }
  return undefined;
}

function matchesOne(element: Exclude<Element, undefined>, char: string): boolean {
  if ('char' in element) return element.char === char;
  if ('any' in element) return true;
  return element.ranges.some(([low, high]) => char >= low && char <= high) !== element.negated;
}

/** On a mismatch only the last star is tried again, one character further: earlier stars can gain nothing. */
function matches(elements: readonly Element[], name: string): boolean {
  let e = 0;
  let n = 0;
  let star = -1;
  let resume = 0;
  while (n < name.length) {
    const element = elements[e];
    if (e < elements.length && element === undefined) {
      star = e++;
      resume = n;
    } else if (element !== undefined && matchesOne(element, name.charAt(n))) {
      e++;
      n++;
    } else if (star >= 0) {
      e = star + 1;
      n = ++resume;
    } else {
      return false;
    }
  }
  while (e < elements.length && elements[e] === undefined) e++;
  return e === elements.length;
}
