/**
 * A program that believes to be somebody else: the argument of a function is changed before the function sees it.
 *
 *   node dist/examples/changed-argument.js
 *
 * You see what `whoami` prints, first unprobed, then with another user id:
 *
 *   root
 *   nobody
 *
 * whoami asks the kernel for its user id and the C library's getpwuid() for the name; we change the id between the two.
 */
import { registerUprobe, spawnTarget } from 'uprobe';

const NOBODY = 65_534;

const unprobed = await spawnTarget('whoami', [], { stdio: 'inherit' });
await unprobed.resume();
await unprobed.exited;

const target = await spawnTarget('whoami', [], { stdio: 'inherit' });
const probe = await registerUprobe({
  pathname: 'libc',
  symbol: 'getpwuid',
  processes: target,
  preHandler(hit) {
    hit.regs.di = NOBODY; // the first argument, by the calling convention
  },
});
await target.resume();
await target.exited;
await probe.unregister();
