/**
 * The grammar of PROBE, as typed on the command line:
 *
 *     PROBE  = [ 'uprobe:' | 'uretprobe:' | 'u:' | 'ur:' ] PATH ':' PLACE [ '%return' ]
 *     PLACE  = SYMBOL [ '+' OFFSET | '+*' ]  |  '0x' HEX (a file offset)  |  '@0x' HEX (a link-time address)
 *
 * PATH ends at the first colon that stands alone, so that C++ names keep their `::`; a colon in a file's name is
 * written `\:`. SYMBOL may be a glob; in double quotes it is taken letter by letter. The prefixes are bpftrace's.
 */
import { isGlob, unescapeGlob } from '../base/glob.js';
import { UsageError } from './usage-error.js';

export type ProbePlace =
  | { readonly kind: 'symbol'; readonly symbol: string; readonly symbolOffset: number | undefined }
  /** All functions that match, or the one that has just this name: `literal` is the glob taken as a name. */
  | {
      readonly kind: 'glob';
      readonly glob: string;
      readonly literal: string;
      readonly symbolOffset: number | undefined;
    }
  /** Every instruction of a function, or of all functions that match. */
  | { readonly kind: 'every'; readonly symbol: string; readonly isGlob: boolean }
  | { readonly kind: 'offset'; readonly offset: number }
  | { readonly kind: 'addr'; readonly addr: bigint };

export interface ProbeSpec {
  /** As typed. */
  readonly text: string;
  readonly pathname: string;
  readonly place: ProbePlace;
  readonly isReturn: boolean;
  /** It was not written: what is shown of its places does not have %return either. */
  readonly isImplied?: boolean;
}

/** Behind a function: where it returns. */
export const RETURN = '%return';

const LONGEST = 8192;
const U64 = 1n << 64n;

export function parseProbe(text: string): ProbeSpec {
  if (text.length > LONGEST)
    throw new UsageError(`a probe of ${text.length} characters: it may have ${LONGEST}`);
  const { rest, prefix } = withoutPrefix(text);
  const colon = separator(rest);
  if (colon < 0) throw wrong(text, 'write PATH:SYMBOL, as in libc:malloc; a command to run goes after --');
  const pathname = rest.slice(0, colon).replace(/\\([\\:])/g, '$1');
  if (pathname === '') throw wrong(text, 'there is no PATH before the colon');
  if (pathname.includes('\0')) throw wrong(text, 'a path cannot hold a NUL character');
  const { body, isReturn } = withoutReturn(text, rest.slice(colon + 1), prefix);
  const place = parsePlace(text, body);
  if (prefix !== undefined && place.kind === 'offset') throw bpftraceNumber(text, pathname, body);
  if (isReturn && !isFunction(place))
    throw wrong(text, 'a return probe takes a whole function: write PATH:SYMBOL%return');
  return { text, pathname, place, isReturn };
}

/** The same of a function whose return is meant anyway: %return may be left out. */
export function parseReturn(text: string): ProbeSpec {
  const spec = parseProbe(text);
  if (!isFunction(spec.place))
    throw wrong(text, 'calls are timed from the entry of a function to its return: write PATH:SYMBOL');
  return { ...spec, isReturn: true, isImplied: !spec.isReturn };
}

/** What to type for one place of a file: the opposite of `parseProbe`. */
export function probeText(pathname: string, place: string, isReturn = false): string {
  return `${pathname.replace(/[\\:]/g, '\\$&')}:${place}${isReturn ? RETURN : ''}`;
}

/** A symbol as PLACE has it: in quotes where it would be read as something else. */
export function symbolText(symbol: string): string {
  const plain =
    !isGlob(symbol) && unescapeGlob(symbol) === symbol && !/^(?:"|@|\d)|\+(?:\*|\w+)$|%\w+$/.test(symbol);
  return plain ? symbol : `"${symbol}"`;
}

const wrong = (text: string, problem: string): UsageError =>
  new UsageError(`bad probe '${text}': ${problem}`);

/** The first colon, from `start` on, that is neither escaped nor beside another colon. */
function separator(text: string): number {
  for (let i = 0; i < text.length; i++) {
    const char = text.charAt(i);
    if (char === '\\') i++;
    else if (char === ':') {
      let end = i;
      while (text.charAt(end) === ':') end++;
      if (end === i + 1) return i;
      i = end - 1;
    }
  }
  return -1;
}

/** A prefix counts only where a whole PATH:PLACE follows, so that a file called `u` can still be probed. */
function withoutPrefix(text: string): { rest: string; prefix: 'uprobe' | 'uretprobe' | undefined } {
  const match = /^(uprobe|uretprobe|ur|u):/.exec(text);
  const rest = text.slice(match?.[0].length ?? 0);
  if (match === null || separator(rest) < 0) return { rest: text, prefix: undefined };
  return { rest, prefix: match[1] === 'u' || match[1] === 'uprobe' ? 'uprobe' : 'uretprobe' };
}

function withoutReturn(
  text: string,
  place: string,
  prefix: string | undefined,
): { body: string; isReturn: boolean } {
  const suffix = /%([a-z]*)$/i.exec(place);
  if (suffix !== null && suffix[1] !== 'return') {
    throw wrong(text, `the only suffix is %return, not ${suffix[0]}`);
  }
  const body = suffix === null ? place : place.slice(0, suffix.index);
  return { body, isReturn: suffix !== null || prefix === 'uretprobe' };
}

function isFunction(place: ProbePlace): boolean {
  return (place.kind === 'symbol' || place.kind === 'glob') && place.symbolOffset === undefined;
}

function parsePlace(text: string, place: string): ProbePlace {
  if (place === '') throw wrong(text, 'a symbol, an offset (0x…) or an address (@0x…) must follow the colon');
  if (place.startsWith('@')) return { kind: 'addr', addr: address(text, place.slice(1)) };
  if (/^0x/i.test(place)) return { kind: 'offset', offset: number(text, place) };
  if (/^\d/.test(place)) {
    throw wrong(text, `no symbol begins with a digit; a file offset is written 0x…, an address @0x…`);
  }
  const quoted = /^"(.+)"(.*)$/s.exec(place);
  if (quoted !== null) return symbolPlace(text, quoted[1] ?? '', quoted[2] ?? '', false);
  const tail = /\+(?:\*|0x[0-9a-f]*|\d\w*)$/i.exec(place)?.[0] ?? '';
  const symbol = place.slice(0, place.length - tail.length);
  const glob = isGlob(symbol);
  return symbolPlace(text, glob ? symbol : unescapeGlob(symbol), tail, glob);
}

/** A symbol with what stands behind it: nothing, `+*` or `+OFFSET`. */
function symbolPlace(text: string, symbol: string, tail: string, glob: boolean): ProbePlace {
  if (symbol === '') throw wrong(text, 'there is no symbol before the +');
  if (symbol.includes('\0')) throw wrong(text, 'a symbol cannot hold a NUL character');
  if (tail !== '' && !tail.startsWith('+')) throw wrong(text, `what is '${tail}' after the symbol?`);
  if (tail === '+*') return { kind: 'every', symbol, isGlob: glob };
  const symbolOffset = tail === '' ? undefined : number(text, tail.slice(1));
  if (glob) return { kind: 'glob', glob: symbol, literal: unescapeGlob(symbol), symbolOffset };
  return { kind: 'symbol', symbol, symbolOffset };
}

function number(text: string, digits: string): number {
  const value = /^(?:0x[0-9a-f]+|\d+)$/i.test(digits) ? Number(digits) : NaN;
  if (Number.isNaN(value)) throw wrong(text, `'${digits}' is not a number: write 0x and hexadecimal digits`);
  if (!Number.isSafeInteger(value)) throw wrong(text, `${digits} is beyond the end of any file`);
  return value;
}

function address(text: string, digits: string): bigint {
  if (!/^0x[0-9a-f]+$/i.test(digits)) throw wrong(text, 'an address is written @0x and hexadecimal digits');
  const value = BigInt(digits);
  if (value >= U64) throw wrong(text, `@${digits} is not a 64-bit address`);
  return value;
}

/** A trap for people who come from bpftrace: its numbers are addresses, ours are file offsets. */
function bpftraceNumber(text: string, pathname: string, digits: string): UsageError {
  return wrong(
    text,
    `bpftrace takes this number for an address: write ${probeText(pathname, `@${digits}`)}, ` +
      `or ${probeText(pathname, digits)} for a file offset`,
  );
}
