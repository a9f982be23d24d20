/**
 * The allow-list of imports: which room of src/ may use which, and what each may take from outside. ARCHITECTURE.md
 * has the picture; this is the law. Exits with 1 and one line a violation.
 *
 *   node scripts/check-imports.mjs [SRC]
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';

/**
 * A room is a directory of src/ (an engine's is engines/NAME) or a file beside them. `rooms`: whose modules it may
 * import, besides its own; `types`: whose types only. `node`: which builtin modules (`true`: any; `false`: none).
 * `packages`: which dependencies.
 */
const pure = { node: [], packages: [] };
const laws = {
  base: { ...pure, rooms: [] },
  elf: { ...pure, rooms: ['base'], node: ['path', 'zlib'] }, // computations, no more
  arch: { rooms: ['base'], node: ['module', 'v8'], packages: ['iced-x86'] }, // module, v8: to load the decoder lazily
  handler: { ...pure, rooms: ['base', 'arch'], packages: ['acorn'] },
  linux: { rooms: ['base'], node: true, packages: ['koffi'] },
  events: { rooms: ['base', 'linux'], node: true, packages: [] },
  outputs: { rooms: ['base'], node: true, packages: [] },
  process: { rooms: ['base', 'linux', 'elf'], node: true, packages: [] },
  'engines/engine.ts': { ...pure, rooms: ['base'], types: ['arch', 'handler'] },
  'engines/*': {
    rooms: ['base', 'arch', 'linux', 'process', 'handler', 'events', 'engines/engine.ts'],
    node: true,
    packages: [],
  },
  probe: {
    rooms: ['base', 'elf', 'arch', 'linux', 'process', 'handler', 'events', 'engines/engine.ts'],
    node: true,
    packages: ['signal-exit'],
  },
  'probe-modules': {
    rooms: ['index.ts', 'compose.ts', 'prepare.ts', 'outputs', 'base'],
    node: true,
    packages: ['@swc/wasm-typescript', 'signal-exit'],
  },
  cli: {
    rooms: ['index.ts', 'prepare.ts', 'probe-modules', 'outputs', 'handler', 'base'],
    node: true,
    packages: ['commander', 'signal-exit'],
  },
  start: { rooms: [], node: true, packages: [] },
  'prepare.ts': { rooms: ['engines/trap', 'events'], node: [], packages: [] },
  'index.ts': {
    rooms: [
      'compose.ts',
      'prepare.ts',
      'linux',
      'probe',
      'probe-modules',
      'process',
      'handler',
      'events',
      'outputs',
      'elf',
      'base',
      'engines/engine.ts',
    ],
    node: [],
    packages: [],
  },
  'compose.ts': { rooms: true, node: true, packages: ['signal-exit'] },
};

/** Single files that may take more of Node than their room, and why. */
const exceptions = {
  'arch/x64/iced.ts': ['fs'], // reads the decoder's WebAssembly out of its package
};

const src = resolve(process.argv[2] ?? join(dirname(dirname(fileURLToPath(import.meta.url))), 'src'));
const builtins = new Set(builtinModules);

/** The room of a file, as a key of `laws` where it has one of its own, and the law's key. */
function roomOf(file) {
  const parts = relative(src, file).split(sep);
  if (parts[0] !== 'engines') return { room: parts[0], law: parts[0] };
  const room = `engines/${parts[1]}`;
  return { room, law: parts.length === 2 ? room : 'engines/*' };
}

/** Comments hold examples of imports: blank them, keeping lines. Strings that contain comment marks survive. */
const withoutComments = (text) =>
  text.replace(
    /('(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`)|\/\*[\s\S]*?\*\/|\/\/[^\n]*/g,
    (all, string) => string ?? all.replace(/[^\n]/g, ' '),
  );

/** Whether nothing of the import is left at run time (verbatimModuleSyntax: only `import type` is erased whole). */
const isTypeOnly = (statement) => /^(import|export)\s+type\b/.test(statement);

/** Every import of a file: { specifier, line, typeOnly }. */
function importsOf(file) {
  const text = withoutComments(readFileSync(file, 'utf8'));
  const patterns = [
    /^[ \t]*((?:import|export)\b[^;'"`]*?\bfrom\s*)['"]([^'"]+)['"]/gm,
    /^[ \t]*(import\s*)['"]([^'"]+)['"]/gm,
    /\b((?:import|require|require\.resolve)\s*\(\s*)['"]([^'"]+)['"]/g,
  ];
  return patterns.flatMap((pattern) =>
    [...text.matchAll(pattern)].map((match) => ({
      specifier: match[2],
      line: text.slice(0, match.index + match[0].length).split('\n').length,
      typeOnly: isTypeOnly(match[1].trim()) || isTypePosition(text, match),
    })),
  );
}

/** `import('x').Name` in a type: not followed by a call chain, preceded by a colon, `<`, `|`, `=` of a type or typeof. */
const isTypePosition = (text, match) =>
  match[1].startsWith('import') &&
  /(?:typeof\s+|[:<|&,]\s*)$/.test(text.slice(0, match.index)) &&
  /^\s*\)\s*(?:\.\s*[A-Z]\w*|[>;,|)])/.test(text.slice(match.index + match[0].length));

const packageOf = (specifier) =>
  specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');

/** Why this import may not be, or undefined. */
function violation(file, target, { specifier, typeOnly }) {
  const { room, law } = roomOf(file);
  const rules = laws[law];
  if (!rules) return `there is no law for src/${room} yet: add one to scripts/check-imports.mjs`;
  if (target !== undefined) {
    const other = roomOf(target).room;
    if (other === room || rules.rooms === true || rules.rooms.includes(other)) return undefined;
    if (typeOnly && rules.types?.includes(other)) return undefined;
    return `${room} may import from ${rules.rooms.join(', ') || 'nowhere'}${rules.types ? ` (and types from ${rules.types.join(', ')})` : ''}, not from ${other}`;
  }
  const name = packageOf(specifier.replace(/^node:/, ''));
  if (builtins.has(name)) {
    if (!specifier.startsWith('node:')) return `a builtin module is imported as node:${specifier}`;
    // Types of builtins (Buffer, streams) bind nobody to anything at run time.
    if (rules.node === true || rules.node.includes(name) || typeOnly) return undefined;
    if (exceptions[relative(src, file)]?.includes(name)) return undefined;
    return `${room} is pure: of Node it may import ${rules.node.map((n) => `node:${n}`).join(', ') || 'nothing'}`;
  }
  if (rules.packages.includes(name)) return undefined;
  return `${room} may use ${rules.packages.join(', ') || 'no packages'}`;
}

/** The source file a relative specifier means; undefined for packages and builtins, null where there is none. */
function resolveImport(file, specifier) {
  if (!specifier.startsWith('.')) return undefined;
  const path = resolve(dirname(file), specifier).replace(/\.js$/, '.ts');
  return existsSync(path) ? path : null;
}

/** Cycles among imports that are there at run time, each once, as lists of files. */
function cycles(graph) {
  const found = [];
  const state = new Map();
  const path = [];
  const visit = (file) => {
    state.set(file, 'open');
    path.push(file);
    for (const next of graph.get(file) ?? []) {
      if (state.get(next) === 'open') found.push([...path.slice(path.indexOf(next)), next]);
      else if (!state.has(next)) visit(next);
    }
    path.pop();
    state.set(file, 'done');
  };
  for (const file of graph.keys()) if (!state.has(file)) visit(file);
  return found;
}

const files = readdirSync(src, { recursive: true })
  .filter((file) => file.endsWith('.ts') && !file.endsWith('.d.ts'))
  .map((file) => join(src, file))
  .toSorted();
const shown = (file) => relative(dirname(src), file);
const problems = [];
const graph = new Map(files.map((file) => [file, []]));

for (const file of files) {
  for (const item of importsOf(file)) {
    const target = resolveImport(file, item.specifier);
    const at = `${shown(file)}:${item.line}: imports '${item.specifier}'`;
    const why = target === null ? 'there is no such file' : violation(file, target, item);
    if (why !== undefined) problems.push(`${at}: ${why}`);
    if (target && !item.typeOnly && target !== file) graph.get(file).push(target);
  }
}
for (const cycle of cycles(graph)) problems.push(`import cycle: ${cycle.map(shown).join(' -> ')}`);

for (const problem of problems) console.error(problem);
if (problems.length > 0) {
  console.error(`${problems.length} violations of the import law (scripts/check-imports.mjs)`);
  process.exit(1);
}
