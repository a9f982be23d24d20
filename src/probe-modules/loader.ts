/** From a file to a module: imported, and its form checked. */
import { readFileSync, statSync } from 'node:fs';
import { extname, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { SpecError, UprobeError, messageOf } from '../base/errors.js';
import { moduleUrl } from './hooks.js';
import { checkDeclared } from './parameters.js';
import { stripTypes } from './strip.js';
import type { Load, Parameters } from './types.js';

export interface CheckedModule {
  readonly description: string | undefined;
  readonly parameters: Parameters | undefined;
  readonly load: Load<Parameters>;
}

const EXTENSIONS = ['.ts', '.mts', '.js', '.mjs'];

/** @param owner which of the modules of this run it is, 0 first */
export async function importModule(file: string, owner: number): Promise<CheckedModule> {
  const path = resolve(file);
  checkFile(path, file);
  try {
    const found = (await import(moduleUrl(pathToFileURL(path).href, owner))) as { default?: unknown };
    return checkForm(found.default, file);
  } catch (e) {
    throw e instanceof SyntaxError ? withPlace(e, path) : e;
  }
}

/**
 * Node keeps to itself where a file does not parse, until it prints the error. Our parser says it, where it agrees; where not,
 * the file, or one that it imports, must do.
 */
function withPlace(e: SyntaxError, path: string): SyntaxError {
  if (e.stack?.includes('file://') === true || isPlaced(e)) return e;
  try {
    stripTypes(readFileSync(path, 'utf8'), path);
  } catch (better) {
    if (better instanceof SyntaxError) return better;
  }
  return new SyntaxError(`${path}: ${e.message}`, { cause: e });
}

/** Whether the message begins with its place already. */
export const isPlaced = (e: SyntaxError): boolean => /^\/[^\n]*?: /.test(e.message);

function checkFile(path: string, file: string): void {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined) throw new SpecError('no-such-module', `${file}: there is no such file`);
  if (!stat.isFile()) throw new SpecError('no-such-module', `${file}: it is not a file`);
  if (!EXTENSIONS.includes(extname(path)))
    throw new SpecError('bad-module', `${file}: a probe module's name ends with ${EXTENSIONS.join(', ')}`);
}

const FORM = 'export default function ({ processes, print }) {…}, or { description, parameters, load }';

function checkForm(value: unknown, file: string): CheckedModule {
  if (typeof value === 'function')
    return { description: undefined, parameters: undefined, load: value as Load<Parameters> };
  const problem = (what: string): SpecError => new SpecError('bad-module', `${file}: ${what}: write ${FORM}`);
  if (value === undefined) throw problem('it has no default export');
  if (typeof value !== 'object' || value === null)
    throw problem('its default export is no function and no module');
  const { description, parameters, load, ...rest } = value as Record<string, unknown>;
  const [unknown] = Object.keys(rest);
  if (unknown !== undefined)
    throw problem(`its default export has an unknown key ${JSON.stringify(unknown)}`);
  if (typeof load !== 'function') throw problem('its default export has no function called load');
  if (description !== undefined && typeof description !== 'string')
    throw problem('its description is no text');
  return { description, parameters: checkDeclared(parameters, file), load: load as Load<Parameters> };
}

/** What failed while the file was read or its top level ran: errors of its author, not of who runs it. */
export function asModuleError(e: unknown, message: string): unknown {
  if (e instanceof UprobeError) return e;
  if (e instanceof SyntaxError) return new SpecError('module-syntax', message);
  const { code } = e as NodeJS.ErrnoException;
  if (code === 'ERR_MODULE_NOT_FOUND' || code === 'ERR_PACKAGE_PATH_NOT_EXPORTED')
    return new SpecError('module-import', messageOf(e));
  return e;
}
