/** Puts the hooks in place, for this thread. */
import * as nodeModule from 'node:module';
import { initialize, load, resolve, type HooksData } from './hooks.js';

/** Node 22.15 and later: hooks on the thread that imports. @types/node has them from its own 22 on. */
type RegisterHooks = (hooks: { resolve: typeof resolve; load: typeof load }) => unknown;

export function installHooks(data: HooksData): void {
  const { registerHooks } = nodeModule as { registerHooks?: RegisterHooks };
  if (registerHooks !== undefined) {
    initialize(data);
    registerHooks({ resolve, load });
  } else nodeModule.register(new URL('./hooks.js', import.meta.url), { data });
}
