/** in-place-prober PROGRAM [ARGUMENTS...]: starts it and probes its calls that can be stepped in their own place only, for ever. */
import { openModule, registerUprobes, spawnTarget, type UprobeSpec } from 'uprobe';

const [program = '', ...args] = process.argv.slice(2);
const target = await spawnTarget(program, args, { stdio: ['ignore', 'inherit', 'inherit'] });
const view = openModule(program);
const turn = [...view.functions()].find((f) => f.name === 'turn')!;
const calls = [...view.instructions(turn)].filter(({ text }) => /^call.*rsp/.test(text));
await registerUprobes(
  calls.map(({ offset }): UprobeSpec => ({
    pathname: program,
    offset,
    processes: target,
    preHandler: () => undefined,
  })),
);
process.stdout.write(calls.length === 2 ? 'armed\n' : 'no such calls\n');
await target.resume();
