/**
 * Fixtures are compiled when a test asks for them, once for each set of flags, into build/fixtures. A fixture says
 * itself what it cannot do without: a line `compile-flags: …` at the top of its source (`{dir}` is its directory).
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join, parse } from 'node:path';
import { fileURLToPath } from 'node:url';

export interface CompileOptions {
  /** After the fixture's own flags, so these win. */
  flags?: readonly string[];
  /** Default: g++ for .cc, else gcc. */
  compiler?: 'gcc' | 'g++' | 'musl-gcc';
  /** Behind the sources: `-lm`, or paths of libraries. */
  libs?: readonly string[];
  /** Where the sources are, from the repository's root; default test/fixtures. */
  directory?: string;
}

/** Tests run from build/test/…: the repository's root is the nearest directory above with a package.json. */
function findRoot(): string {
  let directory = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(directory, 'package.json'))) {
    const above = dirname(directory);
    if (above === directory) throw new Error(`no package.json above ${import.meta.url}`);
    directory = above;
  }
  return directory;
}

export const repositoryRoot = findRoot();
const fixtures = join(repositoryRoot, 'test', 'fixtures');
const cache = join(repositoryRoot, 'build', 'fixtures');

/** The sources called NAME, whatever their endings: `instructions` is instructions.c and instructions.s together. */
function sourcesOf(name: string, directory: string): string[] {
  const sources = readdirSync(directory)
    .filter((file) => file === name || (parse(file).name === name && /\.(c|cc|s|S)$/.test(file)))
    .toSorted()
    .map((file) => join(directory, file));
  if (sources.length === 0) throw new Error(`no source called ${name} in ${directory}`);
  return sources;
}

function ownFlags(source: string): string[] {
  const line = /compile-flags:(.*?)(?:\*\/)?$/m.exec(readFileSync(source, 'utf8').slice(0, 1000));
  const words = line?.[1]?.trim().split(/\s+/) ?? [];
  return words.filter((word) => word !== '').map((word) => word.replaceAll('{dir}', dirname(source)));
}

/** Everything the result may depend on: the command, the sources, headers and version scripts, libraries linked in. */
function hashOf(command: readonly string[], sources: readonly string[], libs: readonly string[]): string {
  const hash = createHash('sha256').update(JSON.stringify(command));
  const beside = dirname(sources[0] ?? fixtures);
  const shared = readdirSync(beside).filter((file) => /\.(h|map|ld)$/.test(file));
  const files = [
    ...sources,
    ...shared.map((file) => join(beside, file)),
    ...libs.filter((l) => existsSync(l)),
  ];
  for (const file of files) hash.update(`\0${file}\0`).update(readFileSync(file));
  return hash.digest('hex').slice(0, 16);
}

function run(command: string, args: readonly string[]): void {
  const { status, stderr, error } = spawnSync(command, args, { encoding: 'utf8' });
  if (error)
    throw new Error(
      `${command} cannot be run (${error.message}): node scripts/test-tools.mjs says how to get it`,
    );
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} failed:\n${stderr}`);
}

/**
 * Compile test/fixtures/NAME.{c,cc,s}, or NAME with its ending, and return the path of the program (or library:
 * `libNAME.so` when the flags say -shared). The path is shared by all who ask for the same: probe a `privateCopy`.
 */
export function compileFixture(name: string, options: CompileOptions = {}): string {
  const sources = sourcesOf(name, options.directory ? join(repositoryRoot, options.directory) : fixtures);
  const compiler = options.compiler ?? (sources.some((s) => s.endsWith('.cc')) ? 'g++' : 'gcc');
  const flags = [...new Set(sources.flatMap(ownFlags)), ...(options.flags ?? [])];
  const libs = options.libs ?? [];
  const command = [compiler, '-g', ...flags, ...sources, ...libs];
  const plainName = parse(name).name;
  const output = flags.includes('-shared') ? `lib${plainName}.so` : plainName;
  const directory = join(cache, `${plainName}-${hashOf(command, sources, libs)}`);
  const path = join(directory, output);
  if (!existsSync(path)) build(command, directory, path);
  return path;
}

/** For `skip`: programs of another C library can be compiled and run only where that is. */
export function whyNoMusl(): string | false {
  const { error } = spawnSync('musl-gcc', ['--version'], { stdio: 'ignore' });
  return error !== undefined && 'musl-gcc is not installed (on Debian: musl-tools)';
}

/** Other test processes may be compiling the same: the first one there wins, and its inode stays. */
function build(command: readonly string[], directory: string, path: string): void {
  mkdirSync(directory, { recursive: true });
  const scratch = mkdtempSync(join(cache, '.making-'));
  try {
    const made = join(scratch, basename(path));
    run(command[0] ?? '', [...command.slice(1), '-o', made]);
    linkSync(made, path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

const temporary = new Set<string>();

/** A fresh directory that is removed when this process ends. */
export function temporaryDirectory(): string {
  if (temporary.size === 0) {
    process.once('exit', () => {
      for (const directory of temporary) rmSync(directory, { recursive: true, force: true });
    });
  }
  const directory = mkdtempSync(join(realpathSync(tmpdir()), 'uprobe-test-'));
  temporary.add(directory);
  return directory;
}

/**
 * Copies of files in a fresh directory, beside each other under their own names. A probe belongs to an inode: what
 * runs from a private copy is a world of its own.
 */
export function privateCopies(...paths: readonly string[]): string[] {
  const directory = temporaryDirectory();
  return paths.map((path) => {
    const copy = join(directory, basename(path));
    copyFileSync(path, copy); // keeps the mode
    return copy;
  });
}

export const privateCopy = (path: string): string => privateCopies(path)[0] ?? path;

/** Private copies of linked.c's program and of the library it is linked with, beside each other. */
export function linkedPair(flags: readonly string[] = []): { program: string; library: string } {
  const shared = compileFixture('library', { flags: flags.filter((f) => /^-[Og]/.test(f)) });
  const linked = compileFixture('linked', { flags, libs: [shared] });
  const [program = linked, library = shared] = privateCopies(linked, shared);
  return { program, library };
}

export interface Variant {
  readonly name: string;
  readonly flags: readonly string[];
  /** No dynamic linker: no dlopen, no shared libraries. */
  readonly isStatic: boolean;
}

const variant = (isStatic: boolean, ...flags: string[]): Variant => ({
  name: flags.join(' '),
  flags,
  isStatic,
});

/** The ways to build a program that differ in what a probe meets. */
export const variants: readonly Variant[] = [
  variant(false, '-O0', '-fPIE', '-pie'),
  variant(false, '-O2', '-fPIE', '-pie'),
  variant(false, '-O0', '-no-pie'),
  variant(false, '-O2', '-no-pie'),
  variant(false, '-O2', '-fcf-protection=full'),
  variant(true, '-O2', '-static', '-no-pie'),
  variant(true, '-O2', '-static-pie', '-fPIE'),
];
