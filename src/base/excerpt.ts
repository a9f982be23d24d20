/** A spot in a text, shown as compilers do: the text around it in one line, and carets below. */
import { escapeText } from './escape.js';

/** What wcwidth(3) calls two columns wide: East Asian wide and fullwidth characters, emoji. */
const WIDE =
  /[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\ua960-\ua97c\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff01-\uff60\uffe0-\uffe6\u{16fe0}-\u{1b2ff}\u{20000}-\u{3fffd}]|\p{Emoji_Presentation}/u;
const FLAG_LETTER = /[\u{1f1e6}-\u{1f1ff}]/u;
/** What stands on the character before it: accents, variation selectors, the later letters of a Hangul syllable. */
const ZERO = /[\p{Mn}\p{Me}\u1160-\u11ff]/u;

/** The columns of one character on a terminal. */
function widthOf(char: string): number {
  if (char <= '\u02ff') return 1;
  if (ZERO.test(char)) return 0;
  return WIDE.test(char) && !FLAG_LETTER.test(char) ? 2 : 1;
}

/** The columns that a text takes on a terminal, as it stands. */
export function columnsOf(text: string): number {
  let columns = 0;
  for (const char of text) columns += widthOf(char);
  return columns;
}

/** A character with what stands on it, as it is shown. */
interface Cell {
  readonly start: number;
  end: number;
  shown: string;
  columns: number;
}

function cellsOf(text: string): Cell[] {
  const cells: Cell[] = [];
  let start = 0;
  for (const char of text) {
    const end = start + char.length;
    const shown = escapeText(char);
    const columns = columnsOf(shown);
    const before = cells.at(-1);
    if (columns === 0 && before !== undefined) {
      before.shown += shown;
      before.end = end;
    } else cells.push({ start, end, shown, columns });
    start = end;
  }
  return cells;
}

const width = (cells: readonly Cell[]): number => cells.reduce((sum, c) => sum + c.columns, 0);

/**
 * Two lines of at most so many columns. `start` and `end` are in UTF-16 code units; a spot may lie behind the text. What
 * is left out is marked by `…`.
 */
export function excerpt(text: string, start: number, end: number, columns: number): [string, string] {
  const cells = cellsOf(text);
  if (start >= text.length) cells.push({ start: text.length, end: Infinity, shown: '', columns: 1 });
  const first = cells.findIndex((c) => c.end > start);
  const [from, to] = windowAround(cells, first, columns);
  const shown = (some: readonly Cell[]): string => some.map((c) => c.shown).join('');
  const left = from > 0 ? '…' : '';
  const right = to < cells.length ? '…' : '';
  const marked = cells.slice(first, to).filter((c, i) => i === 0 || c.start < end);
  return [
    `${left}${shown(cells.slice(from, to))}${right}`,
    ' '.repeat(left.length + width(cells.slice(from, first))) + '^'.repeat(Math.max(1, width(marked))),
  ];
}

/** The cells to show, from the one to before the other: a third of the room before the spot, more where nothing follows. */
function windowAround(cells: readonly Cell[], spot: number, columns: number): [number, number] {
  if (width(cells) <= columns) return [0, cells.length];
  let free = columns - 2; // the marks of what is left out
  let [from, to] = [spot, spot];
  const fits = (i: number): boolean => (cells[i]?.columns ?? Infinity) <= free;
  const before = (least: number): void => {
    while (free > least && fits(from - 1)) free -= cells[--from]!.columns;
  };
  if (fits(spot)) free -= cells[to++]!.columns;
  before(Math.ceil((free * 2) / 3));
  while (fits(to)) free -= cells[to++]!.columns;
  before(0);
  return [from, to];
}
