// The command line in few files, with V8's compiled code beside them: loading a hundred small modules, and compiling them,
// takes longer than anything else the command does at start. The library stays as tsc wrote it.
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = fileURLToPath(new URL('..', import.meta.url));
const bin = `${root}dist/bin`;
rmSync(bin, { recursive: true, force: true });
const options = {
  absWorkingDir: root,
  outdir: 'dist/bin',
  bundle: true,
  format: 'cjs',
  platform: 'node',
  target: 'node20',
  charset: 'ascii', // start/load.ts reads them so
  // koffi finds its binary beside its own files; the other is 3 MB, and loaded where it is needed
  external: ['koffi', '@swc/wasm-typescript'],
  define: { 'import.meta.url': 'fileUrl' },
  banner: { js: "var fileUrl = require('node:url').pathToFileURL(__filename).href;" },
  logLevel: 'warning',
};
await build({
  ...options,
  entryPoints: {
    uprobe: 'dist/start/uprobe.js',
    'tracer-thread': 'dist/start/tracer-thread.js',
    'probe-thread': 'dist/probe-modules/probe-thread.js',
    hooks: 'dist/probe-modules/hooks.js',
    guardian: 'dist/engines/trap/guardian.js',
    'drain-thread': 'dist/events/drain-thread.js',
  },
});
await build({
  ...options,
  entryPoints: {
    main: 'dist/cli/main.js',
    tracer: 'dist/engines/trap/tracer-thread.js',
  },
  outExtension: { '.js': '.cjs' },
  minifySyntax: true,
  minifyWhitespace: true,
});
// the package is ESM; what is here is not
writeFileSync(`${bin}/package.json`, '{ "type": "commonjs" }\n');
chmodSync(`${bin}/uprobe.js`, 0o755);
keepCode();

/**
 * Real runs, so that what a run uses is compiled: one for a program of its own, one in the kernel. Where that is not allowed, the
 * command compiles as it runs. Each run keeps what the one before it kept, too.
 */
function keepCode() {
  const kept = [`${bin}/main.cjs.code`, `${bin}/tracer.cjs.code`];
  const traced = ['trace', 'libc:malloc', '--args', 'size=arg0', '--', '/bin/ls', '/'];
  for (let attempt = 0; attempt < 3 && !kept.every(existsSync); attempt++) keepingRun(traced);
  // nobody else runs a copy
  const directory = mkdtempSync(`${tmpdir()}/uprobe-build-`);
  const copy = `${directory}/true`;
  copyFileSync('/bin/true', copy);
  const entry = readFileSync(copy).readBigUInt64LE(24); // elf(5): e_entry
  keepingRun([
    'trace',
    `${copy}:0x${entry.toString(16)}`,
    '--engine',
    'kernel',
    '--args',
    'a=arg0',
    '--',
    copy,
  ]);
  rmSync(directory, { recursive: true });
}

function keepingRun(args) {
  const env = { ...process.env, UPROBE_KEEP_CODE: '1' };
  return spawnSync(process.execPath, [`${bin}/uprobe.js`, ...args], { env, stdio: 'pipe', timeout: 30_000 });
}
