/**
 * Runs the compiled tests: `node scripts/test.mjs [WORD…] [--node-option…]`
 * WORDs select the test files whose path contains one of them; options go to `node --test` as they are.
 */
import { spawn } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const built = join(root, 'build', 'test');

/** Node 20's own search takes no patterns: walk, and drop what no longer has a source. */
function testFiles() {
  if (!existsSync(built)) return [];
  return readdirSync(built, { recursive: true })
    .filter((file) => file.endsWith('.test.js'))
    .filter((file) => existsSync(join(root, 'test', file.replace(/\.js$/, '.ts'))))
    .map((file) => relative(root, join(built, file)))
    .toSorted();
}

const args = process.argv.slice(2);
const options = args.filter((arg) => arg.startsWith('-'));
const words = args.filter((arg) => !arg.startsWith('-'));
const files = testFiles().filter((file) => words.length === 0 || words.some((word) => file.includes(word)));
if (files.length === 0) {
  console.error(
    words.length > 0
      ? `No test file matches ${words.join(' or ')}.`
      : `No tests in ${built}: npm run build:test`,
  );
  process.exit(1);
}

const reporter = new URL('./test-reporter.mjs', import.meta.url).href;
const child = spawn(
  process.execPath,
  [
    '--test',
    `--test-concurrency=${Math.min(4, availableParallelism())}`,
    '--test-timeout=300000', // of a whole file: one that hangs must not hang the run
    `--test-reporter=${reporter}`,
    '--test-reporter-destination=stdout',
    ...options,
    ...files,
  ],
  { cwd: root, stdio: 'inherit' },
);
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => child.kill(signal));
child.on('error', (error) => {
  console.error(error.message);
  process.exit(1);
});
child.on('close', (code, signal) => {
  if (signal) console.error(`The tests were ended by ${signal}.`);
  process.exitCode = code ?? 1;
});
