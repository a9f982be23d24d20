/**
 * One measured run of the kernel engine, a process of its own: kernel-hit KIND VARIANT CALLS. KIND: count, histogram, event, return or
 * session. Prints the nanoseconds a call that the target itself has measured, with the probe on it.
 */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { compiled, counter, events, histogram, registerUprobe, type UprobeOptions } from 'uprobe';
import { privateCopy } from '../test/helpers/compile.js';
import { compileBench, targetTime } from './harness.js';

const [kind = 'count', variant = 'push', calls = '200000'] = process.argv.slice(2);
const program = privateCopy(compileBench('target'));
const sizes = histogram();
const times = histogram();
const returns = counter();
const hits = events({ time: 'u64', pid: 'u32', value: 'u64' });
let seen = 0;
hits.listen(() => seen++);

const handlers: Record<string, Pick<UprobeOptions, 'preHandler' | 'returnHandler'>> = {
  count: {},
  histogram: { preHandler: compiled({ scope: { sizes } }, (hit, scope) => scope.sizes.add(hit.arg(0))) },
  event: {
    preHandler: compiled({ scope: { hits } }, (hit, scope) =>
      scope.hits.emit({ time: hit.time, pid: hit.pid, value: hit.arg(0) }),
    ),
  },
  return: { returnHandler: compiled({ scope: { returns } }, (_hit, scope) => scope.returns.add(1)) },
  session: {
    returnHandler: compiled({ scope: { times } }, (hit, scope) => scope.times.add(hit.duration)),
  },
};
const chosen = handlers[kind];
if (chosen === undefined) throw new Error(`no kind ${kind}`);
const probe = await registerUprobe({
  pathname: program,
  symbol: `probe_me_${variant}`,
  engine: 'kernel',
  processes: 'all',
  ...chosen,
});
const { stdout } = await promisify(execFile)(program, [calls, variant], { timeout: 120_000 });
await probe.unregister();
const found: Record<string, () => number> = {
  count: () => Number(probe.nhits),
  histogram: () => sizes.count,
  event: () => seen,
  return: () => Number(returns.value),
  session: () => times.count,
};
const got = found[kind]!();
if (got !== Number(calls)) throw new Error(`${got} of ${calls} ${kind}s, ${hits.lost} lost`);
console.log(targetTime(stdout) / Number(calls));
