/** The sizes that `ls` asks malloc for, as a histogram. Run: npm run build:test && node build/examples/malloc-sizes.js */
import { registerUprobe, spawnTarget } from 'uprobe';

const buckets = new Map<number, number>();
const target = await spawnTarget('ls', ['/'], { stdio: 'ignore' });
const probe = await registerUprobe({
  pathname: 'libc',
  symbol: 'malloc',
  processes: target,
  preHandler: (hit) => {
    const power = Math.ceil(Math.log2(Number(hit.arg(0)) || 1));
    buckets.set(power, (buckets.get(power) ?? 0) + 1);
    return undefined;
  },
});
await target.resume();
await target.exited;
for (const [power, count] of [...buckets].sort(([a], [b]) => a - b))
  console.log(`<= ${2 ** power}: ${count}`);
console.log(`${probe.nhits} hits, ${probe.nmissed} missed`);
await probe.unregister();
