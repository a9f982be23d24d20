/** Where in its author's files an error comes from: `/home/me/probes.ts:12:5`. */
import { fileURLToPath } from 'node:url';

/** A place in a stack, or in the line before a syntax error's code. */
const PLACE = /(file:\/\/[^\s()]+?):(\d+)(?::(\d+))?\)?$/;

/**
 * The innermost place of a stack that is in a file of a module.
 * @param ours whether a path is a file of this package's own
 */
export function placeIn(stack: string | undefined, ours: (path: string) => boolean): string | undefined {
  for (const line of stack?.split('\n') ?? []) {
    const match = PLACE.exec(line.trimEnd());
    if (match === null) continue;
    const path = pathOf(match[1]!);
    if (path === undefined || ours(path)) continue;
    return [path, match[2], ...(match[3] === undefined ? [] : [match[3]])].join(':');
  }
  return undefined;
}

/** Without the mark that tells modules' copies apart. */
function pathOf(url: string): string | undefined {
  try {
    return fileURLToPath(url.replace(/\?.*$/, ''));
  } catch {
    return undefined;
  }
}
