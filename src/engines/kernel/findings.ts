/** What the kernel engine finds on this machine, for `uprobe doctor`. */
import { messageOf } from '../../base/errors.js';
import type { Finding } from '../../linux/examine.js';
import { Keeper } from '../../linux/keeper.js';
import { bpfTarget, means, unavailable } from './machine.js';

/** By trying. */
export function examineKernel(): readonly Finding[] {
  const what = 'probing every process, by programs in the kernel';
  const refusal = unavailable();
  if (refusal !== undefined) {
    const { reason: detail, remedy } = refusal;
    return [{ what, ok: false, detail, ...(remedy !== undefined && { remedy }) }];
  }
  if (means() === 'samples') return [SAMPLES, keeper()];
  return [{ what, ok: true, detail: `a program was loaded; ${abilities()}` }, keeper()];
}

const SAMPLES: Finding = {
  what: 'probing every process, by perf events of the kernel',
  ok: true,
  detail:
    'an event can be opened; without programs handlers run here, after the hit: with registers, not with memory, and for all processes only',
};

/** Nothing is amiss where they are not there: handlers then do it another way. */
function abilities(): string {
  const both = bpfTarget.session === undefined ? 'two programs for' : 'one program for';
  const memory = bpfTarget.sleepable ? 'paged out or not' : 'where it is not paged out';
  return `${both} entry and return; memory is read ${memory}`;
}

function keeper(): Finding {
  const what = 'links of programs are closed when we are killed';
  try {
    new Keeper().close();
    return { what, ok: true, detail: 'a child that keeps them was started' };
  } catch (e) {
    const remedy =
      'A sandbox forbids clone(2) or pidfd_open(2) (seccomp), or there are too many processes (ulimit -u)';
    return { what, ok: false, detail: messageOf(e), remedy };
  }
}
