/** Whose probes: processes that run already, or a command that is started for it. Checked before anything is touched. */
import { accessSync, constants, existsSync, readFileSync, statSync } from 'node:fs';
import type { EngineName } from '../index.js';
import { UsageError } from './usage-error.js';

/** Processes that exist, or all, now and later. */
export interface Whom {
  /** None: all. */
  readonly pids: readonly number[];
  /** Those of them that mean all their descendants, too. */
  readonly trees: ReadonlySet<number>;
}

export type Targets =
  | (Whom & { readonly kind: 'pids' | 'all' })
  /** `file`: what `command` means, by $PATH. `follow`: with all its descendants. */
  | {
      readonly kind: 'command';
      readonly command: string;
      readonly args: readonly string[];
      readonly file: string;
      readonly follow: boolean;
    };

/** What whoever has named no process may do instead. */
export const SAY_WHICH = 'Or say which processes: -p PID, --tree PID, or a command after --';

export interface TargetOptions {
  readonly pid?: readonly number[];
  readonly tree?: readonly number[];
  readonly follow?: boolean;
  readonly engine?: 'auto' | EngineName;
}

export function chooseTargets(options: TargetOptions, command: readonly string[] | undefined): Targets {
  const { pid, tree, follow = false, engine } = options;
  if (command !== undefined && (pid ?? tree) !== undefined) {
    const given = pid === undefined ? '--tree PID' : '-p PID';
    throw new UsageError(`give either ${given} or a command after --, not both`);
  }
  if (command !== undefined) {
    const [name, ...args] = command;
    if (name === undefined) throw new UsageError('no command follows --');
    return { kind: 'command', command: name, args, file: findCommand(name), follow };
  }
  if (pid === undefined && tree === undefined) {
    if (engine === 'auto' || engine === 'kernel') {
      if (follow)
        throw new UsageError(
          '-f is for descendants: say whose, with -p PID, --tree PID, or a command after --; without them all processes are probed',
        );
      return { kind: 'all', pids: [], trees: new Set() };
    }
    const why =
      engine === undefined
        ? 'probe modules do not get all processes of the machine'
        : `the ${engine} engine attaches to processes one by one`;
    throw new UsageError(
      `say which processes: -p PID, --tree PID, or a command after --, as in \`uprobe count libc:malloc -- ls\`: ${why}`,
    );
  }
  const roots = [...(tree ?? []), ...(follow ? (pid ?? []) : [])];
  for (const root of roots) checkPid(root, tree?.includes(root) === true ? '--tree' : '-p');
  for (const one of pid ?? []) checkPid(one, '-p');
  return { kind: 'pids', ...eachOnce(pid ?? [], new Set(roots)) };
}

/** Whom to probe, when a command has been started. */
export const whomOf = (targets: Targets, started: number | undefined): Whom =>
  targets.kind === 'command'
    ? { pids: [started!], trees: new Set(targets.follow ? [started!] : []) }
    : targets;

/** The only engine that reaches processes nobody has named. */
export const engineFor = (targets: Targets, wanted: 'auto' | EngineName): 'auto' | EngineName =>
  targets.kind === 'all' && wanted === 'auto' ? 'kernel' : wanted;

/** What is in a tree anyway need not be named besides: its hits would count twice. */
function eachOnce(pids: readonly number[], roots: ReadonlySet<number>): Whom {
  const isBelow = (pid: number): boolean => ancestorsOf(pid).some((a) => roots.has(a));
  const named = [...new Set([...pids, ...roots])].filter((pid) => !isBelow(pid));
  return { pids: named, trees: new Set(named.filter((pid) => roots.has(pid))) };
}

function ancestorsOf(pid: number): number[] {
  const found: number[] = [];
  for (let parent = parentOf(pid); parent > 1 && !found.includes(parent); parent = parentOf(parent))
    found.push(parent);
  return found;
}

function parentOf(pid: number): number {
  try {
    return Number(/^PPid:\t(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1] ?? 0);
  } catch {
    return 0;
  }
}

/** /proc/TID exists for threads too, though no listing shows it (proc(5)). */
function checkPid(pid: number, option: string): void {
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
    throw new UsageError(`${pid} is a thread of process ${leader}: write ${option} ${leader}`);
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
