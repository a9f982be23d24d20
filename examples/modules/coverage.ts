/**
 * Which instructions of functions were run, and how often.
 *
 *   uprobe run coverage.ts path=bash functions='execute_command' -- bash --norc -c 'for i in 1 2; do echo $i; done'
 *
 * At the end you see each function that was entered, each instruction with its count:
 *
 *   execute_command: 51 of 66 instructions
 *        3  0x4ba50  push r12
 *        .  0x4bb0e  call 0x4b9b0
 *
 * Probes without handlers are counted by the engine, which is the cheapest there is; every instruction costs a stop all the same.
 */
import { PlaceError, openModule, probeModule, registerUprobes } from 'uprobe';
import type { FunctionInfo, InstructionInfo, ModuleView, UprobeSpec } from 'uprobe';

export default probeModule({
  description: 'Lists the instructions of functions, and how often each has run',
  parameters: {
    path: { type: 'string', default: 'bash', description: 'the library or program' },
    functions: {
      type: 'string',
      default: 'execute_*',
      description: "globs, separated by commas; '*' for all",
    },
    listing: { type: 'boolean', default: true, description: 'list the instructions, and not only how many' },
  },
  async load({ processes, parameters, print }) {
    const module = openModule(parameters.path, { processes });
    const listings = new Map<FunctionInfo, InstructionInfo[]>();
    for (const glob of parameters.functions.split(','))
      for (const fn of module.matching(glob.trim())) listings.set(fn, instructionsOf(module, fn));

    const places = new Set([...listings.values()].flat().map((instruction) => instruction.offset));
    const canBeProbed = [...places].filter((offset) => module.plan({ offset }).chosen !== undefined);
    module.close();
    if (canBeProbed.length === 0)
      throw new Error(`no function of ${module.path} matches ${parameters.functions}`);
    const probes = await registerUprobes(
      canBeProbed.map((offset): UprobeSpec => ({ pathname: module.path, offset, processes })),
    );

    return () => {
      const counts = new Map([...probes].map((probe) => [probe.offset, probe.nhits]));
      for (const [{ name }, instructions] of listings) {
        const ran = instructions.filter(({ offset }) => (counts.get(offset) ?? 0n) > 0n);
        if (ran.length === 0) continue;
        print(`${name}: ${ran.length} of ${instructions.length} instructions`);
        for (const { offset, address, text } of parameters.listing ? instructions : [])
          print(`${marked(counts.get(offset))}  0x${address.toString(16)}  ${text}`);
      }
    };
  },
});

/** `?`: it cannot be probed, and nothing is known of it. */
const marked = (count: bigint | undefined): string =>
  (count === undefined ? '?' : count === 0n ? '.' : String(count)).padStart(8);

/** A function's instructions; none where nothing proves where they are. */
function instructionsOf(module: ModuleView, fn: FunctionInfo): InstructionInfo[] {
  try {
    return [...module.instructions(fn)];
  } catch (e) {
    if (e instanceof PlaceError) return [];
    throw e;
  }
}
