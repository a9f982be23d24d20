/** Columns of text for a terminal or a file. */
import { escapeText } from '../base/escape.js';

export interface Column {
  readonly title: string;
  readonly align?: 'left' | 'right';
}

/** The rows as lines under a line of titles. Cells are escaped here; the last column is not padded. */
export function table(columns: readonly Column[], rows: Iterable<readonly string[]>): string[] {
  const cells = [columns.map((c) => c.title), ...[...rows].map((row) => row.map(escapeText))];
  const widths = columns.map(() => 0);
  for (const row of cells) {
    for (let i = 0; i < columns.length; i++) widths[i] = Math.max(widths[i]!, row[i]!.length);
  }
  return cells.map((row) => row.map((cell, i) => pad(columns, widths, cell, i)).join('  '));
}

function pad(columns: readonly Column[], widths: readonly number[], cell: string, i: number): string {
  if (columns[i]?.align === 'right') return cell.padStart(widths[i]!);
  return i === columns.length - 1 ? cell : cell.padEnd(widths[i]!);
}
