/** What the library's messages tell people to write, as it is written on the command line. */
import { hex } from '../base/address.js';
import { messageIn, remedyIn } from '../base/errors.js';
import type { Refusal } from '../base/errors.js';
import type { Words } from '../base/words.js';
import { probeText } from './probe-spec.js';

const WORDS: Words = {
  place: (path, address) => probeText(path, `@${hex(address)}`),
  anAddress: 'an address (PATH:@0x…)',
  addressForms: 'Give the address as nm and objdump print it, or a file offset (PATH:0x…)',
  trustPlace: 'give --trust-place',
  engine: (name) => `--engine ${name}`,
  aProcess: 'a process (-p PID)',
  again: 'Probe it again',
  most: 16,
};
/** Beside other lines, as an example of many. */
const BRIEF: Words = { ...WORDS, most: 3 };

/** What an error says. */
export const said = (e: unknown): string => messageIn(WORDS, e);

/** The same for who has not asked about this one place. */
export const saidBriefly = (e: unknown): string => messageIn(BRIEF, e);

/** A refusal with its remedy in words of the command line. */
export function refusalSaid(refusal: Refusal): Refusal {
  const { code, reason } = refusal;
  const remedy = remedyIn(WORDS, refusal);
  return remedy === undefined ? { code, reason } : { code, reason, remedy };
}
