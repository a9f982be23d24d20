/**
 * Which functions of a program run how often.
 *
 *   node dist/examples/counting.js                         bash, computing something
 *   node dist/examples/counting.js bash -c 'type ls'       any command
 *
 * When the command has ended you see the ten functions of the program itself (not of its libraries) called most:
 *
 *      22,083  hash_search
 *
 * A uprobe without handlers is counted by the engine, which is the cheapest there is.
 */
import { PlaceError, openModule, registerUprobes, spawnTarget } from 'uprobe';
import type { ModuleView, Target, UprobeSpec } from 'uprobe';

const DEFAULT = ['bash', '--norc', '-c', 'for i in {1..100}; do x=$((x + i)); done; echo $x'];
const [command, ...args] = process.argv.length > 2 ? process.argv.slice(2) : DEFAULT;

/** One spec for each function that can be probed; what cannot (an odd instruction) is left out. */
function* functionsOf(processes: Target): Generator<UprobeSpec> {
  using program = openModule(`/proc/${processes.pid}/exe`);
  for (const { address } of program.functions())
    if (canBeProbed(program, address)) yield { pathname: program.path, addr: address, processes };
}

function canBeProbed(program: ModuleView, addr: bigint): boolean {
  try {
    return program.plan({ addr }).chosen !== undefined;
  } catch (e) {
    if (e instanceof PlaceError) return false;
    throw e;
  }
}

const target = await spawnTarget(command!, args, { stdio: 'inherit' });
const specs = [...functionsOf(target)];
if (specs.length === 0) {
  target.kill('SIGKILL');
  throw new Error(`${command} is stripped: it names none of its functions`);
}
const probes = await registerUprobes(specs);
await target.resume();
const { code } = await target.exited;

const counts = [...probes].filter((p) => p.nhits > 0n).sort((a, b) => Number(b.nhits - a.nhits));
console.error(`${probes.size} functions probed, ${counts.length} called; the first ten:`);
for (const { nhits, symbol } of counts.slice(0, 10))
  console.error(`${nhits.toLocaleString('en').padStart(10)}  ${symbol}`);
await probes.unregister();
process.exitCode = code ?? 1;
