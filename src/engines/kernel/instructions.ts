/** Which instructions the kernel engine takes. */
import { makeRefusal, type Refusal } from '../../base/errors.js';
import { kernelHandling } from '../../arch/x64/kernel-uprobes.js';
import type { ArmableSite } from '../engine.js';

export function refuseInstruction({ instruction, atEntry }: ArmableSite): Refusal | undefined {
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
