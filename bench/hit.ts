/**
 * One measured run, a process of its own: hit KIND VARIANT CALLS [WARMUP]. KIND: count, pre, post or return. Prints the nanoseconds a
 * hit, from the target itself, after WARMUP hits that do not count: Node compiles what runs often.
 */
import { text } from 'node:stream/consumers';
import { registerUprobe, spawnTarget } from 'uprobe';
import { compileBench, targetTime } from './harness.js';

const [kind = 'pre', variant = 'push', calls = '20000', warmup = '0'] = process.argv.slice(2);
const program = compileBench('target');
const target = await spawnTarget(program, [calls, variant, warmup]);
const nothing = (): undefined => undefined;
const probe = await registerUprobe({
  pathname: program,
  symbol: `probe_me_${variant}`,
  processes: target,
  ...(kind === 'pre' || kind === 'post' ? { preHandler: nothing } : {}),
  ...(kind === 'post' ? { postHandler: nothing } : {}),
  ...(kind === 'return' ? { returnHandler: nothing } : {}),
});
const output = text(target.stdout!);
await target.resume();
await target.exited;
const hits = BigInt(calls) + BigInt(warmup);
if (probe.nhits !== hits) throw new Error(`${probe.nhits} hits of ${hits}, ${probe.nmissed} missed`);
console.log(targetTime(await output) / Number(calls));
