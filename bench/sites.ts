/** One measured run, a process of its own: sites COUNT. Prints the milliseconds that registering so many places takes. */
import { openModule, registerUprobes, spawnTarget, type UprobeSpec } from 'uprobe';

const count = Number(process.argv[2] ?? 1000);
const target = await spawnTarget(process.execPath, ['--version'], { stdio: 'ignore' });
const view = openModule(process.execPath);
const specs: UprobeSpec[] = [];
for (const fn of view.functions()) {
  if (specs.length >= count) break;
  if (fn.kind !== 'func') continue;
  try {
    const place = { offset: fn.offset };
    if (view.plan(place, { processes: target.pid }).chosen !== undefined)
      specs.push({ pathname: process.execPath, ...place, processes: target });
  } catch {
    // not a place: the next one
  }
}
view.close();
const start = performance.now();
const group = await registerUprobes(specs);
const armed = performance.now();
await group.unregister();
if (specs.length !== count) throw new Error(`only ${specs.length} places`);
console.log(armed - start);
target.kill('SIGKILL');
