/**
 * One measured run, a process of its own: among PROBES CALLS WARMUP. Prints the nanoseconds of a hit of one place when so many
 * places are armed, each with a handler.
 */
import { text } from 'node:stream/consumers';
import { registerUprobes, spawnTarget, type UprobeSpec } from 'uprobe';
import { compileBench, targetTime } from './harness.js';

const ALL = 100_000;
const APART = 8;

const [probes = '1', calls = '20000', warmup = '10000'] = process.argv.slice(2);
const program = compileBench('many');
const target = await spawnTarget(program, [calls, warmup]);
const specs = Array.from({ length: Number(probes) }, (_, i): UprobeSpec => {
  const place = { symbol: 'many', symbolOffset: (ALL - 1 - i) * APART };
  return { pathname: program, ...place, processes: target, preHandler: () => undefined };
});
const group = await registerUprobes(specs);
const output = text(target.stdout!);
await target.resume();
await target.exited;
const hits = BigInt(calls) + BigInt(warmup);
const { nhits } = group.at(0)!;
if (nhits !== hits) throw new Error(`${nhits} hits of ${hits}`);
console.log(targetTime(await output) / Number(calls));
