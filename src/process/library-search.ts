/** The search of a dynamic linker: ld.so(8) for glibc, ldso/dynlink.c for musl. */
import { dirname, resolve as resolvePath } from 'node:path';
import { UprobeError } from '../base/errors.js';
import { ElfImage } from '../elf/image.js';
import { parseLdCache, type LdCacheEntry } from '../elf/ld-cache.js';
import type { FileView } from './file-view.js';
import { hwcapsLevels } from './hwcaps.js';
import { byVersion, isOfMusl, isSoname, nameMatcher } from './library-name.js';
import type { OpenedFile } from './opened-file.js';

export interface SearchContext {
  readonly view: FileView;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: string;
  /** The program for which is searched, and its path. */
  readonly program: { readonly image: ElfImage; readonly path: string } | undefined;
}

export interface LibrarySearch {
  /** The library that a soname or a bare stem means, opened. */
  find(name: string): OpenedFile | undefined;
}

const GLIBC_DIRS = [
  '/lib/x86_64-linux-gnu',
  '/usr/lib/x86_64-linux-gnu',
  '/lib64',
  '/usr/lib64',
  '/lib',
  '/usr/lib',
];
const MUSL_DIRS = ['/lib', '/usr/local/lib', '/usr/lib'];
const MUSL_PATH_FILE = '/etc/ld-musl-x86_64.path';
const LD_CACHE = '/etc/ld.so.cache';
/** A program that needs more libraries than this is not searched to the end. */
const MOST_LIBRARIES = 1024;
const LONGEST_CACHE = 1 << 26;
const LONGEST_PATH_FILE = 1 << 16;

/** One object that asks for libraries: where it lies and what it says of where to look. */
interface Requester {
  readonly origin: string;
  readonly rpath: string | undefined;
  readonly runpath: string | undefined;
  readonly needed: readonly string[];
}

export function librarySearch(context: SearchContext): LibrarySearch {
  return new Search(context);
}

class Search implements LibrarySearch {
  readonly #context: SearchContext;
  readonly #program: Requester | undefined;
  readonly #isMusl: boolean;
  #cache: ReadonlyMap<string, readonly string[]> | undefined;

  constructor(context: SearchContext) {
    this.#context = context;
    const { program } = context;
    this.#program = program && requesterOf(program.image, dirname(program.path));
    this.#isMusl = /\/ld-musl-/.test(program?.image.interp ?? '');
  }

  find(name: string): OpenedFile | undefined {
    const loaded = this.#preloaded(name) ?? this.#linker(name) ?? this.#needed(name);
    if (loaded !== undefined) return loaded;
    return isSoname(name) ? this.#locate(name, this.#program) : this.#anyVersion(name);
  }

  /** The program's dynamic linker itself; for musl that is the C library, too, under whatever name a program asks for it. */
  #linker(name: string): OpenedFile | undefined {
    const interp = this.#context.program?.image.interp;
    if (interp === undefined) return undefined;
    const isMeant = nameMatcher(name)(interp.slice(interp.lastIndexOf('/') + 1));
    return isMeant || (this.#isMusl && isOfMusl(name)) ? this.#openLibrary(interp) : undefined;
  }

  /** LD_PRELOAD comes before everything else; its elements are paths or sonames. */
  #preloaded(name: string): OpenedFile | undefined {
    const matches = nameMatcher(name);
    for (const item of (this.#context.env['LD_PRELOAD'] ?? '').split(/[ :]+/)) {
      if (!matches(item.slice(item.lastIndexOf('/') + 1))) continue;
      const path = item.includes('/') ? resolvePath(this.#context.cwd, item) : undefined;
      const file = path === undefined ? this.#locate(item, this.#program) : this.#openLibrary(path);
      if (file !== undefined) return file;
    }
    return undefined;
  }

  /** What the program and its libraries need, breadth first, as the linker loads them. */
  #needed(name: string): OpenedFile | undefined {
    const matches = nameMatcher(name);
    const queue: Requester[] = this.#program === undefined ? [] : [this.#program];
    const seen = new Set<string>();
    for (let at = 0; at < queue.length && seen.size < MOST_LIBRARIES; at++) {
      const requester = queue[at]!;
      const fresh = requester.needed.filter((n) => !seen.has(n) && seen.add(n));
      const wanted = fresh.find(matches);
      const file = wanted === undefined ? undefined : this.#locate(wanted, requester);
      if (file !== undefined) return file;
      for (const soname of fresh) {
        const next = this.#requester(soname, requester);
        if (next !== undefined) queue.push(next);
      }
    }
    return undefined;
  }

  #requester(soname: string, by: Requester): Requester | undefined {
    const file = this.#locate(soname, by);
    if (file === undefined) return undefined;
    try {
      const image = parseQuietly(file);
      return image && requesterOf(image, dirname(file.seenAs));
    } finally {
      file.close();
    }
  }

  /** For dlopen: the highest version the cache knows, else the unversioned name. */
  #anyVersion(stem: string): OpenedFile | undefined {
    const matches = nameMatcher(stem);
    const versions = [...this.#cached().keys()].filter(matches).sort(byVersion);
    for (const soname of [...versions, `${stem}.so`]) {
      const file = this.#locate(soname, this.#program);
      if (file !== undefined) return file;
    }
    return undefined;
  }

  #locate(soname: string, by: Requester | undefined): OpenedFile | undefined {
    if (soname.includes('/')) return this.#openLibrary(resolvePath(this.#context.cwd, soname));
    for (const path of this.#candidates(soname, by)) {
      const file = this.#openLibrary(path);
      if (file !== undefined) return file;
    }
    return undefined;
  }

  *#candidates(soname: string, by: Requester | undefined): Generator<string> {
    const ld = this.#context.env['LD_LIBRARY_PATH'];
    const origin = by?.origin ?? '/';
    const inDirs = (dirs: readonly string[]): string[] => this.#inDirectories(dirs, soname);
    if (this.#isMusl) {
      yield* inDirs([...this.#searchPath(ld, origin), ...this.#searchPath(by?.rpath ?? by?.runpath, origin)]);
      yield* inDirs(this.#muslDirs());
      return;
    }
    // DT_RPATH counts only where there is no DT_RUNPATH, and before LD_LIBRARY_PATH; that of the program counts for all.
    if (by?.runpath === undefined) yield* inDirs(this.#searchPath(by?.rpath, origin));
    if (this.#program !== undefined && this.#program !== by && this.#program.runpath === undefined)
      yield* inDirs(this.#searchPath(this.#program.rpath, this.#program.origin));
    yield* inDirs(this.#searchPath(ld, this.#program?.origin ?? '/'));
    yield* inDirs(this.#searchPath(by?.runpath, origin));
    yield* this.#cached().get(soname) ?? [];
    yield* inDirs(GLIBC_DIRS);
  }

  /** In each directory first where it keeps libraries for better processors. */
  #inDirectories(directories: readonly string[], soname: string): string[] {
    const levels = this.#isMusl ? [] : hwcapsLevels();
    const below = [...levels.map((level) => `glibc-hwcaps/${level}/${soname}`), soname];
    return directories.flatMap((directory) => below.map((path) => `${directory}/${path}`));
  }

  /** The directories of a search path, dynamic string tokens replaced. An empty element is the current directory. */
  #searchPath(path: string | undefined, origin: string): string[] {
    if (path === undefined || path === '') return [];
    return path.split(/[:;]/).flatMap((element) => {
      const dir = element
        .replace(/\$(?:ORIGIN\b|\{ORIGIN\})/g, () => origin)
        .replace(/\$(?:PLATFORM\b|\{PLATFORM\})/g, 'x86_64');
      const libs = /\$(?:LIB\b|\{LIB\})/.test(dir) ? ['lib/x86_64-linux-gnu', 'lib64', 'lib'] : [''];
      return libs.map((lib) => resolvePath(this.#context.cwd, dir.replace(/\$(?:LIB\b|\{LIB\})/g, lib)));
    });
  }

  #muslDirs(): readonly string[] {
    const text = this.#readFile(MUSL_PATH_FILE, LONGEST_PATH_FILE)?.toString('utf8');
    return text === undefined ? MUSL_DIRS : text.split(/[:\n]/).filter((dir) => dir.startsWith('/'));
  }

  #cached(): ReadonlyMap<string, readonly string[]> {
    if (this.#cache !== undefined) return this.#cache;
    const bytes = this.#isMusl ? undefined : this.#readFile(LD_CACHE, LONGEST_CACHE);
    return (this.#cache = bytes === undefined ? new Map<string, string[]>() : cachePaths(bytes));
  }

  #readFile(path: string, limit: number): Buffer | undefined {
    const file = this.#context.view.open(path);
    if (file === undefined) return undefined;
    try {
      return Buffer.from(file.read(0, Math.min(file.size, limit)));
    } finally {
      file.close();
    }
  }

  /** The linker passes over files of other machines, and so do we. */
  #openLibrary(path: string): OpenedFile | undefined {
    const file = this.#context.view.open(path);
    if (file === undefined || parseQuietly(file) !== undefined) return file;
    file.close();
    return undefined;
  }
}

const requesterOf = (image: ElfImage, origin: string): Requester => ({
  origin,
  rpath: image.rpath,
  runpath: image.runpath,
  needed: image.needed,
});

/** The ELF image, or undefined where the file is none: what looks for libraries passes such files over. */
export function parseQuietly(file: OpenedFile): ElfImage | undefined {
  try {
    return ElfImage.parse(file, file.path);
  } catch (e) {
    if (e instanceof UprobeError) return undefined;
    throw e;
  }
}

/** Paths by soname: those for the best processor first that this one is as good as, else in the cache's order. */
function cachePaths(bytes: Uint8Array): Map<string, string[]> {
  const ranks = [...hwcapsLevels(), undefined];
  const entries = parseLdCache(bytes).filter((e) => ranks.includes(e.hwcapsName) && !needsOldHwcap(e));
  const paths = new Map<string, string[]>();
  for (const entry of entries.toSorted((a, b) => ranks.indexOf(a.hwcapsName) - ranks.indexOf(b.hwcapsName))) {
    const known = paths.get(entry.soname);
    if (known === undefined) paths.set(entry.soname, [entry.path]);
    else known.push(entry.path);
  }
  return paths;
}

/** The scheme before glibc-hwcaps, which glibc 2.37 dropped; on x86-64 nobody used it. */
const needsOldHwcap = (e: LdCacheEntry): boolean => e.hwcap !== 0n && e.hwcapsName === undefined;
