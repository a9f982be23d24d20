/**
 * Strings of programs are bytes, which are UTF-8 only mostly. Here every byte that is not becomes a character of its own, the lone
 * surrogate U+DC00 + byte, as PEP 383 has it: different bytes are different strings, and a string goes back to the same bytes.
 */

const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
const encoder = new TextEncoder();

const loneSurrogate = /\p{Surrogate}/u;
const loneSurrogates = /\p{Surrogate}/gu;
const ESCAPED = 0xdc00;

export function decodeUtf8(bytes: Uint8Array): string {
  const text = decoder.decode(bytes);
  // What is no UTF-8 has become that; a decoder that throws instead takes a hundred times as long over it.
  return text.includes('\ufffd') ? decodeBroken(bytes) : text;
}

function decodeBroken(bytes: Uint8Array): string {
  let text = '';
  let from = 0;
  for (let i = 0; i < bytes.length;) {
    const length = sequenceAt(bytes, i);
    if (length === 0) {
      text += decoder.decode(bytes.subarray(from, i)) + String.fromCharCode(ESCAPED + bytes[i]!);
      from = i + 1;
    }
    i += length === 0 ? 1 : length;
  }
  return text + decoder.decode(bytes.subarray(from));
}

/** The length of the character that starts there, 0 where none does (Unicode, table 3-7: well-formed byte sequences). */
function sequenceAt(bytes: Uint8Array, at: number): number {
  const first = bytes[at]!;
  if (first < 0x80) return 1;
  if (first < 0xc2 || first > 0xf4) return 0;
  const length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  const second = bytes[at + 1] ?? 0;
  const least = first === 0xe0 ? 0xa0 : first === 0xf0 ? 0x90 : 0x80;
  const most = first === 0xed ? 0x9f : first === 0xf4 ? 0x8f : 0xbf;
  if (second < least || second > most) return 0;
  for (let i = at + 2; i < at + length; i++) if (((bytes[i] ?? 0) & 0xc0) !== 0x80) return 0;
  return length;
}

/** The bytes that `decodeUtf8` makes the string of. Any other lone surrogate is written as U+FFFD, as the platform does. */
export function encodeUtf8(text: string): Uint8Array {
  if (!loneSurrogate.test(text)) return encoder.encode(text);
  const parts: Uint8Array[] = [];
  let from = 0;
  for (const { 0: found, index } of text.matchAll(loneSurrogates)) {
    const byte = found.charCodeAt(0) - ESCAPED;
    if (byte < 0x80 || byte > 0xff) continue;
    parts.push(encoder.encode(text.slice(from, index)), Uint8Array.of(byte));
    from = index + 1;
  }
  parts.push(encoder.encode(text.slice(from)));
  return Buffer.concat(parts);
}

const plain = /^[\x01-\x7f]*$/;

/** The string that is left when its bytes end before the first NUL, and at the latest after `most`. */
export function cutUtf8(text: string, most: number): string {
  if (text.length <= most && plain.test(text)) return text;
  const bytes = encodeUtf8(text);
  const nul = bytes.indexOf(0);
  const end = Math.min(nul < 0 ? bytes.length : nul, most);
  // Decoded anew also where nothing is cut off: one sequence of bytes is one string.
  return decodeUtf8(bytes.subarray(0, end));
}
