/** What is said of an ifunc that is not one place. */
import { hex, type VirtualAddress } from '../base/address.js';
import { PlaceError } from '../base/errors.js';
import { mainName, type CodeFile } from './code-file.js';
import { candidatesOf } from './ifunc.js';

const MOST_LISTED = 16;
const WHAT = 'is not a function but chooses one for this processor when a program starts (an ifunc)';

interface At {
  readonly address: VirtualAddress;
}

/** Where exactly one place is wanted. */
export function severalImplementations(
  code: CodeFile,
  found: readonly (At & { readonly symbol: string | undefined })[],
): PlaceError {
  return ifuncError(
    code,
    `${found[0]!.symbol} ${WHAT}: one of ${found.length}, and which one is not known here. registerUprobes arms all of ` +
      `them, of which a process calls only one: ${listed(code, found)}`,
  );
}

export function offsetIntoSeveral(
  code: CodeFile,
  name: string,
  symbolOffset: number,
  found: readonly At[],
): PlaceError {
  return ifuncError(
    code,
    `${name}+${hex(symbolOffset)} is not one place: ${name} ${WHAT}, and which one of ${found.length} is not known here. ` +
      `Give an address in one of them, or name a process that has called it: ${listed(code, found)}`,
  );
}

/** Where some implementation might be missed, or none is seen at all. */
export function unknownImplementations(code: CodeFile, name: string, resolver: VirtualAddress): PlaceError {
  const { addresses, isOpen } = candidatesOf(code, resolver);
  const why = isOpen
    ? 'It asks others for that one, which may lie outside of this file (in the vDSO, which is no file)'
    : 'Its code does not show which ones there are';
  const inside =
    addresses.length === 0
      ? ''
      : `. In this file it names ${listed(
          code,
          addresses.map((address) => ({ address })),
        )}`;
  return ifuncError(
    code,
    `${name} ${WHAT}. ${why}${inside}. Give an address, or name a process that has called it`,
  );
}

/** The name of a function that begins just there. */
export function ownName(code: CodeFile, address: VirtualAddress): string | undefined {
  const known = code.functionAt(address);
  return known?.address === address ? mainName(known) : undefined;
}

function listed(code: CodeFile, places: readonly At[]): string {
  const shown = places.slice(0, MOST_LISTED).map(({ address }) => {
    const own = ownName(code, address);
    return own === undefined ? hex(address) : `${own} at ${hex(address)}`;
  });
  const more = places.length > shown.length ? ` and ${places.length - shown.length} more` : '';
  return `${shown.join(', ')}${more}`;
}

const ifuncError = (code: CodeFile, message: string): PlaceError =>
  new PlaceError('ifunc-symbol', `${code.path}: ${message}`);
