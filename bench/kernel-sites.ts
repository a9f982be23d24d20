/** One measured run, a process of its own: kernel-sites COUNT PATH. Registers so many functions of a file that nobody runs; milliseconds. */
import { openModule, registerUprobes, type UprobeSpec } from 'uprobe';

const [count = '1000', pathname = ''] = process.argv.slice(2);
const specs: UprobeSpec[] = [];
const offsets: number[] = [];
const start = performance.now();
const view = openModule(pathname);
for (const fn of view.functions()) {
  if (specs.length >= Number(count)) break;
  if (fn.kind !== 'func') continue;
  try {
    const { engines } = view.plan({ offset: fn.offset }, { preHandler: false });
    if (engines.find((e) => e.engine === 'kernel')?.refusal !== undefined) continue;
  } catch {
    continue; // not a place
  }
  specs.push({ pathname, offset: fn.offset, engine: 'kernel', processes: 'all' });
  offsets.push(fn.offset);
}
view.close();
const found = performance.now();
const group = await registerUprobes(specs);
const armed = performance.now();
await group.unregister();
const gone = performance.now();
console.log(JSON.stringify({ plan: found - start, attach: armed - found, detach: gone - armed, offsets }));
