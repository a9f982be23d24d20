/**
 * Who calls whom: a line when a function is entered and one when it returns, indented by the depth of the calls on that thread.
 *
 *   uprobe run call-tree.ts -- bash --norc -c 'echo hello'
 *   uprobe run call-tree.ts path=libc functions='malloc,calloc,realloc,free' arguments=1 -- ls /
 *
 *   4711  execute_command(0x55d0c4a2c1f0, 0x0)
 *   4711  | execute_command_internal(0x55d0c4a2c1f0, 0x0)
 *   4711  | | execute_simple_command(0x55d0c4a2c230, 0xffffffff)
 *   4711  | | execute_simple_command = 0  1204 µs
 */
import { PlaceError, openModule, probeModule, registerUprobes } from 'uprobe';
import type { FunctionInfo, ModuleView, PreHit, ReturnHit, UprobeSpec } from 'uprobe';

export default probeModule({
  description: 'Shows calls and returns, indented',
  parameters: {
    path: { type: 'string', default: 'bash', description: 'the library or program' },
    functions: { type: 'string', default: 'execute_*', description: 'globs, separated by commas' },
    arguments: { type: 'number', default: 2, description: 'how many are shown, at most 6' },
  },
  async load({ processes, parameters, print }) {
    /** Where the stack pointers of the calls under way stand, by thread: a call ends when the stack is above it. */
    const stacks = new Map<number, bigint[]>();

    function depthOf({ tid, regs }: PreHit | ReturnHit): number {
      const stack = stacks.get(tid) ?? [];
      stacks.set(tid, stack);
      // also those that were left by longjmp or an exception
      while (stack.length > 0 && stack.at(-1)! <= regs.sp) stack.pop();
      return stack.length;
    }

    const shown = (value: bigint): string => `0x${value.toString(16)}`;
    const line = (tid: number, depth: number, text: string): void =>
      print(`${String(tid).padStart(7)}  ${'| '.repeat(depth)}${text}`);

    function entered(hit: PreHit, name: string): void {
      const depth = depthOf(hit);
      const values = Array.from({ length: parameters.arguments }, (_, n) => shown(hit.arg(n)));
      line(hit.tid, depth, `${name}(${values.join(', ')})`);
      stacks.get(hit.tid)!.push(hit.regs.sp);
    }

    function returned(hit: ReturnHit, name: string): void {
      const value = BigInt.asIntN(64, hit.returnValue);
      const text = value > -4096n && value < 1n << 31n ? String(value) : shown(hit.returnValue);
      line(hit.tid, depthOf(hit), `${name} = ${text}  ${hit.duration / 1000n} µs`);
    }

    const module = openModule(parameters.path, { processes });
    const specs = [...functionsOf(module, parameters.functions.split(','))].map(
      ({ name, address }): UprobeSpec => ({
        pathname: module.path,
        addr: address,
        processes,
        preHandler: (hit) => entered(hit, name),
        returnHandler: (hit) => returned(hit, name),
      }),
    );
    module.close();
    if (specs.length === 0) throw new Error(`no function of ${module.path} matches ${parameters.functions}`);
    await registerUprobes(specs);
  },
});

/** Each function once, and only where it can be probed. An ifunc is no function of its own. */
function* functionsOf(module: ModuleView, globs: readonly string[]): Generator<FunctionInfo> {
  const seen = new Set<bigint>();
  for (const glob of globs)
    for (const fn of module.matching(glob.trim())) {
      if (fn.kind !== 'func' || seen.has(fn.address) || !canBeProbed(module, fn)) continue;
      seen.add(fn.address);
      yield fn;
    }
}

function canBeProbed(module: ModuleView, { address }: FunctionInfo): boolean {
  try {
    return module.plan({ addr: address }, { returnHandler: true }).chosen !== undefined;
  } catch (e) {
    if (e instanceof PlaceError) return false;
    throw e;
  }
}
