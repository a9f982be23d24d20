/**
 * What a target or a file says is hostile: a symbol, a string argument or a thread's name may hold escape
 * sequences that move a terminal's cursor, rename its window or make it type. Nothing of that kind reaches a
 * terminal or a text file unescaped.
 */

/**
 * What must not be printed as it is: C0 controls and DEL, C1 controls (an 8-bit terminal takes U+009B for ESC [),
 * the line and paragraph separators, the characters that reorder or hide what stands beside them (Unicode TR 36,
 * "bidirectional text spoofing"), the byte order mark, interlinear annotations, tags, and lone surrogates, which
 * no encoding of a string can hold: `utf8.ts` makes them of bytes that are no characters.
 */
const UNSAFE =
  '\\u0000-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u180e\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb' +
  '\\u{e0000}-\\u{e007f}\\p{Surrogate}';
const unsafe = new RegExp(`[${UNSAFE}]`, 'u');
const unsafeAll = new RegExp(`[${UNSAFE}]`, 'gu');
const unsafeOrQuote = new RegExp(`["\\\\${UNSAFE}]`, 'u');
const unsafeOrQuoteAll = new RegExp(`["\\\\${UNSAFE}]`, 'gu');

const SHORT: Readonly<Record<string, string>> = {
  '\n': '\\n',
  '\r': '\\r',
  '\t': '\\t',
  '"': '\\"',
  '\\': '\\\\',
};

/** The escape of one character, as a JavaScript string literal has it. */
function escapeOne(char: string): string {
  const short = SHORT[char];
  if (short !== undefined) return short;
  const code = char.codePointAt(0) ?? 0;
  if (code < 0x100) return `\\x${code.toString(16).padStart(2, '0')}`;
  return code < 0x10000 ? `\\u${code.toString(16).padStart(4, '0')}` : `\\u{${code.toString(16)}}`;
}

/**
 * A name made fit to print: what is unsafe becomes a JavaScript escape. A backslash stays as it is, so that
 * ordinary names are printed unchanged; who needs to tell the two apart reads the JSON output.
 */
export const escapeText = (text: string): string =>
  unsafe.test(text) ? text.replace(unsafeAll, escapeOne) : text;

/** A string value in double quotes, as a JavaScript string literal that means the same string. */
export const quote = (text: string): string =>
  unsafeOrQuote.test(text) ? `"${text.replace(unsafeOrQuoteAll, escapeOne)}"` : `"${text}"`;

/** A string as JSON: JSON escapes C0 controls itself; the rest of the unsafe characters are written as `\u` escapes. */
export function jsonString(text: string): string {
  const json = JSON.stringify(text);
  return unsafe.test(json) ? json.replace(unsafeAll, jsonEscapeOne) : json;
}

/** JSON has only four-digit escapes: a character beyond U+FFFF is two of them (RFC 8259, section 7). */
function jsonEscapeOne(char: string): string {
  let escaped = '';
  for (let i = 0; i < char.length; i++) {
    escaped += `\\u${char.charCodeAt(i).toString(16).padStart(4, '0')}`;
  }
  return escaped;
}

/** A value as one line of JSON, with the same care for its strings. */
export function jsonText(value: unknown): string {
  // In JSON text every character outside strings is printable ASCII (or a line end, which is not written here),
  // so the whole text can be treated as one string.
  const json = JSON.stringify(value);
  return unsafe.test(json) ? json.replace(unsafeAll, jsonEscapeOne) : json;
}
