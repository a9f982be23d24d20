/** docs/refusals.md is complete, and says nothing that is not so. */
import assert from 'node:assert/strict';
import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { unregisterUprobe, type Uprobe } from 'uprobe';
import { repositoryRoot, temporaryDirectory } from './helpers/compile.js';

/** Words in quotes that look like codes and are none: kinds, modes, messages, names of packages, threads and processors. */
const NO_CODES = new Set([
  'build-id',
  'mapping-call',
  'name-or-mode',
  'not-main-thread',
  'nothing-left',
  'output-broken',
  'signal-exit',
  'strip-only',
  'uprobe-closer',
  'uprobe-doctor',
  'uprobe-drain',
  'uprobe-keeper',
  'uprobe-module',
  'uprobe-probes',
  'uprobe-tracer',
  'uprobe-try',
  'utf-8',
  'x86-64-v2',
  'x86-64-v3',
  'x86-64-v4',
]);

const sourcesIn = (directory: string): string =>
  readdirSync(join(repositoryRoot, directory), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts'))
    .map((file) => readFileSync(join(repositoryRoot, directory, file), 'utf8'))
    .join('\n');

/** Codes are words joined by hyphens; those of one word are found by their field. */
function codesIn(sources: string): Set<string> {
  const code = sources.replace(/\/\*[^]*?\*\/|\/\/.*/g, '');
  const found = code.matchAll(/'([a-z\d]+(?:-[a-z\d]+)+)'|\bcode: '([a-z]+)'/g);
  return new Set([...found].map((m) => m[1] ?? m[2]!).filter((word) => !NO_CODES.has(word)));
}

/** In the first column of its tables. */
function documentedCodes(): Set<string> {
  const text = readFileSync(join(repositoryRoot, 'docs', 'refusals.md'), 'utf8');
  const cells = [...text.matchAll(/^\|([^|]*)\|/gm)].map((m) => m[1]!).join();
  return new Set([...cells.matchAll(/`([a-z\d-]+)`/g)].map((m) => m[1]!));
}

const without = (all: Iterable<string>, some: ReadonlySet<string>): string[] =>
  [...all].filter((code) => !some.has(code)).toSorted();

const documented = documentedCodes();

void test('every code that the sources can say is documented, and no other', () => {
  const said = codesIn(sourcesIn('src'));
  assert.ok(said.size > 80);
  assert.deepEqual(without(said, documented), [], 'missing in docs/refusals.md');
  assert.deepEqual(without(documented, said), [], 'documented, and nobody says them');
});

void test('every documented code is asked for by a test', () => {
  const tests = sourcesIn('test');
  assert.deepEqual(
    [...documented].filter((code) => !tests.includes(code)),
    [],
  );
});

void test('what is no uprobe cannot be unregistered: bad-uprobe', async () => {
  for (const thing of [undefined, 5, {}, 'libc:malloc'])
    await assert.rejects(unregisterUprobe(thing as unknown as Uprobe), {
      name: 'SpecError',
      code: 'bad-uprobe',
    });
});

void test('another release of the decoder is not used: wrong-decoder', async () => {
  const home = temporaryDirectory();
  const decoder = join(home, 'node_modules', 'iced-x86');
  mkdirSync(decoder, { recursive: true });
  writeFileSync(join(home, 'package.json'), '{ "type": "module" }');
  writeFileSync(join(decoder, 'package.json'), '{ "name": "iced-x86", "version": "9.9.9" }');
  // The smallest WebAssembly module: a magic number, a version, nothing exported.
  writeFileSync(join(decoder, 'iced_x86_bg.wasm'), Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0));
  for (const room of ['arch', 'base'])
    cpSync(join(repositoryRoot, 'dist', room), join(home, 'dist', room), { recursive: true });
  const copy = (await import(pathToFileURL(join(home, 'dist', 'arch', 'x64', 'iced.js')).href)) as {
    iced(): unknown;
  };
  assert.throws(() => copy.iced(), { code: 'wrong-decoder', message: /iced_x86_bg\.wasm .*1\.21\.0/ });
});
