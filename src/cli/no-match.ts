/** What is said where no function of a file has the name that was asked for. */
import type { ModuleView } from '../index.js';
import { nearest } from '../base/nearest.js';
import { UsageError } from './usage-error.js';

export function noMatch(view: ModuleView, glob: string): UsageError {
  const names = [...namesOf(view)];
  if (names.length === 0) return noNames(view);
  const near = nearest(glob.replace(/[*?[\]!\\]/g, ''), names);
  const hint =
    near.length > 0 ? `: there are ${near.join(', ')}` : `; \`uprobe list ${view.path}\` shows them all`;
  return new UsageError(`${view.path}: no function matches '${glob}'${hint}`);
}

/** A file that names nothing at all. */
export const noNames = (view: ModuleView): UsageError =>
  new UsageError(
    `${view.path}: it names no functions (it is stripped). Install its debug symbols (in Debian a package -dbgsym, in ` +
      'Fedora `debuginfo-install`), or give places by their file offset (PATH:0x…) or address (PATH:@0x…)',
  );

function* namesOf(view: ModuleView): Iterable<string> {
  for (const { name, aliases } of view.functions()) {
    yield name;
    yield* aliases;
  }
}
