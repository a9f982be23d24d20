/** What the soak puts on its program's functions. */
import type { UprobeSpec } from 'uprobe';
import type { Random } from '../helpers/random.js';
import type { Kind } from './shared.js';

const SKIP_RESULT = 0x5117n;
const CHANGE = 1000n;
/** Far more than anything here takes; what is to be late has a deadline of its own. */
const DEADLINE = 30_000;
const LATE_DEADLINE = 4;

/** What the handlers have counted themselves. */
export interface Told {
  pre: number;
  post: number;
  skipped: number;
  changed: number;
  thrown: number;
}

export interface Files {
  readonly program: string;
  readonly library: string;
}

/** The kinds that are probed from before the first call on, and how. */
export function lastingSpecs(
  pid: number,
  { program, library }: Files,
  told: Told,
  random: Random,
): Map<Kind, UprobeSpec> {
  const at = (kind: Kind, handlers: Partial<UprobeSpec> = {}): [Kind, UprobeSpec] => [
    kind,
    {
      pathname: kind === 'loaded' ? library : program,
      symbol: `soak_${kind}`,
      processes: pid,
      deadline: DEADLINE,
      onError: () => undefined,
      ...handlers,
    },
  ];
  return new Map([
    at('counted'),
    at('pre', { preHandler: () => void told.pre++ }),
    at('post', { preHandler: () => undefined, postHandler: () => void told.post++ }),
    at('skipped', skipping(told)),
    at('changed', {
      preHandler: ({ regs }) => {
        regs.di += CHANGE;
        told.changed++;
      },
    }),
    at('thrown', {
      preHandler: ({ regs }) => {
        regs.di = 0n; // taken back
        told.thrown++;
        throw new Error('on purpose');
      },
    }),
    at('late', { deadline: LATE_DEADLINE, preHandler: () => spin(random.once(4) ? 2 * LATE_DEADLINE : 0) }),
    at('in_signal', { preHandler: (hit) => void hit.arg(0) }),
    at('loaded', { postHandler: () => undefined }),
  ]);
}

/** Every other call returns at once. */
const skipping = (told: Told): Partial<UprobeSpec> => ({
  preHandler: (hit) => {
    const { regs } = hit;
    if ((regs.di & 1n) === 0n) return undefined;
    regs.ax = SKIP_RESULT;
    regs.ip = hit.read(regs.sp, 'u64') ?? 0n;
    regs.sp += 8n;
    told.skipped++;
    return 'skip';
  },
});

function spin(ms: number): void {
  const until = performance.now() + ms;
  while (performance.now() < until);
}

/** Uprobes of all kinds at the offsets given, as many as there are, some of which leave by themselves. */
export function stormSpecs(
  pid: number,
  program: string,
  offsets: readonly number[],
  random: Random,
): UprobeSpec[] {
  return Array.from({ length: 1 + random.below(40) }, (): UprobeSpec => {
    const spec: UprobeSpec = {
      pathname: program,
      offset: random.pick(offsets),
      processes: pid,
      deadline: DEADLINE,
      onError: () => undefined,
    };
    return random.pick<() => UprobeSpec>([
      () => spec,
      () => spec,
      () => ({ ...spec, preHandler: () => undefined }),
      () => ({ ...spec, postHandler: () => undefined }),
      () => ({ ...spec, preHandler: () => 'remove' }),
      () => ({ ...spec, preHandler: ({ uprobe }) => void uprobe.unregister() }),
      () => ({ ...spec, postHandler: () => fail() }),
    ])();
  });
}

function fail(): never {
  throw new Error('on purpose');
}
