/** `uprobe list`: the functions of a file that can be probed. */
import { openModule } from '../index.js';
import type { FunctionInfo } from '../index.js';
import { escapeText, jsonText } from '../base/escape.js';
import { hex } from '../base/address.js';
import { LineWriter } from '../outputs/line-writer.js';
import { noMatch, noNames } from './no-match.js';

export interface ListOptions {
  readonly json?: boolean;
}

export async function list(path: string, glob: string | undefined, options: ListOptions): Promise<number> {
  const view = openModule(path);
  try {
    let broken: NodeJS.ErrnoException | undefined;
    const lines = new LineWriter(1, (error) => {
      broken = error;
    });
    let found = 0;
    if (options.json !== true) lines.line(titles());
    for (const f of glob === undefined ? view.functions() : view.matching(glob)) {
      lines.line(options.json === true ? jsonLine(view.path, f) : textLine(f));
      found++;
      if (broken !== undefined) break;
    }
    if (found === 0) throw glob === undefined ? noNames(view) : noMatch(view, glob);
    lines.flush();
    if (broken !== undefined && broken.code !== 'EPIPE') throw broken;
    return 0;
  } finally {
    view.close();
  }
}

/** Fixed widths: the first line must not wait for the last. Addresses of user programs have at most 12 digits. */
const row = (address: string, offset: string, size: string, kind: string, name: string): string =>
  `${address.padStart(14)}  ${offset.padStart(12)}  ${size.padStart(8)}  ${kind.padEnd(5)}  ${name}`;

const titles = (): string => row('ADDRESS', 'OFFSET', 'SIZE', 'KIND', 'NAME');

function textLine(f: FunctionInfo): string {
  const names = f.aliases.length === 0 ? f.name : `${f.name} (${f.aliases.join(' ')})`;
  return row(hex(f.address), hex(f.offset), String(f.size), f.kind, escapeText(names));
}

function jsonLine(path: string, { name, aliases, address, offset, size, kind }: FunctionInfo): string {
  // Addresses have 64 bits: a decimal number in JSON loses some in most readers.
  return jsonText({ path, name, aliases, address: hex(address), offset, size, kind });
}
