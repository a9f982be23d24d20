/** One measured run, a process of its own: kernel-events PRODUCERS CALLS. So many programs make an event of 32 bytes at each of their calls. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { compiled, events, registerUprobe } from 'uprobe';
import { privateCopy } from '../test/helpers/compile.js';
import { compileBench, targetTime } from './harness.js';

const [producers = '2', calls = '2000000'] = process.argv.slice(2);
const program = privateCopy(compileBench('target'));
const hits = events({ time: 'u64', pid: 'u32', value: 'u64' });
let seen = 0;
let sum = 0n;
hits.listen(({ value }) => {
  seen++;
  sum += value ?? 0n;
});
const probe = await registerUprobe({
  pathname: program,
  symbol: 'probe_me_nop',
  engine: 'kernel',
  processes: 'all',
  preHandler: compiled({ scope: { hits } }, (hit, scope) =>
    scope.hits.emit({ time: hit.time, pid: hit.pid, value: hit.arg(0) }),
  ),
});
const before = process.cpuUsage();
const start = performance.now();
const runs = await Promise.all(
  Array.from({ length: Number(producers) }, () => promisify(execFile)(program, [calls, 'nop'])),
);
const ms = performance.now() - start;
const { user, system } = process.cpuUsage(before);
await probe.unregister();
const n = Number(producers) * Number(calls);
if (seen + hits.lost !== n) throw new Error(`${seen} seen and ${hits.lost} lost of ${n}`);
const slowest = Math.max(...runs.map((r) => targetTime(r.stdout)));
const expected = (BigInt(n) * (BigInt(calls) - 1n)) / 2n;
if (hits.lost === 0 && sum !== expected) throw new Error(`the values add up to ${sum}, not ${expected}`);
console.log(JSON.stringify({ rate: n / (slowest / 1e9), lost: hits.lost, cpu: (user + system) / 1000 / ms }));
