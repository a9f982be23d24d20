/** A program that probes a running process and then leaves in one of several ways: leaver PROGRAM PID WAY. */
import { registerUprobe } from 'uprobe';

const [pathname = '', pid = '', way = ''] = process.argv.slice(2);
let hits = 0;
await registerUprobe({ pathname, symbol: 'tick', processes: Number(pid), preHandler: () => void hits++ });
while (hits < 100) await new Promise((resolve) => setTimeout(resolve, 5));
process.stdout.write('probed\n');
if (way === 'exit') process.exit(5);
if (way === 'throw') throw new Error('an exception of a user');
if (way === 'hang') setInterval(() => undefined, 1000);
