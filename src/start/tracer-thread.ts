/** The tracer's thread of the command `uprobe`. */
import { fileURLToPath } from 'node:url';
import { keepsCode, load } from './load.js';

// returns when the engine is closed
const keep = load(fileURLToPath(new URL('tracer.cjs', import.meta.url)));
if (keepsCode) keep();
