/** Being somebody without any privilege, where the tests run as root. */
import { spawnSync } from 'node:child_process';
import { chmodSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { repositoryRoot } from './compile.js';

const NOBODY = 65_534;

/** In front of a command. */
export const AS_NOBODY: readonly string[] = [
  'setpriv',
  `--reuid=${NOBODY}`,
  `--regid=${NOBODY}`,
  '--clear-groups',
];

/** Why no command can be run as nobody, for `skip`; false when it can. */
export function whyNotAsNobody(): string | false {
  if (process.getuid?.() !== 0) return 'only root can become another user';
  const main = join(repositoryRoot, 'dist', 'bin', 'uprobe.js');
  const [setpriv = '', ...flags] = AS_NOBODY;
  const { status } = spawnSync(setpriv, [...flags, process.execPath, main, '--version'], {
    cwd: '/',
    stdio: 'ignore',
  });
  return status === 0 ? false : `another user cannot run ${main}`;
}

/** For the copies that `privateCopy` makes: let everybody run them. */
export function openToAll(path: string): string {
  chmodSync(dirname(path), 0o755);
  chmodSync(path, 0o755);
  return path;
}

/** What this process itself can do without its privileges; whoever has none anyway just does it. */
export function withoutPrivilege<T>(act: () => T): T {
  if (process.getuid?.() !== 0) return act();
  process.seteuid!(NOBODY);
  try {
    return act();
  } finally {
    process.seteuid!(0);
  }
}
