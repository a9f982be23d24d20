import { readFileSync } from 'node:fs';

/** The version of this package. Every compiled file lies two directories below its package.json. */
export const version: string = (
  JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }
).version;
