/** One measured run, a process of its own: hit KIND VARIANT CALLS. Prints the nanoseconds a hit, from the target itself. */
import { text } from 'node:stream/consumers';
import { registerUprobe, spawnTarget } from 'uprobe';
import { compileBench, targetTime } from './harness.js';

const [kind = 'pre', variant = 'push', calls = '20000'] = process.argv.slice(2);
const program = compileBench('target');
const target = await spawnTarget(program, [calls, variant]);
const nothing = (): undefined => undefined;
const probe = await registerUprobe({
  pathname: program,
  symbol: `probe_me_${variant}`,
  processes: target,
  ...(kind === 'count' ? {} : { preHandler: nothing }),
  ...(kind === 'post' ? { postHandler: nothing } : {}),
});
const output = text(target.stdout!);
await target.resume();
await target.exited;
if (probe.nhits !== BigInt(calls)) throw new Error(`${probe.nhits} hits of ${calls}`);
console.log(targetTime(await output) / Number(calls));
