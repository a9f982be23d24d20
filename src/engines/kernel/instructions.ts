/** Which instructions the kernel engine takes. */
import { makeRefusal, type Refusal } from '../../base/errors.js';
import { isEmulatedPush, kernelHandling } from '../../arch/x64/kernel-uprobes.js';
import type { ArmableSite } from '../engine.js';

export function refuseInstruction({ instruction, atEntry, forbidden }: ArmableSite): Refusal | undefined {
  if (forbidden !== undefined) return forbidden;
  const handling = kernelHandling(instruction);
  switch (handling.does) {
    case 'refuses':
      return refused('kernel-refuses-instruction', `the kernel takes no uprobe on ${handling.what}`);
    case 'breaks':
      return refused(
        'kernel-breaks-instruction',
        `the kernel's uprobes do not do justice to ${handling.what}`,
      );
    case 'calls':
      return atEntry === true ? undefined : RED_ZONE;
    default:
      return undefined;
  }
}

const refused = (code: string, reason: string): Refusal =>
  makeRefusal(
    code,
    reason,
    (words) => `Probe the instruction before or behind it, or use ${words.engine('trap')}`,
  );

// SysV psABI 3.2.2: 128 bytes below rsp belong to the function
const RED_ZONE = refused(
  'kernel-breaks-instruction',
  'the kernel makes a call of this nop, which writes into the red zone of the function around it',
);

/**
 * How far behind a site the kernel really stops: behind the endbr64 that a function begins with, where a push follows. endbr64 changes
 * nothing but rip, and nobody calls what is behind it; but it is stepped, and the push is not.
 */
export const shiftOf = ({
  instruction,
  atEntry,
  next,
}: Pick<ArmableSite, 'instruction' | 'atEntry' | 'next'>): number =>
  atEntry === true && next !== undefined && isEmulatedPush(next) ? instruction.bytes.length : 0;

/** What a hit at a site costs, for people. */
export function costOf(site: ArmableSite): string {
  if (shiftOf(site) > 0) return 'at the push behind endbr64, which the kernel emulates';
  switch (kernelHandling(site.instruction).does) {
    case 'emulates':
      return 'the kernel emulates the instruction';
    case 'calls':
      return 'the kernel makes a call of the nop';
    default:
      return 'the kernel steps over the instruction, which takes about 15 times as long as a push';
  }
}
