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
 * `readline` returns the line: a return handler sees it.
 */
import { registerUprobe, spawnTarget } from 'uprobe';
import type { ArmState, ReturnHit } from 'uprobe';

const pid = process.argv[2] === undefined ? undefined : Number(process.argv[2]);
const target =
  pid === undefined ? await spawnTarget('bash', ['--norc', '-i'], { stdio: 'inherit' }) : undefined;
const processes = target ?? pid!;

function showLine(hit: ReturnHit): void {
  const line = hit.returnValue === 0n ? undefined : hit.readString(hit.returnValue, 4096);
  console.error(`bash ${hit.pid}: ${line === undefined ? 'end of input' : JSON.stringify(line)}`);
}

let ended: () => void;
const end = new Promise<void>((resolve) => (ended = resolve));
function onState({ state }: ArmState): void {
  if (state === 'gone') ended();
}

const probe = await registerUprobe({
  pathname: 'bash',
  symbol: 'readline',
  processes,
  returnHandler: showLine,
  onState,
});
if (target !== undefined) {
  await target.resume();
  const { code } = await target.exited;
  process.exitCode = code ?? 1;
} else {
  console.error(`looking at bash ${pid}; Ctrl-C ends`);
  process.once('SIGINT', () => ended());
  await end;
}
await probe.unregister();
