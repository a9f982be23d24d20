/**
 * Random handlers, as people would write them, do in the kernel what the interpreter says. That the interpreter does what JavaScript
 * does is `handler-differential.test.ts`. UPROBE_TEXT_KERNEL_ROUNDS texts, from UPROBE_TEXT_SEED on.
 */
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { CompileError } from 'uprobe';
import { lowerText } from '#uprobe/handler/compile-handler.js';
import type { Program } from '#uprobe/handler/ir.js';
import type { Aggregate } from '#uprobe/handler/shapes.js';
import { whyNoBpf } from './helpers/bpf.js';
import { RECORD_WORDS, runByInterpreter, runInKernel, targetHere } from './helpers/chosen-calls.js';
import { interestingWord } from './helpers/handler-generate.js';
import { generateHandler, generatedScope } from './helpers/handler-text-generate.js';
import { Random } from './helpers/random.js';

const ROUNDS = Number(process.env['UPROBE_TEXT_KERNEL_ROUNDS'] ?? 60);
const SEED = Number(process.env['UPROBE_TEXT_SEED'] ?? 1);

const isAggregate = (value: unknown): value is Aggregate => typeof value === 'object';
const freshAggregates = (): readonly Aggregate[] =>
  Object.values(generatedScope()).filter((value): value is never => isAggregate(value));

/** The generated scope, with these aggregates in it. */
function scopeOf(aggregates: readonly Aggregate[]): Record<string, unknown> {
  const left = [...aggregates];
  return Object.fromEntries(
    Object.entries(generatedScope()).map(([name, value]) => [
      name,
      isAggregate(value) ? left.shift() : value,
    ]),
  );
}

/** What has been added, tables in an order of ours. */
function contents(aggregate: Aggregate): unknown {
  const json = JSON.parse(JSON.stringify(aggregate)) as { entries?: unknown[] };
  return json.entries ? { ...json, entries: json.entries.map((e) => JSON.stringify(e)).toSorted() } : json;
}
const kept = (aggregates: readonly Aggregate[]): unknown[] =>
  aggregates.filter((a) => a.shape.kind !== 'events').map(contents);

void test(
  `random handlers do in the kernel what the interpreter says (${ROUNDS} from seed ${SEED})`,
  { skip: whyNoBpf() },
  () => {
    const words = new Random(7);
    const memory = Uint8Array.from({ length: 24_576 }, () => (words.once(40) ? 0 : words.below(256)));
    let compiled = 0;
    for (let seed = SEED; seed < SEED + ROUNDS; seed++) {
      const random = new Random(seed);
      const text = generateHandler(random, {
        moment: 'pre',
        addresses: ['hit.arg(0)', 'hit.arg(1)'],
        acts: false,
        volatile: false,
        registers: ['ax', 'bx', 'r11'],
      });
      const lowered = (aggregates: readonly Aggregate[]): Program =>
        lowerText(text, scopeOf(aggregates), 'pre');
      try {
        lowered(freshAggregates());
      } catch (e) {
        if (e instanceof CompileError) continue;
        throw e;
      }
      compiled++;
      const chosen = {
        memory,
        calls: Array.from({ length: 60 }, () =>
          Array.from({ length: RECORD_WORDS }, () => interestingWord(random)),
        ),
      };
      const handlers = { aggregates: freshAggregates, pre: lowered };
      const which = `seed ${seed}:\n${text}`;
      const kernel = runInKernel(handlers, chosen, targetHere());
      const model = runByInterpreter(handlers, chosen, targetHere(), kernel.pid);
      assert.deepEqual(kept(kernel.aggregates), kept(model.aggregates), which);
      assert.deepEqual(kernel.events, model.events, which);
      assert.equal(kernel.tally.errors, model.errors, which);
    }
    assert.ok(compiled > ROUNDS / 5, `${compiled} of ${ROUNDS} have compiled`);
  },
);
