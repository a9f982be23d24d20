/**
 * A program that holds uprobes of the kernel until it is killed: kernel-holder PROGRAM WAY. WAY: `hold`: just that; `churn`: makes links and
 * closes them without end; `many`: a link with all functions of the program, again and again. It says `armed` at the first one.
 */
import { openModule, registerUprobes, type UprobeSpec } from 'uprobe';

const [program = '', way = 'churn'] = process.argv.slice(2);

function everyFunction(): UprobeSpec[] {
  using view = openModule(program);
  const offsets = new Set([...view.functions()].map((f) => f.offset));
  return [...offsets]
    .map((offset) => ({ pathname: program, offset }))
    .filter((spec) => {
      try {
        const { engines } = view.plan({ offset: spec.offset }, { preHandler: false });
        return engines.find((e) => e.engine === 'kernel')?.refusal === undefined;
      } catch {
        return false; // its bytes are no code that is understood
      }
    });
}

const specs: UprobeSpec[] =
  way === 'many'
    ? everyFunction()
    : ['mix', 'salted', 'chosen', 'expected'].map((symbol) => ({ pathname: program, symbol }));
for (let i = 0; ; i++) {
  const group = await registerUprobes(specs);
  if (i === 0) process.stdout.write('armed\n');
  if (way === 'hold') await new Promise((resolve) => setTimeout(resolve, 1e6));
  await group.unregister();
}
