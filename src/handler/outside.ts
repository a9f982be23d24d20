/** Names that a handler's text does not explain: what to say about them. */
import { nearest } from '../base/nearest.js';

const SCOPE = 'pass it in: compiled({ scope: { NAME } }, (hit, { NAME }) => …)';

/** Names that tools write into a function's text, and who does. */
const TOOLS: readonly (readonly [RegExp, string])[] = [
  [/^__name$/, 'tsx or esbuild (keepNames)'],
  [/^__(?:vite_ssr|vi)_/, 'vitest or vite'],
  [/^cov_\w+$|^__coverage__$/, 'a coverage tool (istanbul)'],
  [/^__(?:webpack|turbopack|rspack|parcel)/i, 'a bundler'],
  [/^import_\w+$/, 'esbuild or tsx (CommonJS output)'],
  [/^\w+_\d+$/, 'TypeScript (CommonJS output)'],
  [/^_\w+$/, 'a bundler or a transpiler'],
];

/** What has changed the text so that there is a name which its author has not written. */
const toolOf = (name: string): string | undefined => TOOLS.find(([pattern]) => pattern.test(name))?.[1];

const CONVERSIONS = ['u8', 'u16', 'u32', 'u64', 'i8', 'i16', 'i32', 'i64'];

/** @param member what of it is asked for, as in `uprobe_1.u64` */
export function outsideName(name: string, known: readonly string[], member?: string): string {
  const tool = toolOf(name);
  if (tool !== undefined) {
    const wanted = member !== undefined && CONVERSIONS.includes(member) ? member : 'what it needs';
    const remedy =
      wanted === member
        ? SCOPE.replaceAll('NAME', member)
        : `keep it from this file, or write the handlers in a file of plain JavaScript that it leaves alone`;
    return `${name} is not the author's: ${tool} has rewritten this text, and only what is written in it can be compiled. For ${wanted}: ${remedy}`;
  }
  if (name === 'console') return 'a compiled handler cannot print: emit an event and print that';
  const near = nearest(name, [...known, ...CONVERSIONS, 'BigInt', 'Number'], 1)[0];
  const meant = near === undefined ? '' : ` (or did you mean ${near}?)`;
  return `${name} is outside of the handler, which runs elsewhere: ${SCOPE.replaceAll('NAME', name)}${meant}`;
}
