/**
 * Running a bundle from V8's compiled code of it, kept when the bundle was built: at every start of the command line,
 * compiling would take more time than anything else it does. Code that another Node has kept is not used: V8 looks
 * at the version, the flags and the length of the source before it takes it (vm.Script, `cachedData`).
 */
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { Script } from 'node:vm';

type Bundle = (require: NodeJS.Require, filename: string) => void;

/** Runs a CommonJS file beside the program. Returns how to keep the code compiled so far. */
export function load(file: string): () => void {
  const code = `${file}.code`;
  // ASCII, as esbuild writes it (its charset): read so, it need not be decoded
  const source = `(function (require, __filename) {${readFileSync(file, 'latin1')}\n})`;
  const cachedData = readQuietly(code);
  const script = new Script(source, { filename: file, ...(cachedData && { cachedData }) });
  (script.runInThisContext() as Bundle)(createRequire(file), file);
  return () => keep(code, script.createCachedData());
}

/** All of it or nothing: the process may end while its other threads still write. */
function keep(file: string, code: Uint8Array): void {
  writeFileSync(`${file}.part`, code);
  renameSync(`${file}.part`, file);
}

function readQuietly(file: string): Buffer | undefined {
  try {
    return readFileSync(file);
  } catch {
    return undefined; // none was kept: it is compiled as it is needed
  }
}

/** Set while the package is built: keep the code of what this run used. */
export const keepsCode = process.env['UPROBE_KEEP_CODE'] === '1';
