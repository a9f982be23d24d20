/** What the kernel engine finds on this machine, for `uprobe doctor`. */
import { messageOf } from '../../base/errors.js';
import type { Finding } from '../../linux/examine.js';
import { Keeper } from '../../linux/keeper.js';
import { bpfTarget, means, tried, type Means } from './machine.js';

/** By trying. */
export function examineKernel(): readonly Finding[] {
  const what = 'probing every process, by programs in the kernel';
  const by = means();
  if (typeof by !== 'string') {
    const { reason: detail, remedy } = by;
    return [{ what, ok: false, detail, ...(remedy !== undefined && { remedy }) }];
  }
  const how: Finding = by === 'samples' ? SAMPLES : { what, ok: true, detail: `${BY[by]}; ${abilities()}` };
  return [{ ...how, detail: [how.detail, ...insteadOf()].join('; ') }, keeper()];
}

const SAMPLES: Finding = {
  what: 'probing every process, by perf events of the kernel',
  ok: true,
  detail:
    'an event can be opened; without programs handlers run here, after the hit: with registers, not with memory, and for all processes only',
};

const BY: Readonly<Record<Exclude<Means, 'samples'>, string>> = {
  multi: 'a program was loaded, for many places at once (multi)',
  perf: 'a program was loaded, for perf events, one for each place (perf)',
};

/** The better means that are not there, and why. */
const insteadOf = (): string[] =>
  [...tried()].flatMap(([name, refusal]) =>
    refusal === undefined ? [] : [`not ${name}: ${refusal.reason}`],
  );

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
