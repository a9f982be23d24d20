/**
 * What is typed in a bash.
 *
 *   node dist/examples/bash-readline.js        a bash of its own, in this terminal
 *   node dist/examples/bash-readline.js PID    a bash that runs already, until Ctrl-C
 *
 * You see each line as bash gets it from its line editor, on stderr:
 *
 *   bash 4711: "ls -l"
 *
 * `readline` returns the line, so what is probed is each of its `ret` instructions: there the value it returns is in ax.
 */
import { openModule, registerUprobes, spawnTarget } from 'uprobe';
import type { ArmState, Hit, UprobeSpec } from 'uprobe';

const pid = process.argv[2] === undefined ? undefined : Number(process.argv[2]);
const target =
  pid === undefined ? await spawnTarget('bash', ['--norc', '-i'], { stdio: 'inherit' }) : undefined;
const processes = target ?? pid!;

function showLine(hit: Hit): void {
  const line = hit.regs.ax === 0n ? undefined : hit.readString(hit.regs.ax, 4096);
  console.error(`bash ${hit.pid}: ${line === undefined ? 'end of input' : JSON.stringify(line)}`);
}

/** One spec for each `ret` of a function of bash. */
function* returnsOf(name: string): Generator<UprobeSpec> {
  const bash = openModule('bash', { processes });
  for (const fn of bash.matching(name))
    for (const { text, offset } of bash.instructions(fn))
      if (text === 'ret') yield { pathname: bash.path, offset, processes, preHandler: showLine, onState };
  bash.close();
}

let ended: () => void;
const end = new Promise<void>((resolve) => (ended = resolve));
function onState({ state }: ArmState): void {
  if (state === 'gone') ended();
}

const probes = await registerUprobes(returnsOf('readline'));
if (target !== undefined) {
  await target.resume();
  const { code } = await target.exited;
  process.exitCode = code ?? 1;
} else {
  console.error(`looking at bash ${pid}; Ctrl-C ends`);
  process.once('SIGINT', () => ended());
  await end;
}
await probes.unregister();
