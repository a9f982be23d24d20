/**
 * How the files of probe modules are found and read. `uprobe` means the library that runs in their own thread, whatever is
 * installed where they lie; TypeScript is read by us. The same functions serve as hooks that run on the importing thread
 * (module.registerHooks) and, on a Node without it, on a thread of their own (module.register).
 */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { stripTypes } from './strip.js';

/** `uprobe:3`: the library for the module number 3. */
const LIBRARY = 'uprobe:';
/** Marks the files of all modules but the first, so that each has its own copy of them and its own library. */
const MODULE = 'uprobe-module';
/** For what belongs to no module: a package that several may import. */
export const NOBODY = 'shared';

/** Where modules find their libraries, by owner. */
export const LIBRARIES = Symbol.for('uprobe.libraries');

const isInPackages = (url: string): boolean => url.includes('/node_modules/');

/** The address to import a module by. */
export const moduleUrl = (fileUrl: string, owner: number): string =>
  owner === 0 && !isInPackages(fileUrl) ? fileUrl : marked(fileUrl, String(owner));

function marked(url: string, owner: string): string {
  const address = new URL(url);
  address.searchParams.set(MODULE, owner);
  return address.href;
}

/** Which module a file was imported for. */
function ownerOf(url: string | undefined): string {
  if (url === undefined || !url.startsWith('file:')) return NOBODY;
  return markOf(url) ?? (isInPackages(url) ? NOBODY : '0');
}

const markOf = (url: string): string | null =>
  url.includes(`?${MODULE}=`) ? new URL(url).searchParams.get(MODULE) : null;

export interface Resolved {
  readonly url: string;
  readonly format?: string | null | undefined;
  readonly shortCircuit?: boolean | undefined;
}
interface ResolveContext {
  readonly parentURL?: string | undefined;
}
type Next<C, R> = (what: string, context?: C) => R | Promise<R>;

export function resolve<C extends ResolveContext>(
  specifier: string,
  context: C,
  next: Next<C, Resolved>,
): Resolved | Promise<Resolved> {
  const { parentURL } = context;
  if (specifier === 'uprobe')
    return { url: `${LIBRARY}${ownerOf(parentURL)}`, format: 'module', shortCircuit: true };
  // A package is one for all; a file beside a marked one is that one's.
  const owner = /^\.{0,2}\//.test(specifier) && parentURL !== undefined ? markOf(parentURL) : null;
  const found = next(specifier, context);
  if (owner === null) return found;
  const mark = (file: Resolved): Resolved => ({ ...file, url: marked(file.url, owner) });
  return found instanceof Promise ? found.then(mark) : mark(found);
}

export interface Loaded {
  readonly format: string;
  readonly source?: string | undefined;
  readonly shortCircuit?: boolean | undefined;
}

export function load<C, R extends Loaded>(
  url: string,
  context: C,
  next: Next<C, R>,
): R | Loaded | Promise<R | Loaded> {
  if (url.startsWith(LIBRARY))
    return { format: 'module', source: librarySource(url.slice(LIBRARY.length)), shortCircuit: true };
  if (!url.startsWith('file:')) return next(url, context);
  const file = fileURLToPath(url);
  if (!/\.m?ts$/.test(file)) return next(url, context);
  return { format: 'module', source: stripTypes(readFileSync(file, 'utf8'), file), shortCircuit: true };
}

/** What a thread of hooks is told when it starts. */
export interface HooksData {
  /** The names that the library exports. */
  readonly names: readonly string[];
}
let names: readonly string[] = [];

export function initialize(data: HooksData): void {
  ({ names } = data);
}

const librarySource = (owner: string): string =>
  `const library = globalThis[Symbol.for(${JSON.stringify(LIBRARIES.description)})].of(${JSON.stringify(owner)});\n` +
  `export const { ${names.join(', ')} } = library;\n`;
