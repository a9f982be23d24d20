/**
 * What file a bare name means: `libc.so.6` or `libc` as a program's dynamic linker would find it (ld.so(8)), else a
 * program in $PATH. Everything is looked up as the process in question sees the files.
 */
import { accessSync, constants, readFileSync, readlinkSync } from 'node:fs';
import { resolve as resolvePath } from 'node:path';
import { FileError } from '../base/errors.js';
import { nearest } from '../base/nearest.js';
import { ourView, viewOf, type FileView } from './file-view.js';
import { librarySearch, parseQuietly, type LibrarySearch } from './library-search.js';
import { nameMatcher } from './library-name.js';
import { baseName, isFileText, openMapped } from './mapped-file.js';
import { readMaps, type Mapping } from './maps.js';
import { OpenedFile } from './opened-file.js';

type Environment = Readonly<Record<string, string | undefined>>;

/** For whom a name is resolved: a live process, or a program that will be started from here. */
export type LinkContext =
  | { readonly pid: number }
  | {
      readonly command?: string | undefined;
      readonly env?: Environment | undefined;
      readonly cwd?: string | undefined;
    };

/** execvp(3): what glibc searches when PATH is not set. */
const DEFAULT_PATH = '/bin:/usr/bin';

/**
 * Open the file that `name` means. A name with a slash is a path as *we* see it, whatever the process, as with bpftrace
 * and perf; the same file is found in every process, also in one that sees it under another path. Throws FileError.
 */
export function resolveLibrary(name: string, context: LinkContext = {}): OpenedFile {
  if (name.includes('/')) return OpenedFile.open(name);
  return 'pid' in context ? resolveInProcess(name, context.pid) : resolveHere(name, context);
}

function resolveInProcess(name: string, pid: number): OpenedFile {
  const mappings = readMaps(pid);
  const view = viewOf(pid);
  try {
    const env = environmentOf(pid);
    const root = readLink(`/proc/${pid}/root`) ?? '/';
    const origin = withinRoot(readLink(`/proc/${pid}/exe`) ?? '/', root);
    const cwd = withinRoot(readLink(`/proc/${pid}/cwd`) ?? '/', root);
    const found =
      mappedFile(name, pid, mappings, view) ??
      withProgram(openQuietly(`/proc/${pid}/exe`), origin, env, cwd, view, (search) => search?.find(name)) ??
      programInPath(name, env['PATH'], cwd, view);
    if (found !== undefined) return found;
    throw notFound(name, `process ${pid} (${origin})`, mappings);
  } finally {
    view.close();
  }
}

function resolveHere(name: string, context: Exclude<LinkContext, { pid: number }>): OpenedFile {
  const env = context.env ?? process.env;
  const cwd = resolvePath(context.cwd ?? '.');
  const command = context.command === undefined ? undefined : findProgram(context.command, env['PATH'], cwd);
  const program = command === undefined ? undefined : openQuietly(command);
  const found =
    withProgram(program, command ?? '/', env, cwd, ourView, (search) => search?.find(name)) ??
    programInPath(name, env['PATH'], cwd, ourView);
  if (found !== undefined) return found;
  throw notFound(name, command ?? 'programs started from here', []);
}

/** Search with what the program itself says (RUNPATH, what it needs), where it is an ELF file at all. */
function withProgram(
  file: OpenedFile | undefined,
  path: string,
  env: Environment,
  cwd: string,
  view: FileView,
  use: (search: LibrarySearch | undefined) => OpenedFile | undefined,
): OpenedFile | undefined {
  try {
    const image = file === undefined ? undefined : parseQuietly(file);
    return use(librarySearch({ view, env, cwd, program: image && { image, path } }));
  } finally {
    file?.close();
  }
}

/** A file the process maps already, by its name or, where that differs, by the soname inside. */
function mappedFile(
  name: string,
  pid: number,
  mappings: readonly Mapping[],
  view: FileView,
): OpenedFile | undefined {
  const matches = nameMatcher(name);
  const files = [...new Map(mappings.filter(isFileText).map((m) => [`${m.dev}:${m.ino}`, m])).values()];
  const byName = files.find((m) => matches(baseName(m.path)));
  if (byName !== undefined) return openMapped(pid, byName, view);
  for (const mapping of files) {
    const file = openMapped(pid, mapping, view);
    const soname = file && parseQuietly(file)?.soname;
    if (soname !== undefined && matches(soname)) return file;
    file?.close();
  }
  return undefined;
}

function programInPath(
  name: string,
  path: string | undefined,
  cwd: string,
  view: FileView,
): OpenedFile | undefined {
  for (const candidate of pathCandidates(name, path, cwd)) {
    const file = view.open(candidate);
    if (file !== undefined) return file;
  }
  return undefined;
}

/** The absolute path of the program `command` means, as execvp(3) looks for it; undefined when there is none. */
export function findProgram(command: string, path: string | undefined, cwd: string): string | undefined {
  const candidates = command.includes('/') ? [resolvePath(cwd, command)] : pathCandidates(command, path, cwd);
  return candidates.find(isExecutable);
}

function pathCandidates(name: string, path: string | undefined, cwd: string): string[] {
  // POSIX: an empty element is the current directory.
  return (path ?? DEFAULT_PATH).split(':').map((dir) => resolvePath(cwd, dir === '' ? '.' : dir, name));
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** The environment a process was started with; empty where it may not be read. */
function environmentOf(pid: number): Environment {
  const env: Record<string, string> = Object.create(null) as Record<string, string>;
  try {
    for (const entry of readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0')) {
      const equals = entry.indexOf('=');
      if (equals > 0) env[entry.slice(0, equals)] ??= entry.slice(equals + 1);
    }
  } catch {
    // Another user's process: search as if nothing were set.
  }
  return env;
}

function readLink(path: string): string | undefined {
  try {
    return readlinkSync(path).replace(/ \(deleted\)$/, '');
  } catch {
    return undefined;
  }
}

/** The links of /proc are as we see them; a process that changed its root sees the rest of the path. */
const withinRoot = (path: string, root: string): string =>
  root !== '/' && path.startsWith(`${root}/`) ? path.slice(root.length) : path;

function openQuietly(path: string): OpenedFile | undefined {
  return ourView.open(path);
}

function notFound(name: string, who: string, mappings: readonly Mapping[]): FileError {
  const near = nearest(name, new Set(mappings.filter(isFileText).map((m) => baseName(m.path))));
  const hint = near.length === 0 ? '' : ` It maps ${near.join(', ')}.`;
  return new FileError(
    'library-not-found',
    `${name}: ${who} would find no library of that name (mapped files, LD_LIBRARY_PATH, RUNPATH, ld.so.cache and the ` +
      `system's directories were searched), and $PATH has no such program.${hint} Give a path (./${name}) instead`,
  );
}
