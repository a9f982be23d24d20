/**
 * Calls that fail: how does a program take it when the 20th malloc returns NULL, or a system call says EACCES?
 *
 *   uprobe run fault-injection.ts nth=20 -- ls /                        ls: memory exhausted
 *   uprobe run fault-injection.ts function=geteuid value=65534 nth=0 after=y -- whoami      nobody
 *
 * Each injected call is reported as it happens:
 *
 *   call 20 of malloc in ls (4711) returns 0
 */
import { probeModule, registerUprobe } from 'uprobe';
import type { PreHit } from 'uprobe';

export default probeModule({
  description: 'Makes calls of a function return what you say',
  parameters: {
    path: { type: 'string', default: 'libc', description: 'the library or program' },
    function: { type: 'string', default: 'malloc' },
    nth: { type: 'number', default: 1, description: 'which call, 1 first; 0 for every one' },
    value: { type: 'bigint', default: 0n, description: 'what it returns' },
    after: { type: 'boolean', default: false, description: 'let it run and change only what it returns' },
  },
  async load({ processes, parameters, print }) {
    const { path, function: symbol, nth, value, after } = parameters;
    let calls = 0;

    function isMeant({ comm, pid }: PreHit): boolean {
      calls++;
      if (nth !== 0 && calls !== nth) return false;
      print(`call ${calls} of ${symbol} in ${comm} (${pid}) returns ${value}`);
      return true;
    }

    const place = { pathname: path, symbol, processes };
    if (after)
      await registerUprobe<boolean>({
        ...place,
        preHandler: (hit) => {
          hit.call = isMeant(hit);
        },
        returnHandler: (hit) => {
          if (hit.call === true) hit.returnValue = value;
        },
      });
    else
      await registerUprobe({
        ...place,
        preHandler: (hit) => {
          if (!isMeant(hit)) return;
          // as a `ret` would: what it does must not happen at all
          hit.regs.ax = value;
          hit.regs.ip = hit.read(hit.regs.sp, 'u64')!;
          hit.regs.sp += 8n;
          return 'skip';
        },
      });
    return () => print(`${calls} calls`);
  },
});
