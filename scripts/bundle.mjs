// The command line in few files: loading a hundred small modules takes longer than everything else it does at start.
// The library stays as tsc wrote it.
import { chmodSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = fileURLToPath(new URL('..', import.meta.url));
rmSync(`${root}dist/bin`, { recursive: true, force: true });
await build({
  absWorkingDir: root,
  entryPoints: { uprobe: 'dist/cli/main.js', 'tracer-thread': 'dist/engines/trap/tracer-thread.js' },
  outdir: 'dist/bin',
  bundle: true,
  splitting: true,
  format: 'esm',
  platform: 'node',
  target: 'node20',
  packages: 'external',
  logLevel: 'warning',
});
chmodSync(`${root}dist/bin/uprobe.js`, 0o755);
