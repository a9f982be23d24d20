/**
 * How much memory a program asks for at a time.
 *
 *   node dist/examples/malloc-sizes.js                  ls /
 *   node dist/examples/malloc-sizes.js git log -3       any command
 *
 * When the command has ended you see how many calls of malloc wanted how much, by powers of two:
 *
 *     bytes  calls
 *       < 8      9  ######
 *      < 16     21  ##############
 */
import { registerUprobe, spawnTarget } from 'uprobe';

const [command = 'ls', ...args] = process.argv.length > 2 ? process.argv.slice(2) : ['ls', '/'];
const target = await spawnTarget(command, args, { stdio: 'inherit' });

/** Calls by the number of bits of their size. */
const calls: number[] = [];
const probe = await registerUprobe({
  pathname: 'libc',
  symbol: 'malloc',
  processes: target,
  preHandler(hit) {
    const bits = hit.arg(0).toString(2).length;
    calls[bits] = (calls[bits] ?? 0) + 1;
  },
});
await target.resume();
const { code } = await target.exited;
await probe.unregister();

const most = Math.max(...calls.filter(Boolean), 1);
console.error(`${'bytes'.padStart(12)}  calls`);
for (let bits = calls.findIndex(Boolean); bits > 0 && bits < calls.length; bits++) {
  const count = calls[bits] ?? 0;
  const bar = '#'.repeat(Math.ceil((count / most) * 50));
  console.error(`${`< ${2 ** bits}`.padStart(12)} ${String(count).padStart(6)}  ${bar}`.trimEnd());
}
console.error(`${probe.nhits} calls, ${probe.nmissed} missed`);
process.exitCode = code ?? 1;
