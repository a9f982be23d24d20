/** What is said of an ifunc that is not one place. */
import { hex, type VirtualAddress } from '../base/address.js';
import { PlaceError } from '../base/errors.js';
import { listed, type Phrase } from '../base/words.js';
import { mainName, type CodeFile } from './code-file.js';
import { candidatesOf } from './ifunc.js';

const WHAT = 'is not a function but chooses one for this processor when a program starts (an ifunc)';

interface At {
  readonly address: VirtualAddress;
}

/** Where exactly one place is wanted. */
export function severalImplementations(
  code: CodeFile,
  found: readonly (At & { readonly symbol: string | undefined })[],
): PlaceError {
  const places = named(code, found);
  return ifuncError(
    code,
    ({ most }) =>
      `${found[0]!.symbol} ${WHAT}: one of ${found.length}, and which one is not known here. registerUprobes arms all ` +
      `of them, of which a process calls only one: ${listed(places, most)}`,
  );
}

export function offsetIntoSeveral(
  code: CodeFile,
  name: string,
  symbolOffset: number,
  found: readonly At[],
): PlaceError {
  const places = named(code, found);
  return ifuncError(
    code,
    ({ anAddress, aProcess, most }) =>
      `${name}+${hex(symbolOffset)} is not one place: ${name} ${WHAT}, and which one of ${found.length} is not known here. ` +
      `Give ${anAddress} in one of them, or name ${aProcess} that has called it: ${listed(places, most)}`,
  );
}

/** Where some implementation might be missed, or none is seen at all. */
export function unknownImplementations(code: CodeFile, name: string, resolver: VirtualAddress): PlaceError {
  const { addresses, isOpen } = candidatesOf(code, resolver);
  const why = isOpen
    ? 'It asks others for that one, which may lie outside of this file (in the vDSO, which is no file)'
    : 'Its code does not show which ones there are';
  const places = named(
    code,
    addresses.map((address) => ({ address })),
  );
  return ifuncError(code, ({ anAddress, aProcess, most }) => {
    const inside = places.length === 0 ? '' : `. In this file it names ${listed(places, most)}`;
    return `${name} ${WHAT}. ${why}${inside}. Give ${anAddress}, or name ${aProcess} that has called it`;
  });
}

/** The name of a function that begins just there. */
export function ownName(code: CodeFile, address: VirtualAddress): string | undefined {
  const known = code.functionAt(address);
  return known?.address === address ? mainName(known) : undefined;
}

const named = (code: CodeFile, places: readonly At[]): string[] =>
  places.map(({ address }) => {
    const own = ownName(code, address);
    return own === undefined ? hex(address) : `${own} at ${hex(address)}`;
  });

const ifuncError = (code: CodeFile, phrase: Phrase): PlaceError => {
  const { path } = code;
  return new PlaceError('ifunc-symbol', (words) => `${path}: ${phrase(words)}`);
};
