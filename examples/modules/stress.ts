/**
 * Probes that come and go while a program runs, at random: it must not notice.
 *
 *   uprobe run stress.ts functions='e*' -- bash --norc -c 'for i in {1..100000}; do x=$((x + i)); done; echo $x'
 *
 * The program prints what it always does; at the end you see what was done to it meanwhile:
 *
 *   seed 1: 34 registrations of 367 probes, 31 taken out while it ran, 11520 hits, 0 missed
 */
import { PlaceError, ProcessError, openModule, probeModule, registerUprobes } from 'uprobe';
import type { ModuleView, UprobeGroup, UprobeSpec } from 'uprobe';

export default probeModule({
  description: 'Registers and unregisters probes at random',
  parameters: {
    path: { type: 'string', default: 'bash', description: 'the library or program' },
    functions: { type: 'string', default: '*', description: 'a glob: where they may be placed' },
    seed: { type: 'number', default: 1, description: 'the same seed, the same choices' },
    most: { type: 'number', default: 20, description: 'the most probes of one registration' },
  },
  async load({ processes, parameters, print, signal }) {
    const { path, functions, seed, most } = parameters;
    const random = randomFrom(seed);
    const module = openModule(path, { processes });
    const addresses = [...addressesOf(module, functions)];
    module.close();
    if (addresses.length === 0) throw new Error(`no function of ${path} matches ${functions}`);

    const registered: UprobeGroup[] = [];
    let [registrations, probes, hits, missed, unregistrations] = [0, 0, 0n, 0n, 0];
    const nothing = (): undefined => undefined;

    const handlers = (): Partial<UprobeSpec> =>
      [
        {},
        { preHandler: nothing },
        { postHandler: nothing },
        { returnHandler: nothing },
        { preHandler: () => 'remove' as const },
      ][random(5)]!;

    async function register(): Promise<void> {
      const specs = Array.from({ length: 1 + random(most) }, (): UprobeSpec => {
        const addr = addresses[random(addresses.length)]!;
        return { pathname: path, addr, processes, signal, ...handlers() };
      });
      registered.push(await registerUprobes(specs));
      registrations++;
      probes += specs.length;
    }

    async function unregister(): Promise<void> {
      const [group] = registered.splice(random(registered.length), 1);
      await group?.unregister();
      for (const { nhits, nmissed } of group ?? []) {
        hits += nhits;
        missed += nmissed;
      }
      unregistrations++;
    }

    /** One step after the other until the module is unloaded. */
    async function go(): Promise<void> {
      while (!signal.aborted) {
        await (registered.length > 0 && random(10) < 4 + registered.length / 10 ? unregister() : register());
        await new Promise((resolve) => setTimeout(resolve, random(3)));
      }
    }

    /** The program may end before the module hears of it. */
    const unlessOver = (e: unknown): void => {
      if (!signal.aborted && !(e instanceof ProcessError)) throw e;
    };

    await register();
    const end = go().catch(unlessOver);
    return async () => {
      await end;
      const meanwhile = unregistrations;
      while (registered.length > 0) await unregister();
      print(
        `seed ${seed}: ${registrations} registrations of ${probes} probes, ${meanwhile} taken out while it ran, ` +
          `${hits} hits, ${missed} missed`,
      );
    };
  },
});

/** A linear congruential generator (Numerical Recipes' constants): the same numbers everywhere. */
function randomFrom(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

function* addressesOf(module: ModuleView, glob: string): Generator<bigint> {
  for (const { address, kind } of module.matching(glob))
    try {
      if (kind === 'func' && module.plan({ addr: address }, { returnHandler: true }).chosen !== undefined)
        yield address;
    } catch (e) {
      if (!(e instanceof PlaceError)) throw e;
    }
}
