/**
 * What a message tells people to write: a caller of the library writes something else than who types a command. Such a
 * message is made by a phrase, from the words of whoever shows it; `message` and `remedy` have the library's.
 */
import { hex } from './address.js';

export interface Words {
  /** A place by its link-time address. */
  place(path: string, address: number): string;
  /** The same, where the address is still to be found. */
  readonly anAddress: string;
  /** How to write an address that is in the file: a sentence without its stop. */
  readonly addressForms: string;
  /** To take a place that nothing proves. */
  readonly trustPlace: string;
  /** To use this engine. */
  engine(name: string): string;
  /** A process that runs. */
  readonly aProcess: string;
  /** To have probes that were taken out again. */
  readonly again: string;
  /** How many names a list may show. */
  readonly most: number;
}

export type Phrase = (words: Words) => string;

export const LIBRARY_WORDS: Words = {
  place: (_path, address) => `{ addr: ${hex(address)}n }`,
  anAddress: 'an address',
  addressForms: 'Give the address as nm and objdump print it, or { pid, liveAddr } for one in a live process',
  trustPlace: 'set trustPlace: true',
  engine: (name) => `engine: '${name}'`,
  aProcess: 'a process',
  again: 'Register them again',
  most: 16,
};

/** The first of them, and how many more there are. */
export function listed(names: readonly string[], most: number): string {
  const more = names.length > most ? ` and ${names.length - most} more` : '';
  return `${names.slice(0, most).join(', ')}${more}`;
}
