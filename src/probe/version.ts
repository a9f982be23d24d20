import { createRequire } from 'node:module';

/** The version of this package. By its own name, so that it is found wherever the compiled files lie in it. */
export const version: string = (createRequire(import.meta.url)('uprobe/package.json') as { version: string })
  .version;
