/** Whose probes: processes that run already, or a command that is started for it. Checked before anything is touched. */
import { accessSync, constants, existsSync, readFileSync, statSync } from 'node:fs';
import { UsageError } from './usage-error.js';

export type Targets =
  | { readonly kind: 'pids'; readonly pids: readonly number[] }
  /** `file`: what `command` means, by $PATH. */
  | {
      readonly kind: 'command';
      readonly command: string;
      readonly args: readonly string[];
      readonly file: string;
    };

export function chooseTargets(
  pids: readonly number[] | undefined,
  command: readonly string[] | undefined,
): Targets {
  if (command !== undefined && pids !== undefined) {
    throw new UsageError('give either -p PID or a command after --, not both');
  }
  if (command !== undefined) {
    const [name, ...args] = command;
    if (name === undefined) throw new UsageError('no command follows --');
    return { kind: 'command', command: name, args, file: findCommand(name) };
  }
  if (pids === undefined) {
    throw new UsageError(
      'say which processes: -p PID, or a command after --, as in `uprobe count libc:malloc -- ls`. ' +
        'Probing every process of the machine at once is not possible yet',
    );
  }
  for (const pid of pids) checkPid(pid);
  return { kind: 'pids', pids };
}

/** /proc/TID exists for threads too, though no listing shows it (proc(5)). */
function checkPid(pid: number): void {
  // Said here, before its libraries are looked at: who may not do that would be told of a missing permission.
  if (pid === 1) throw new UsageError('process 1 is never probed: the machine (or container) lives by it');
  let status: string;
  try {
    status = readFileSync(`/proc/${pid}/status`, 'latin1');
  } catch {
    throw new UsageError(`there is no process ${pid}`);
  }
  const leader = /^Tgid:\t(\d+)$/m.exec(status)?.[1];
  if (leader !== undefined && leader !== String(pid)) {
    throw new UsageError(`${pid} is a thread of process ${leader}: write -p ${leader}`);
  }
}

/** What execvp(3) would find; what it finds may still fail to start, which is told when it is tried. */
function findCommand(name: string): string {
  if (name === '') throw new UsageError('the command after -- is empty');
  if (name.includes('/')) {
    const problem = whyNotExecutable(name);
    if (problem !== undefined) throw new UsageError(`${name}: ${problem}`);
    return name;
  }
  // An empty entry of $PATH is the current directory (POSIX.1-2024 XBD 8.3).
  const directories = (process.env['PATH'] ?? '/usr/local/bin:/bin:/usr/bin').split(':');
  const candidates = directories.map((directory) => `${directory === '' ? '.' : directory}/${name}`);
  const file = candidates.find((path) => whyNotExecutable(path) === undefined);
  if (file !== undefined) return file;
  const found = candidates.find((path) => existsSync(path));
  if (found !== undefined) throw new UsageError(`${found}: ${whyNotExecutable(found) ?? 'it cannot be run'}`);
  throw new UsageError(`${name}: command not found in $PATH`);
}

function whyNotExecutable(path: string): string | undefined {
  try {
    if (!statSync(path).isFile()) return 'it is not a file that can be run';
    accessSync(path, constants.X_OK);
    return undefined;
  } catch (e) {
    const { code } = e as NodeJS.ErrnoException;
    if (code === 'EACCES') return 'permission denied (is it executable?)';
    return code === 'ENOENT' || code === 'ENOTDIR' ? 'there is no such file' : `it cannot be run (${code})`;
  }
}
