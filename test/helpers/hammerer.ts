/** A program that probes: hammerer PROGRAM PID WAY. WAY: handlers, counts, both, churn. It says `armed` and goes on for ever. */
import { registerUprobe, registerUprobes, type UprobeSpec } from 'uprobe';

const [program = '', pid = '', way = 'handlers'] = process.argv.slice(2);
const handlers = { preHandler: () => undefined };
const spec = (symbol: string, kind: string): UprobeSpec => ({
  pathname: program,
  symbol,
  processes: Number(pid),
  ...(kind === 'counts' ? {} : kind === 'both' ? { ...handlers, postHandler: () => undefined } : handlers),
});
await registerUprobes([
  spec('mix', way),
  spec('salted', way === 'both' ? 'handlers' : way),
  spec('chosen', 'counts'),
]);
process.stdout.write('armed\n');
// `churn`: arming and disarming never end
while (way === 'churn') {
  const again = await registerUprobe(spec('expected', 'counts'));
  await again.unregister();
}
setInterval(() => undefined, 1000);
