/** The verifier's words, at the handler's line. */
import { UprobeError } from '../../base/errors.js';
import { excerpt } from '../../base/excerpt.js';
import type { VerifierError } from '../../linux/bpf.js';
import type { BpfCode } from '../../handler/bpf/code.js';

const COLUMNS = 90;

/**
 * What the kernel's verifier has against a program, with the text that the instruction it stopped at was made of. `before`: how many
 * instructions stand before the code.
 */
export function refusedByVerifier(error: VerifierError, code: BpfCode, before = 0): UprobeError {
  const at = lastInstruction(error.log);
  const origin = at === undefined ? undefined : code.origins[at - before];
  const says = error.hint ?? 'it says no more';
  const message = `the kernel's verifier refuses the handler (${error.code}): ${says}`;
  const options = { cause: error };
  if (origin === undefined) return new UprobeError('verifier-refused', message, options);
  const { start, end } = origin.at;
  const [line, carets] = excerpt(origin.program.text, start, end, COLUMNS);
  return new UprobeError('verifier-refused', `${message}\n  ${line}\n  ${carets}`, options);
}

/** Its log has each instruction that it looks at: `12: (85) call bpf_…`. */
function lastInstruction(log: string): number | undefined {
  const numbers = [...log.matchAll(/^(\d+): \(/gm)];
  const last = numbers.at(-1)?.[1];
  return last === undefined ? undefined : Number(last);
}
