// The command line in few files, with V8's compiled code beside them: loading a hundred small modules, and compiling them,
// takes longer than anything else the command does at start. The library stays as tsc wrote it.
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, rmSync, writeFileSync } from 'node:fs';
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

/** A real run, so that what a run uses is compiled. Where tracing is not allowed, the command compiles as it runs. */
function keepCode() {
  const kept = [`${bin}/main.cjs.code`, `${bin}/tracer.cjs.code`];
  const args = [`${bin}/uprobe.js`, 'trace', 'libc:malloc', '--args', 'size=arg0', '--', '/bin/ls', '/'];
  const env = { ...process.env, UPROBE_KEEP_CODE: '1' };
  for (let attempt = 0; attempt < 3 && !kept.every(existsSync); attempt++)
    spawnSync(process.execPath, args, { env, stdio: 'ignore', timeout: 30_000 });
}
