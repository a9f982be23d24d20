/**
 * A handler's text, run as the JavaScript that it is, and its program, interpreted, do the same. UPROBE_TEXT_ROUNDS handlers, from
 * UPROBE_TEXT_SEED on.
 */
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { runInThisContext } from 'node:vm';
import { CompileError, i16, i32, i64, i8, u16, u32, u64, u8 } from 'uprobe';
import { lowerText } from '#uprobe/handler/compile-handler.js';
import { interpreter } from '#uprobe/handler/interpret.js';
import type { Program } from '#uprobe/handler/ir.js';
import type { Aggregate } from '#uprobe/handler/shapes.js';
import { generateHandler, generatedScope } from './helpers/handler-text-generate.js';
import { FakeHit, MEMORY } from './helpers/handler-hits.js';
import type { HitValues } from './helpers/handler-hits.js';
import { recorder } from './helpers/handler-recorder.js';
import { Random } from './helpers/random.js';

const ROUNDS = Number(process.env['UPROBE_TEXT_ROUNDS'] ?? 2000);
const SEED = Number(process.env['UPROBE_TEXT_SEED'] ?? 1);
const HITS = 12;

const CONVERSIONS = { u8, u16, u32, u64, i8, i16, i32, i64 };

const SPECIAL = [
  0n,
  1n,
  2n,
  63n,
  64n,
  100n,
  255n,
  0x7fff_ffffn,
  0x8000_0000n,
  0xffff_ffffn,
  (1n << 63n) - 1n,
  1n << 63n,
  (1n << 64n) - 1n,
];
const TEXTS = ['redis', 'redis-server', 'größer', 'a', ''];

function randomHit(random: Random): HitValues {
  const number = (): bigint => {
    switch (random.below(4)) {
      case 0:
        return random.pick(SPECIAL);
      case 1:
        return MEMORY + BigInt(random.below(70));
      case 2:
        return BigInt(random.below(300));
      default:
        return random.u64();
    }
  };
  const memory = Buffer.alloc(64, Uint8Array.from(random.bytes(64)));
  memory.write(`${random.pick(TEXTS)}\0`, random.below(32));
  return {
    args: Array.from({ length: 6 + random.below(3) }, number),
    memory,
    pid: random.below(4_194_304),
    tid: random.below(4_194_304),
    cpu: random.below(64),
    comm: random.pick(TEXTS.slice(0, 4)),
    time: random.u64() >> 1n,
    cgroup: random.u64(),
    returnValue: number(),
    duration: random.u64() >> BigInt(1 + random.below(60)),
    entryArgs: Array.from({ length: 6 }, number),
    call: random.once(3) ? undefined : number(),
  };
}

type Handler = (hit: FakeHit, scope: object) => unknown;

/** The text as a function that knows the conversions, and nothing else. */
function functionOf(text: string): Handler {
  const make = runInThisContext(`'use strict'; (${Object.keys(CONVERSIONS).join(', ')}) => ${text}`) as (
    ...conversions: unknown[]
  ) => Handler;
  return make(...Object.values(CONVERSIONS));
}

interface Scope {
  readonly calls: unknown[];
  readonly scope: Readonly<Record<string, unknown>>;
}

function recording(): Scope {
  const calls: unknown[] = [];
  const scope = Object.fromEntries(
    Object.entries(generatedScope()).map(([name, of]) => [
      name,
      typeof of === 'object' ? recorder(of as unknown as Aggregate, calls, name) : of,
    ]),
  );
  return { calls, scope };
}

/** All that one hit leads to. */
function outcome(values: HitValues, { calls }: Scope, run: (hit: FakeHit) => unknown): unknown {
  calls.length = 0;
  const hit = new FakeHit(values);
  try {
    const verdict = run(hit);
    return { verdict, calls: [...calls], written: { ...hit.written }, call: hit.call };
  } catch (e) {
    return { threw: (e as Error).message, calls: [...calls] };
  }
}

void test(`random handlers do as programs what they do as JavaScript (${ROUNDS} from seed ${SEED})`, () => {
  let compiled = 0;
  let written = 0;
  for (let seed = SEED; seed < SEED + ROUNDS; seed++) {
    const random = new Random(seed);
    const moment = random.once(2) ? 'pre' : 'return';
    const addresses =
      moment === 'pre' ? ['hit.arg(0)', 'hit.arg(1)', `${MEMORY}n`] : ['hit.entryArgs[0]', `${MEMORY}n`];
    const text = generateHandler(random, { moment, addresses, acts: random.once(2), stack: true });
    const [first, second] = [recording(), recording()];
    let program: Program;
    try {
      program = lowerText(text, second.scope, moment);
    } catch (e) {
      if (e instanceof CompileError) continue;
      throw new Error(`seed ${seed}:\n${text}`, { cause: e });
    }
    compiled++;
    const handler = functionOf(text);
    const run = interpreter(program);
    for (let i = 0; i < HITS; i++) {
      const values = randomHit(random);
      const plainly = outcome(values, first, (hit) => handler(hit, first.scope));
      const byProgram = outcome(values, second, run);
      written += first.calls.length;
      assert.deepEqual(byProgram, plainly, `seed ${seed}:\n${text}`);
    }
  }
  // That so many compile, and write, is what makes this a test.
  assert.ok(compiled > ROUNDS / 5, `${compiled} of ${ROUNDS} have compiled`);
  assert.ok(written > compiled * HITS, `${written} calls of aggregates`);
});
