import assert from 'node:assert/strict';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import {
  counter,
  events,
  histogram,
  registerUprobe,
  registerUprobes,
  spawnTarget,
  stats,
  table,
  type UprobeSpec,
} from 'uprobe';
import { string } from '#uprobe/handler/aggregates/fields.js';
import { handlerOf } from '#uprobe/handler/interpret.js';
import type { Expr, Program, Statement } from '#uprobe/handler/ir.js';
import type { Aggregate } from '#uprobe/handler/shapes.js';
import { compileFixture, privateCopy } from '../helpers/compile.js';
import { runToEnd, whyNoKernelEngine } from '../helpers/kernel.js';
import { until } from '../helpers/running.js';

const at = { start: 0, end: 1 };
const arg = (index: number): Expr => ({ op: 'arg', type: 'u64', index });
const ONE: Expr = { op: 'int', type: 'i64', value: 1n };
const add = (aggregate: number, value: Expr, ...key: Expr[]): Statement => ({
  at,
  do: 'add',
  aggregate,
  key,
  value,
});
const programOf = (
  moment: Program['moment'],
  aggregates: readonly Aggregate[],
  ...body: Statement[]
): Program => ({ moment, locals: [], aggregates, body, absent: 'skip', text: ' ' });

/** Everything at once, of `add(a, b)` and what it returns. */
function everything(aggregates: ReturnType<typeof make>): { pre: Program; return: Program } {
  const { count, sizes, sums, byValue, texts, results, seen } = aggregates;
  const one = programOf(
    'pre',
    [count, sizes, sums, byValue, seen],
    add(0, ONE),
    add(1, arg(0)),
    add(2, { op: 'convert', type: 'i64', of: arg(1) }),
    add(3, ONE, { op: 'arithmetic', type: 'u64', operator: '&', left: arg(0), right: { op: 'int', type: 'u64', value: 7n } }, { op: 'comm', type: 'string' }), // prettier-ignore
    { at, do: 'emit', aggregate: 4, fields: [arg(0), { op: 'of', type: 'u32', what: 'tid' }] },
    { at, do: 'setCall', value: arg(0) },
  );
  const two = programOf(
    'return',
    [texts, results],
    add(0, ONE, { op: 'call', type: 'u64' }, { op: 'entryArg', type: 'u64', index: 1 }),
    add(1, { op: 'retval', type: 'u64' }),
  );
  return { pre: one, return: two };
}

const make = () => ({
  count: counter(),
  sizes: histogram(),
  sums: stats(),
  byValue: table({ key: ['u64', string(16)], value: counter, capacity: 64 }),
  texts: table({ key: ['u64', 'u64'], value: counter, capacity: 1024 }),
  results: histogram(),
  seen: events({ a: 'u64', tid: 'u32' }),
});

const plain = (of: object): unknown => JSON.parse(JSON.stringify(of));
const sorted = (of: object): unknown =>
  (plain(of) as { entries: unknown[] }).entries.map((e) => JSON.stringify(e)).toSorted();

async function run(engine: 'trap' | 'kernel') {
  const program = privateCopy(compileFixture('calls'));
  const target = await spawnTarget(program, ['50'], { stdio: ['ignore', 'pipe', 'inherit'] });
  const aggregates = make();
  const seen: unknown[] = [];
  aggregates.seen.listen(({ a, tid }) => void seen.push([a, tid === target.pid]));
  const { pre, return: atReturn } = everything(aggregates);
  const probing = registerUprobe({
    pathname: program,
    symbol: 'add',
    processes: [target.pid],
    engine,
    preHandler: handlerOf(pre),
    returnHandler: handlerOf(atReturn) as NonNullable<UprobeSpec['returnHandler']>,
  });
  const uprobe = await probing.catch((e: unknown) => {
    target.kill('SIGKILL');
    throw e;
  });
  await target.resume();
  const said = await text(target.stdout!);
  assert.equal((await target.exited).code, 0);
  await uprobe.unregister();
  const { count, sizes, sums, byValue, texts, results } = aggregates;
  assert.equal(uprobe.nhits, BigInt(/add=(\d+)/.exec(said)![1]!));
  return {
    hits: [uprobe.nhits, uprobe.nmissed, uprobe.nerrors],
    cells: [count, sizes, sums, results].map(plain),
    tables: [byValue, texts].map(sorted),
    seen,
  };
}

void describe('handlers in the kernel', { skip: whyNoKernelEngine() }, () => {
  void it('count, sort and tell the same as when they are called here', async () => {
    const [kernel, trap] = [await run('kernel'), await run('trap')];
    assert.equal(kernel.seen.length, 100);
    assert.deepEqual(kernel, trap);
  });

  void it('are read while they run, and keep what they had', async () => {
    const program = privateCopy(compileFixture('calls'));
    const [count, seen] = [counter(), events({ n: 'u64' })];
    const handler = handlerOf(
      programOf('pre', [count, seen], add(0, ONE), { at, do: 'emit', aggregate: 1, fields: [arg(0)] }),
    );
    const uprobe = await registerUprobe({ pathname: program, symbol: 'add', preHandler: handler });
    runToEnd(program, '10');
    assert.equal(count.value, 20n);
    await until('the events are here', () => seen.waiting === 20);
    runToEnd(program, '5');
    await uprobe.unregister();
    runToEnd(program, '5');
    assert.equal(count.value, 30n);
    assert.deepEqual([seen.waiting, seen.lost], [30, 0]);
  });

  void it('share what they share', async () => {
    const program = privateCopy(compileFixture('calls'));
    const count = counter();
    const handler = handlerOf(programOf('pre', [count], add(0, ONE)));
    const spec = (symbol: string) => ({ pathname: program, symbol, preHandler: handler });
    const group = await registerUprobes([spec('add'), spec('text')]);
    const third = await registerUprobe(spec('fact'));
    const ran = runToEnd(program, '10');
    const first = ran.count('add') + ran.count('text');
    assert.equal(count.value, first + ran.count('fact'));
    assert.deepEqual([...group].map((u) => u.nhits), [ran.count('add'), ran.count('text')]); // prettier-ignore
    await third.unregister();
    runToEnd(program, '10');
    await group.unregister();
    assert.equal(count.value, 2n * first + ran.count('fact'));
  });
});
