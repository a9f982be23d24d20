/**
 * A program that probes a running one: hammerer PROGRAM PID WAY. WAY: handlers, counts, both, churn; `heap` takes memory until
 * it has none. It says `armed` and goes on for ever.
 */
import { registerUprobe, registerUprobes, type UprobeSpec } from 'uprobe';

const [program = '', pid = '', way = 'handlers'] = process.argv.slice(2);
const nothing = (): undefined => undefined;
const spec = (symbol: string, kind: string): UprobeSpec => ({
  pathname: program,
  symbol,
  processes: Number(pid),
  ...(kind === 'counts' ? {} : { preHandler: nothing }),
  ...(kind === 'both' ? { postHandler: nothing } : {}),
});
const salted = way === 'both' ? 'handlers' : way;
await registerUprobes([spec('mix', way), spec('salted', salted), spec('chosen', 'counts')]);
process.stdout.write('armed\n');

// arming and disarming without end
while (way === 'churn') await (await registerUprobe(spec('expected', 'counts'))).unregister();

const hoard: unknown[] = [];
while (way === 'heap') {
  hoard.push(Array.from({ length: 100_000 }, (_, i) => ({ i })));
  await new Promise((resolve) => setTimeout(resolve, 1));
}
setInterval(nothing, 1000);
