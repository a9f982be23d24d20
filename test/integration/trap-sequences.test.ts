/**
 * Random sequences of instructions end in the same state, to the last bit, whatever probes are on them, and every one of
 * their instructions is hit as often as it runs. UPROBE_SEQUENCE_SEED=n makes other sequences,
 * UPROBE_SEQUENCE_ROUNDS=n that many programs of them.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { openModule, registerUprobes, spawnTarget, type UprobeSpec } from 'uprobe';
import { temporaryDirectory } from '../helpers/compile.js';
import { stepCounts } from '../helpers/oracle.js';
import { Random } from '../helpers/random.js';
import { GEN, ROOM } from '../helpers/x64-sequence.js';
import { someSuite, type Suite } from '../helpers/x64-sequence-make.js';
import { FLAGS, outcomeDifferences, readOutcomes, type Outcome } from '../helpers/x64-sequence-run.js';

const rounds = Number(process.env['UPROBE_SEQUENCE_ROUNDS'] ?? 1);
const firstSeed = Number(process.env['UPROBE_SEQUENCE_SEED'] ?? 1);
const SEQUENCES = 100;
const RUNS_EACH = 2;

/** What is put on an instruction. */
type Kind = 'none' | 'pre' | 'post';

interface Probing {
  readonly name: string;
  /** Its kinds of uprobes on one instruction. */
  kinds(random: Random): readonly Kind[];
}
const PROBINGS: readonly Probing[] = [
  { name: 'counted', kinds: () => ['none'] },
  { name: 'with pre handlers', kinds: () => ['pre'] },
  { name: 'with post handlers', kinds: () => ['post'] },
  {
    name: 'with this and that here and there',
    kinds: (random) =>
      random.pick<readonly Kind[]>([[], ['none'], ['pre'], ['post'], ['pre', 'none'], ['post', 'pre']]),
  },
];

interface Place {
  readonly offset: number;
  readonly text: string;
  readonly refusal: string | undefined;
}

function placesOf({ program: { path, toOffset }, sequences }: Suite): Place[] {
  const view = openModule(path);
  const places = sequences.flatMap((sequence) =>
    sequence.places.map((address): Place => {
      const { offset, instruction, engines, chosen } = view.plan({ offset: address + toOffset });
      const refusal = chosen === undefined ? engines[0]?.refusal?.code : undefined;
      return { offset, text: instruction.text, refusal };
    }),
  );
  view.close();
  return places;
}

const outcomeFile = (): string => join(temporaryDirectory(), 'outcomes');
const argsOf = ({ inputs }: Suite, out: string): string[] => [inputs.list, inputs.images, out];

function runAlone(suite: Suite): Outcome[] {
  const out = outcomeFile();
  const { status, signal, stderr } = spawnSync(suite.program.path, argsOf(suite, out), { encoding: 'utf8' });
  assert.equal(status, 0, `${signal}: ${stderr}`);
  return readOutcomes(out);
}

async function runStepped(suite: Suite): Promise<{ outcomes: Outcome[]; counts: Map<number, number> }> {
  const out = outcomeFile();
  const { path } = suite.program;
  const { counts, code, signal } = await stepCounts(path, argsOf(suite, out), path, { fromEntry: true });
  assert.equal(code, 0, `stepped: ${signal}`);
  return { outcomes: readOutcomes(out).map(withoutTrapFlag), counts };
}

/** After a popf, stepping shows in signal frames (test/fixtures/stepper.c). */
function withoutTrapFlag(outcome: Outcome): Outcome {
  const record = Buffer.from(outcome.record);
  if (outcome.signal !== 0) record[FLAGS + 1]! &= ~1;
  return { ...outcome, record };
}

interface Probed {
  readonly outcomes: Outcome[];
  /** By offset: hits of each of its uprobes, calls of handlers, those with another ip than the place's. */
  readonly hits: Map<number, number[]>;
  readonly pre: Map<number, number>;
  readonly post: Map<number, number>;
  readonly missed: bigint;
  readonly strangers: number;
}

async function runProbed(
  suite: Suite,
  places: readonly Place[],
  probing: Probing,
  random: Random,
): Promise<Probed> {
  const out = outcomeFile();
  const { path } = suite.program;
  const target = await spawnTarget(path, argsOf(suite, out), { stdio: 'ignore' });
  const pre = new Map<number, number>();
  const post = new Map<number, number>();
  let strangers = 0;
  const specs = places.flatMap(({ offset, refusal }) =>
    (refusal === undefined ? probing.kinds(random) : []).map((kind): UprobeSpec => {
      const spec = { pathname: path, offset, processes: target };
      if (kind === 'none') return spec;
      const address = BigInt(offset - suite.program.toOffset);
      const preHandler: UprobeSpec['preHandler'] = ({ regs }) => {
        pre.set(offset, (pre.get(offset) ?? 0) + 1);
        if (regs.ip !== address) strangers++;
      };
      if (kind === 'pre') return { ...spec, preHandler };
      return { ...spec, preHandler, postHandler: () => void post.set(offset, (post.get(offset) ?? 0) + 1) };
    }),
  );
  const group = await registerUprobes(specs);
  await target.resume();
  const { code, signal } = await target.exited;
  const hits = new Map<number, number[]>();
  let missed = 0n;
  for (const { offset, nhits, nmissed } of group) {
    hits.set(offset, [...(hits.get(offset) ?? []), Number(nhits)]);
    missed += nmissed;
  }
  await group.unregister();
  assert.deepEqual({ code, signal }, { code: 0, signal: null });
  return { outcomes: readOutcomes(out), hits, pre, post, missed, strangers };
}

/** What differs, with the instructions of the sequence. */
function wrongOutcomes(
  suite: Suite,
  is: readonly Outcome[],
  should: readonly Outcome[],
  places: readonly Place[],
): string[] {
  assert.equal(is.length, should.length);
  return is.flatMap((outcome, i) => {
    const found = outcomeDifferences(outcome, should[i]!);
    if (found.length === 0) return [];
    const first = suite.runs[i]!.code;
    const inside = places.filter(({ offset }) => {
      const at = offset - suite.program.toOffset - first;
      return at >= 0 && at < ROOM;
    });
    const listing = inside.map(({ offset, text, refusal }) => {
      const address = (offset - suite.program.toOffset).toString(16);
      return `    ${address} ${text}${refusal === undefined ? '' : `  (not probed: ${refusal})`}`;
    });
    return [`run ${i}: ${found.slice(0, 8).join('; ')}\n${listing.join('\n')}`];
  });
}

/** SIGTRAP comes behind the instruction that raised it. */
const SIGTRAP = 5;

/** How many runs ended by a signal while the thread stood at each place: what has no after. */
function faultsAt(suite: Suite, outcomes: readonly Outcome[]): Map<number, number> {
  const faults = new Map<number, number>();
  for (const { signal, ip } of outcomes) {
    const at = ip + suite.program.toOffset;
    if (signal !== 0 && signal !== SIGTRAP) faults.set(at, (faults.get(at) ?? 0) + 1);
  }
  return faults;
}

function wrongCounts(
  places: readonly Place[],
  { hits, post }: Probed,
  counts: Map<number, number>,
  faults: Map<number, number>,
): string[] {
  return places.flatMap(({ offset, text }) => {
    const steps = counts.get(offset) ?? 0;
    const where = `${text} at 0x${offset.toString(16)}`;
    const wrong = (hits.get(offset) ?? []).filter((n) => n !== steps);
    const found = wrong.map((n) => `${where}: ${n} hits, ${steps} steps`);
    const after = post.get(offset);
    const afterwards = steps - (faults.get(offset) ?? 0);
    return after === undefined || after === afterwards
      ? found
      : [...found, `${where}: ${after} post hits, not ${afterwards}`];
  });
}

function expectNone(wrong: readonly string[], what: string): void {
  assert.equal(wrong.length, 0, `${wrong.length} ${what}:\n${wrong.slice(0, 4).join('\n')}`);
}

function reportRefused(t: TestContext, places: readonly Place[]): void {
  const byCode = new Map<string, number>();
  for (const { refusal } of places)
    if (refusal !== undefined) byCode.set(refusal, (byCode.get(refusal) ?? 0) + 1);
  const refused = [...byCode].map(([code, n]) => `${code} ${n}`).join(', ');
  t.diagnostic(`${places.length} instructions, not probed: ${refused || 'none'}`);
}

for (let seed = firstSeed; seed < firstSeed + rounds; seed++) {
  test(`random sequences end as they do unprobed (seed ${seed})`, async (t) => {
    const random = new Random(seed);
    const suite = someSuite(random, SEQUENCES, RUNS_EACH);
    const places = placesOf(suite);
    reportRefused(t, places);
    const alone = runAlone(suite);
    const ended = alone.filter(({ signal }) => signal === 0).length;
    assert.ok(
      alone.length === suite.runs.length && ended > alone.length / 2,
      `${ended} of ${alone.length} came through`,
    );
    expectNone(wrongOutcomes(suite, runAlone(suite), alone, places), 'sequences cannot be compared');
    const { outcomes, counts } = await runStepped(suite);
    expectNone(wrongOutcomes(suite, outcomes, alone, places), 'sequences differ when they are stepped');
    const known = new Set(places.map(({ offset }) => offset));
    const end = GEN + ROOM * SEQUENCES + suite.program.toOffset;
    const astray = [...counts.keys()].filter(
      (at) => at >= GEN + suite.program.toOffset && at < end && !known.has(at),
    );
    assert.deepEqual(astray, [], 'all that ran are instructions that were made');
    for (const probing of PROBINGS) {
      await t.test(probing.name, async () => {
        const probed = await runProbed(suite, places, probing, random);
        expectNone(wrongOutcomes(suite, probed.outcomes, alone, places), `sequences differ (seed ${seed})`);
        expectNone(
          wrongCounts(places, probed, counts, faultsAt(suite, alone)),
          `instructions miscounted (seed ${seed})`,
        );
        assert.equal(probed.missed, 0n);
        assert.equal(probed.strangers, 0);
      });
    }
  });
}
