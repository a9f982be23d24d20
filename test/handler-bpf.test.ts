/** Handlers in the kernel, loaded and run at real calls, mean what the interpreter says. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import {
  counter,
  events,
  histogram,
  linearHistogram,
  stats,
  table,
} from '#uprobe/handler/aggregates/aggregates.js';
import { string } from '#uprobe/handler/aggregates/fields.js';
import { compileBpf } from '#uprobe/handler/bpf/compile.js';
import { lowerText } from '#uprobe/handler/compile-handler.js';
import type { BpfTarget } from '#uprobe/handler/bpf/code.js';
import type { Expr, IntType, Program, Register, Statement } from '#uprobe/handler/ir.js';
import type { Aggregate } from '#uprobe/handler/shapes.js';
import { sessionIds, whyNoBpf } from './helpers/bpf.js';
import {
  BASE,
  chosenCalls,
  inputOf,
  RECORD_WORDS,
  runByInterpreter,
  runInKernel,
  targetHere,
  type CallWords,
  type Chosen,
  type Handlers,
} from './helpers/chosen-calls.js';
import { temporaryDirectory } from './helpers/compile.js';
import { until } from './helpers/running.js';
import { ExpressionMaker, HandlerMaker, interestingWord } from './helpers/handler-generate.js';
import { Random } from './helpers/random.js';

const skip = whyNoBpf();
const at = { start: 0, end: 1 };

function programOf(
  aggregates: readonly Aggregate[],
  body: readonly Statement[],
  more: Partial<Program> = {},
): Program {
  return { moment: 'pre', locals: [], aggregates, body, absent: 'skip', text: ' ', ...more };
}

/** The same of both, or where they differ. */
function agree<A extends readonly Aggregate[]>(
  handlers: Handlers<A>,
  chosen: Chosen,
  target: BpfTarget = targetHere(),
  which = '',
): void {
  const kernel = runInKernel(handlers, chosen, target);
  const model = runByInterpreter(handlers, chosen, target, kernel.pid);
  const tally = { hits: chosen.calls.length, missed: 0, errors: model.errors };
  assert.deepEqual(kernel.tally, tally, which);
  assert.equal(kernel.events.length, model.events.length, which);
  for (let i = 0; i < model.events.length; i++)
    assert.deepEqual(kernel.events[i], model.events[i], `event ${i} ${which}`);
  kernel.aggregates.forEach((aggregate, i) => {
    if (aggregate.shape.kind !== 'events')
      assert.deepEqual(plain(aggregate), plain(model.aggregates[i]!), which);
  });
}

function namespaceOf(process: 'self' | number): { dev: bigint; ino: bigint } {
  const { dev, ino } = statSync(`/proc/${process}/ns/pid`, { bigint: true });
  return { dev, ino };
}

async function childOf(pid: number): Promise<number> {
  let child = '';
  await until('it has a child', () => {
    child = readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').trim();
    return child !== '';
  });
  return Number(child);
}

/** Tables have no order. */
function plain(aggregate: Aggregate): unknown {
  const json = JSON.parse(JSON.stringify(aggregate)) as { entries?: unknown[] };
  const text = (entry: unknown): string => JSON.stringify(entry);
  return json.entries ? { ...json, entries: json.entries.map(text).toSorted() } : json;
}

const memory = new Uint8Array(24_576);
const words = new Random(7);
for (let i = 0; i < memory.length; i++) memory[i] = 33 + words.below(90);
for (let i = 0; i < memory.length; i += 1 + words.below(200)) memory[i] = 0;
for (const start of [4090, 8191, 12_300]) memory.set(Buffer.from('äöü\0'), start);

const callsFrom = (r: Random, count: number): CallWords[] =>
  Array.from({ length: count }, () => Array.from({ length: RECORD_WORDS }, () => interestingWord(r)));

void describe('In the kernel', { skip }, () => {
  for (const sleepable of [false, true]) {
    void it(`random expressions have the values they should have${sleepable ? ', sleeping' : ''}`, () => {
      const seed = Number(process.env['UPROBE_EXPRESSION_SEED'] ?? 1);
      const rounds = Number(process.env['UPROBE_EXPRESSION_ROUNDS'] ?? 12);
      for (let round = 0; round < rounds; round++) {
        const r = new Random(seed + round);
        const maker = new ExpressionMaker(r);
        const types = Array.from({ length: 12 }, () => maker.type());
        const schema = Object.fromEntries(types.map((type, i) => [`f${i}`, type]));
        const sets: Statement[] = maker.locals.map((type, local) => ({
          at,
          do: 'set',
          local,
          value: maker.make(type, 2, local),
        }));
        const fields = types.map((type) => maker.make(type, 4));
        agree(
          {
            aggregates: () => [events(schema, { buffer: 1 << 18 })],
            pre: (a) =>
              programOf(a, [...sets, { at, do: 'emit', aggregate: 0, fields }], { locals: maker.locals }),
          },
          { memory, calls: callsFrom(r, 200) },
          targetHere({ sleepable }),
        );
      }
    });
  }

  for (const sleepable of [false, true]) {
    void it(`random handlers do what they should do${sleepable ? ', sleeping' : ''}`, () => {
      const seed = Number(process.env['UPROBE_HANDLER_SEED'] ?? 1);
      const rounds = Number(process.env['UPROBE_HANDLER_ROUNDS'] ?? 12);
      for (let round = 0; round < rounds; round++) {
        const r = new Random(seed + round);
        const maker = new HandlerMaker(r);
        const body = maker.body();
        const absent = r.pick(['skip', 'error'] as const);
        const handlers = {
          aggregates: () =>
            [
              counter(),
              histogram(),
              stats(),
              table({ key: ['u8', string(12)], value: stats, capacity: 50_000 }),
              events({ a: 'u64', b: string(100) }, { buffer: 1 << 22 }),
            ] as const,
          pre: (a: readonly Aggregate[]) => programOf(a, body, { locals: maker.locals, absent }),
        };
        agree(
          handlers,
          { memory, calls: callsFrom(r, 200) },
          targetHere({ sleepable }),
          `seed ${seed + round}`,
        );
      }
    });
  }

  const int = (value: bigint, type: IntType = 'i64'): Expr => ({ op: 'int', type, value });
  const arg = (index: number): Expr => ({ op: 'arg', type: 'u64', index });
  const plus = (left: Expr, right: Expr): Expr => ({
    op: 'arithmetic',
    type: 'u64',
    operator: '+',
    left,
    right,
  });
  const str = (address: Expr, max: Expr | number): Expr => ({
    op: 'str',
    type: 'string',
    address,
    max: typeof max === 'number' ? int(BigInt(max)) : max,
  });
  const add = (aggregate: number, value: Expr, ...key: Expr[]): Statement => ({
    at,
    do: 'add',
    aggregate,
    key,
    value,
  });
  const timing = (a: readonly Aggregate[]): Program =>
    programOf(a, [add(0, { op: 'duration', type: 'u64' })], { moment: 'return' });
  const timed: Handlers<[ReturnType<typeof stats>]> = { aggregates: () => [stats()], return: timing };
  const emit = (...fields: Expr[]): Statement => ({ at, do: 'emit', aggregate: 0, fields });
  const addresses = (r: Random, count: number): CallWords[] =>
    Array.from({ length: count }, () =>
      Array.from({ length: RECORD_WORDS }, (_, i) =>
        i === 1
          ? BigInt(r.below(40)) - 3n
          : i === 2
            ? BigInt(r.pick([0, 5, 100, 4000, 4096, 70_000]))
            : BASE + BigInt(r.below(24_700)),
      ),
    );

  for (const sleepable of [false, true]) {
    void it(`strings are read as far as they can be${sleepable ? ', sleeping' : ''}`, () => {
      const r = new Random(5);
      const chosen = { memory, calls: [...addresses(r, 300), ...boundaries()] };
      const comm: Expr = { op: 'comm', type: 'string' };
      const text = (value: string): Expr => ({ op: 'text', type: 'string', value });
      const local = (n: number): Expr => ({ op: 'local', type: 'string', local: n });
      const same = (left: Expr, right: Expr, operator: '==' | '!=' = '=='): Expr => ({
        op: 'compare',
        type: 'bool',
        operator,
        left,
        right,
      });
      const schema = {
        a: string(1),
        b: string(7),
        c: string(8),
        d: string(60),
        e: string(300),
        f: string(20),
        g: string(3),
        h: 'bool',
        i: 'bool',
        j: 'bool',
        k: 'bool',
        l: string(16),
        m: 'bool',
        n: 'bool',
      } as const;
      const fields = [
        str(arg(0), 1),
        str(arg(0), 7),
        str(arg(0), 200),
        str(arg(0), 60),
        str(arg(0), arg(2)),
        comm,
        comm,
        same(str(arg(0), 40), str(arg(3), arg(1))),
        same(comm, text('chosen-calls')),
        same(str(arg(0), 4), text('äö'), '!='),
        same(local(0), local(1)),
        {
          op: 'choose',
          type: 'string',
          condition: { op: 'compare', type: 'bool', operator: '<', left: arg(1), right: int(9n, 'u64') },
          yes: local(0),
          no: text('a text that is cut'),
        } as Expr,
        { op: 'present', type: 'bool', of: local(1) } as Expr,
        same(str(arg(0), int(0n)), text('')),
      ];
      const sets: Statement[] = [
        { at, do: 'set', local: 0, value: str(arg(4), 31) },
        {
          at,
          do: 'set',
          local: 1,
          value: { op: 'otherwise', type: 'string', of: str(arg(0), 12), instead: local(0) },
        },
        {
          at,
          do: 'set',
          local: 0,
          value: { op: 'otherwise', type: 'string', of: str(arg(5), 16), instead: local(0) },
        },
      ];
      agree(
        {
          aggregates: () => [events(schema, { buffer: 1 << 20 })],
          pre: (a) => programOf(a, [...sets, emit(...fields)], { locals: ['string', 'string'] }),
        },
        chosen,
        targetHere({ sleepable }),
      );
    });
  }

  /** Strings that end at, or go on behind, the last byte that can be read. */
  function boundaries(): CallWords[] {
    return [8192 - 1, 8192 - 7, 8192 - 8, 8192 - 60, 8192 - 61, 8192 - 31, 4095, 24_575, 24_570, 16_380].map(
      (start) =>
        Array.from({ length: RECORD_WORDS }, (_, i) => (i === 1 ? 9n : i === 2 ? 60n : BASE + BigInt(start))),
    );
  }

  void it('values are added to every kind of cell, by their sign', () => {
    const r = new Random(11);
    const signed: Expr = { op: 'convert', type: 'i64', of: arg(0) };
    const narrow: Expr = { op: 'convert', type: 'i8', of: arg(0) };
    const of = [signed, arg(0), narrow];
    const range = { min: -100n, max: 1000n, step: 7n };
    agree(
      {
        aggregates: () => [
          ...of.map(() => counter()),
          ...of.map(() => histogram()),
          ...of.map(() => linearHistogram(range)),
          ...of.map(() => linearHistogram({ min: 1n << 40n, max: (1n << 63n) + 5n, step: 1n << 52n })),
          ...of.map(() => linearHistogram({ min: -(1n << 63n), max: 3n, step: 1n << 53n })),
          stats(),
          stats(),
          stats(),
        ],
        pre: (a) =>
          programOf(
            a,
            a.map((_, i) => add(i, of[i % 3]!)),
          ),
      },
      { memory, calls: callsFrom(r, 2000) },
    );
  });

  void it('tables have a cell for each key, as long as there is room', () => {
    const r = new Random(12);
    agree(
      {
        aggregates: () =>
          [
            table({ key: ['u8', 'bool', string(5)], value: stats, capacity: 10_000 }),
            table({ key: 'i16', value: histogram, capacity: 70_000 }),
            table({ key: string(300), value: counter, capacity: 10_000 }),
          ] as const,
        pre: (a) =>
          programOf(a, [
            add(
              0,
              arg(5),
              { op: 'convert', type: 'u8', of: arg(0) },
              { op: 'compare', type: 'bool', operator: '<', left: arg(1), right: arg(2) },
              str(arg(3), 20),
            ),
            add(1, arg(5), { op: 'convert', type: 'i16', of: arg(4) }),
            add(2, int(1n), str(arg(3), 310)),
          ]),
      },
      { memory, calls: callsFrom(r, 1000) },
    );
    const full = runInKernel(
      {
        aggregates: () => [table({ key: 'u64', value: counter, capacity: 10 })] as const,
        pre: (a) => programOf(a, [add(0, int(1n), arg(0))]),
      },
      {
        memory,
        calls: Array.from({ length: 25 }, (_, i) =>
          Array.from({ length: RECORD_WORDS }, () => BigInt(i % 15)),
        ),
      },
      targetHere(),
    );
    assert.equal(full.aggregates[0].entries().length, 10);
    assert.equal(full.aggregates[0].overflow, 5);
    assert.equal(full.tally.hits, 25);
  });

  void it('loops go round, are left, and go on', () => {
    const i: Expr = { op: 'local', type: 'i64', local: 0 };
    const j: Expr = { op: 'local', type: 'u64', local: 1 };
    const is = (left: Expr, value: bigint): Expr => ({
      op: 'compare',
      type: 'bool',
      operator: '==',
      left,
      right: int(value),
    });
    const low = (e: Expr, bits: bigint): Expr => ({
      op: 'convert',
      type: 'i64',
      of: { op: 'arithmetic', type: 'u64', operator: '&', left: e, right: int(bits, 'u64') },
    });
    const body: Statement[] = [
      {
        at,
        do: 'loop',
        local: 0,
        from: low(arg(0), 3n),
        to: low(arg(1), 63n),
        step: 3n,
        most: 20,
        body: [
          { at, do: 'if', condition: is(i, 9n), yes: [{ at, do: 'continue' }], no: [] },
          { at, do: 'if', condition: is(low(arg(2), 31n), 7n), yes: [{ at, do: 'break' }], no: [add(0, i)] },
          {
            at,
            do: 'loop',
            local: 1,
            from: int(0n, 'u64'),
            to: { op: 'convert', type: 'u64', of: low(arg(4), 7n) },
            step: 1n,
            most: 8,
            body: [
              add(1, { op: 'read', type: 'u8', address: plus(arg(3), j) }),
              {
                at,
                do: 'if',
                condition: {
                  op: 'compare',
                  type: 'bool',
                  operator: '>',
                  left: plus(arg(5), j),
                  right: arg(0),
                },
                yes: [{ at, do: 'leave', verdict: undefined }],
                no: [],
              },
            ],
          },
        ],
      },
      add(0, int(1000n)),
      add(0, i),
    ];
    agree(
      {
        aggregates: () => [counter(), counter()],
        pre: (a) => programOf(a, body, { locals: ['i64', 'u64'] }),
      },
      { memory, calls: callsFrom(new Random(13), 2000) },
    );
    agree(
      {
        aggregates: () => [counter()],
        pre: (a) =>
          programOf(
            a,
            [
              {
                at,
                do: 'loop',
                local: 0,
                from: int(0n),
                to: int(4096n),
                step: 1n,
                most: 4096,
                body: [add(0, i)],
              },
            ],
            { locals: ['i64'] },
          ),
      },
      { memory, calls: callsFrom(new Random(13), 3) },
    );
  });

  void it('long loops are accepted, whatever is added in them', () => {
    const i: Expr = { op: 'local', type: 'i64', local: 0 };
    const body = [
      add(0, i),
      add(1, arg(0)),
      add(2, plus(arg(0), arg(1)), { op: 'convert', type: 'u8', of: i }),
    ];
    agree(
      {
        aggregates: () =>
          [stats(), histogram(), table({ key: 'u8', value: counter, capacity: 256 })] as const,
        pre: (a: readonly Aggregate[]) =>
          programOf(
            a,
            [{ at, do: 'loop', local: 0, from: int(0n), to: int(100n), step: 1n, most: 100, body }],
            {
              locals: ['i64'],
            },
          ),
      },
      { memory, calls: callsFrom(new Random(31), 5) },
    );
  });

  void it('a handler that finds no value ends, and is counted as an error, where it shall', () => {
    const body = [add(0, int(1n)), add(1, { op: 'read', type: 'u32', address: arg(0) }), add(0, int(1n))];
    for (const absent of ['error', 'skip'] as const) {
      agree(
        { aggregates: () => [counter(), counter()], pre: (a) => programOf(a, body, { absent }) },
        { memory, calls: callsFrom(new Random(14), 300) },
      );
    }
  });

  const session = sessionIds();
  const ways = [{ name: 'an entry and a return' }, ...(session ? [{ name: 'a session', session }] : [])];
  for (const { name, ...options } of ways) {
    void it(`what a handler leaves for the return arrives there: ${name}`, () => {
      const call: Expr = { op: 'call', type: 'u64' };
      agree(
        {
          aggregates: () => [
            events({ call: 'u64', first: 'u64', sixth: 'u64', value: 'u64' }, { buffer: 1 << 18 }),
            counter(),
          ],
          pre: (a) =>
            programOf(a, [
              add(1, int(1n)),
              {
                at,
                do: 'if',
                condition: {
                  op: 'compare',
                  type: 'bool',
                  operator: '<',
                  left: arg(1),
                  right: int(100n, 'u64'),
                },
                yes: [{ at, do: 'setCall', value: plus(arg(0), arg(1)) }],
                no: [],
              },
            ]),
          return: (a) =>
            programOf(
              a,
              [
                emit(
                  call,
                  { op: 'entryArg', type: 'u64', index: 0 },
                  { op: 'entryArg', type: 'u64', index: 5 },
                  { op: 'retval', type: 'u64' },
                ),
              ],
              { moment: 'return' },
            ),
        },
        { memory, calls: callsFrom(new Random(15), 300) },
        targetHere(options),
      );
    });

    void it(`durations are those of the calls: ${name}`, () => {
      const { aggregates, tally } = runInKernel(
        timed,
        { memory, calls: callsFrom(new Random(16), 100) },
        targetHere(options),
      );
      assert.deepEqual(tally, { hits: 100, missed: 0, errors: 0 });
      assert.equal(aggregates[0].count, 100);
      assert.ok(aggregates[0].min! > 0n && aggregates[0].max! < 60_000_000_000n);
    });
  }

  void it('a return handler alone is counted at the return', () => {
    agree(
      {
        aggregates: () => [counter()],
        return: (a) => programOf(a, [add(0, { op: 'retval', type: 'u64' })], { moment: 'return' }),
      },
      { memory, calls: callsFrom(new Random(17), 50) },
    );
  });

  void it('registers are those of the program; ip is that of the place, whatever the kernel stops at', () => {
    const reg = (name: Register): Expr => ({ op: 'reg', type: 'u64', name });
    const names = ['ip', 'sp', 'flags', 'cs', 'ss', 'origAx'] as const;
    const schema = {
      ip: 'u64',
      sp: 'u64',
      flags: 'u64',
      cs: 'u64',
      ss: 'u64',
      origAx: 'u64',
      seventh: 'bool',
    } as const;
    const seventh: Expr = {
      op: 'compare',
      type: 'bool',
      operator: '==',
      left: arg(6),
      right: { op: 'read', type: 'u64', address: plus(reg('sp'), int(8n, 'u64')) },
    };
    const handlers: Handlers<[ReturnType<typeof events<typeof schema>>]> = {
      aggregates: () => [events(schema)],
      pre: (a) => programOf(a, [emit(...names.map(reg), seventh)]),
    };
    const chosen = { memory, calls: callsFrom(new Random(20), 1) };
    for (const bias of [0, 4]) {
      const [event] = runInKernel(handlers, chosen, targetHere(), { bias }).events as Record<
        string,
        bigint
      >[];
      assert.equal((event!['ip']! + BigInt(bias)) & 0xfffn, BigInt(chosenCalls().offset & 0xfff));
      assert.equal(event!['sp']! & 7n, 0n);
      assert.equal(event!['flags']! & 0x202n, 0x202n); // always set; interrupts are on
      assert.deepEqual([event!['cs'], event!['ss'], event!['seventh']], [0x33n, 0x2bn, true]);
    }
  });

  void it('the time, the thread, its name and its control group are those of the hit', () => {
    const schema = {
      time: 'u64',
      pid: 'u32',
      tid: 'u32',
      cpu: 'u32',
      comm: string(15),
      cgroup: 'u64',
    } as const;
    const what = (name: 'pid' | 'tid' | 'cpu'): Expr => ({ op: 'of', type: 'u32', what: name });
    const before = process.hrtime.bigint();
    const { events: seen, pid } = runInKernel(
      {
        aggregates: () => [events(schema)],
        pre: (a) =>
          programOf(a, [
            emit(
              { op: 'time', type: 'u64' },
              what('pid'),
              what('tid'),
              what('cpu'),
              { op: 'comm', type: 'string' },
              { op: 'cgroup', type: 'u64' },
            ),
          ]),
      },
      { memory, calls: callsFrom(new Random(21), 2) },
      targetHere(),
    );
    const after = process.hrtime.bigint();
    const [first, second] = seen as {
      time: bigint;
      pid: number;
      tid: number;
      cpu: number;
      comm: string;
      cgroup: bigint;
    }[];
    assert.ok(before < first!.time && first!.time < second!.time && second!.time < after);
    assert.deepEqual([first!.pid, first!.tid, first!.comm], [pid, pid, 'chosen-calls']);
    assert.ok(first!.cpu < targetHere().cpus);
    const group = /^0::(.*)$/m.exec(readFileSync('/proc/self/cgroup', 'latin1'))?.[1];
    const directory = `/sys/fs/cgroup${group}`;
    if (existsSync(`${directory}/cgroup.procs`))
      assert.equal(first!.cgroup, statSync(directory, { bigint: true }).ino);
  });

  void it('a hit has one time, wherever it is asked for', () => {
    const time: Expr = { op: 'time', type: 'u64' };
    const told = emit(time, arg(6));
    const ever: Expr = { op: 'compare', type: 'bool', operator: '!=', left: time, right: int(0n, 'u64') };
    const yes: Statement[] = [emit(arg(0), arg(1))];
    const round: Statement = {
      ...{ at, do: 'loop', local: 0, from: int(0n), to: int(3n), step: 1n, most: 5 },
      body: [told],
    };
    const bodies: [number, Statement[], Partial<Program>?][] = [
      [1, [told]],
      [1, [told], { absent: 'error' }], // made elsewhere first
      [2, [told, told]],
      [3, [round], { locals: ['i64'] }],
      [0, [{ at, do: 'if', condition: ever, yes: [], no: yes }]],
    ];
    for (const [each, body, more] of bodies) {
      const calls = callsFrom(new Random(25), 5);
      const before = process.hrtime.bigint();
      const { events: seen, tally } = runInKernel(
        {
          aggregates: () => [events({ time: 'u64', value: 'u64' })],
          pre: (a) => programOf(a, body, more),
        },
        { memory, calls },
        targetHere(),
      );
      const after = process.hrtime.bigint();
      assert.deepEqual(tally, { hits: calls.length, missed: 0, errors: 0 });
      const times = (seen as { time: bigint }[]).map((event) => event.time);
      assert.equal(times.length, each * calls.length);
      let last = before;
      for (const [i, now] of times.entries()) {
        if (i % each > 0) assert.equal(now, last);
        else assert.ok(last < now && now < after);
        last = now;
      }
    }
  });

  const identified: Handlers<[ReturnType<typeof events<{ readonly pid: 'u32'; readonly tid: 'u32' }>>]> = {
    aggregates: () => [events({ pid: 'u32', tid: 'u32' })],
    pre: (a) =>
      programOf(a, [emit({ op: 'of', type: 'u32', what: 'pid' }, { op: 'of', type: 'u32', what: 'tid' })]),
  };
  void it('pids count from the namespace they are wanted in', () => {
    const chosen = { memory, calls: callsFrom(new Random(22), 1) };
    const here = namespaceOf('self');
    const ours = runInKernel(identified, chosen, targetHere({ pidNamespace: here }));
    assert.deepEqual(ours.events, [{ pid: ours.pid, tid: ours.pid }]);
    // In another one it has no number here.
    const inner = ['unshare', '--pid', '--fork'];
    const foreign = runInKernel(identified, chosen, targetHere({ pidNamespace: here }), { wrapper: inner });
    assert.deepEqual(foreign.events, [{ pid: undefined, tid: undefined }]);
    assert.equal(foreign.pid, 1);
  });

  void it('pids count as they do inside of a container, where we are in it', async () => {
    const holder = spawn('unshare', ['--pid', '--fork', '--kill-child', 'sleep', '60'], { stdio: 'ignore' });
    try {
      const inside = await childOf(holder.pid!);
      const chosen = { memory, calls: callsFrom(new Random(23), 1) };
      const wrapper = ['nsenter', '--target', String(inside), '--pid'];
      const target = targetHere({ pidNamespace: namespaceOf(inside) });
      const { events: seen, pid } = runInKernel(identified, chosen, target, { wrapper });
      assert.ok(pid < 10);
      assert.deepEqual(seen, [{ pid, tid: pid }]);
      // Hits of the process that is ours, by its pid in there, are left alone: the next one, for nobody else starts any.
      const own = runInKernel(identified, chosen, { ...target, ownPid: pid + 1 }, { wrapper });
      assert.equal(own.pid, pid + 1);
      assert.deepEqual([own.tally.hits, own.events], [0, []]);
      // In a session the return is not even looked at.
      const returns = runInKernel(
        timed,
        chosen,
        { ...target, ownPid: pid + 2, session: sessionIds() },
        { wrapper },
      );
      assert.equal(returns.pid, pid + 2);
      assert.deepEqual(returns.tally, { hits: 0, missed: 0, errors: 0 });
    } finally {
      holder.kill('SIGKILL');
    }
  });

  void it('hits that find no working memory are missed, and so are returns of calls that nobody has seen begin', () => {
    const large: Handlers<[ReturnType<typeof counter>]> = {
      aggregates: () => [counter()],
      pre: (a) =>
        programOf(a, [{ at, do: 'set', local: 0, value: str(arg(0), 2000) }, add(0, int(1n))], {
          locals: ['string'],
        }),
    };
    const chosen = { memory, calls: callsFrom(new Random(24), 60) };
    const none = runInKernel(large, chosen, targetHere(), {
      prepare: (loaded) => loaded.map('scratch').fill(1),
    });
    assert.deepEqual(none.tally, { hits: 0, missed: 60, errors: 0 });
    assert.equal(none.aggregates[0].value, 0n);
    const both = { ...large, return: timing };
    const half = runInKernel(both, chosen, targetHere({ session: sessionIds() }), {
      prepare: (loaded) => loaded.map('scratch').fill(1),
    });
    assert.deepEqual(half.tally, { hits: 0, missed: 120, errors: 0 });
    const unseen = runInKernel(timed, chosen, targetHere(), { only: 'return' });
    assert.deepEqual(unseen.tally, { hits: 0, missed: 60, errors: 0 });
  });

  for (const sleepable of [false, true]) {
    void it(`events that find no room are lost${sleepable ? ', also those that were made elsewhere' : ''}`, () => {
      const { aggregates, events: seen } = runInKernel(
        {
          aggregates: () => [events({ a: 'u64', b: 'u64' }, { buffer: 4096 })] as const,
          pre: (a) => programOf(a, [emit(arg(0), { op: 'read', type: 'u64', address: int(BASE, 'u64') })]),
        },
        { memory, calls: callsFrom(new Random(25), 300) },
        targetHere({ sleepable }),
      );
      assert.equal(seen.length, Math.floor((4096 - 1) / 32));
      assert.equal(aggregates[0].lost, 300 - seen.length);
    });
  }

  for (const sleepable of [false, true]) {
    void it(`handlers as people write them run there${sleepable ? ', sleeping' : ''}`, () => {
      const texts = {
        pre: `(hit, { t, h, c, e }) => {
          const p = hit.arg(0);
          const name = hit.readString(p, 32);
          if (name === undefined) {
            c.add();
            return;
          }
          hit.call = hit.arg(1) & 0xffn;
          let sum = 0n;
          for (let i = 0n; i < 10n; i++) {
            const byte = hit.read(p + i, 'u8');
            if (byte === undefined) break;
            if (byte === 0n) continue;
            sum += byte;
          }
          h.add(sum);
          t.at(hit.pid, name).add(hit.arg(2) >> 3n);
          e.emit({ name, sum, short: name === 'ab', n: hit.read(hit.arg(3), 'i32') });
        }`,
        return: `(hit, { c }) => {
          if (hit.call !== undefined && hit.entryArgs[1] > 5n) c.add(hit.call);
        }`,
      };
      const scopeOf = (a: readonly Aggregate[]): Record<string, unknown> => ({
        t: a[0],
        h: a[1],
        c: a[2],
        e: a[3],
      });
      const lowered = (moment: 'pre' | 'return', a: readonly Aggregate[]): Program =>
        lowerText(texts[moment], scopeOf(a), moment);
      agree(
        {
          aggregates: () =>
            [
              table({ key: ['u32', string(16)], value: stats, capacity: 10_000 }),
              histogram(),
              counter(),
              events({ name: string(32), sum: 'u64', short: 'bool', n: 'i32' }, { buffer: 1 << 20 }),
            ] as const,
          pre: (a: readonly Aggregate[]) => lowered('pre', a),
          return: (a: readonly Aggregate[]) => lowered('return', a),
        },
        { memory, calls: addresses(new Random(30), 1000) },
        targetHere({ sleepable, session }),
      );
    });
  }

  void it('nothing is lost where several hit at a time', () => {
    const handlers = {
      aggregates: () =>
        [
          stats(),
          histogram(),
          table({ key: 'u8', value: stats, capacity: 256 }),
          table({ key: string(100), value: counter, capacity: 50_000 }),
        ] as const,
      pre: (a: readonly Aggregate[]) =>
        programOf(a, [
          add(0, arg(0)),
          add(1, arg(1)),
          add(2, { op: 'convert', type: 'i64', of: arg(0) }, { op: 'convert', type: 'u8', of: arg(2) }),
          add(3, int(1n), str(arg(3), 600)),
        ]),
    };
    const chosen = { memory, calls: callsFrom(new Random(26), 3000) };
    const input = join(temporaryDirectory(), 'input');
    writeFileSync(input, inputOf(chosen.calls));
    const script = 'for i in 1 2 3 4; do "$@" < "$0" & done; wait';
    const kernel = runInKernel(handlers, chosen, targetHere(), { wrapper: ['sh', '-c', script, input] });
    const model = runByInterpreter(
      handlers,
      { memory, calls: Array.from({ length: 4 }, () => chosen.calls).flat() },
      targetHere(),
      kernel.pid,
    );
    assert.deepEqual(kernel.tally, { hits: 12_000, missed: 0, errors: 0 });
    assert.deepEqual(kernel.aggregates.map(plain), model.aggregates.map(plain));
  });

  void it('without handlers hits are counted, under the number of the uprobe', () => {
    const none = { aggregates: () => [] };
    const { tally } = runInKernel(none, { memory, calls: callsFrom(new Random(18), 70) }, targetHere(), {
      uprobes: 10,
      number: 7,
    });
    assert.deepEqual(tally, { hits: 70, missed: 0, errors: 0 });
    const many = runInKernel(none, { memory, calls: callsFrom(new Random(18), 70) }, targetHere(), {
      uprobes: 50_000,
      number: 49_999,
    });
    assert.deepEqual(many.tally, { hits: 70, missed: 0, errors: 0 });
  });
});

void describe('What cannot be done in the kernel is refused by name', () => {
  const number: Expr = { op: 'int', type: 'u64', value: 0n };
  const compiled = (
    body: readonly Statement[],
    aggregates: readonly Aggregate[] = [counter()],
    locals: Program['locals'] = [],
  ): unknown => {
    const pre = programOf(aggregates, body, { locals });
    const result = compileBpf({ attach: 'entry', pre, return: undefined, uprobes: 1 }, targetHere());
    return result.ok ? 'compiled' : result.refusal.code;
  };
  const adding = (value: Expr): Statement => ({ at, do: 'add', aggregate: 0, key: [], value });
  const strings = (count: number): Program['locals'] =>
    Array.from({ length: count }, () => 'string' as const);

  void it('writes of registers and verdicts: register-write, verdict-in-kernel', () => {
    assert.equal(compiled([{ at, do: 'setRegister', name: 'ax', value: number }]), 'register-write');
    assert.equal(compiled([{ at, do: 'leave', verdict: 'skip' }]), 'verdict-in-kernel');
    assert.equal(compiled([{ at, do: 'leave', verdict: undefined }]), 'compiled');
  });

  void it('values that the kernel has not: register-not-saved, floating-point, bytes-in-kernel', () => {
    assert.equal(compiled([adding({ op: 'reg', type: 'u64', name: 'fsBase' })]), 'register-not-saved');
    const float: Expr = { op: 'farg', type: 'f64', index: 0, single: false };
    assert.equal(compiled([adding({ op: 'convert', type: 'u64', of: float })]), 'floating-point');
    assert.equal(
      compiled([adding({ op: 'convert', type: 'u64', of: { op: 'convert', type: 'f64', of: number } })]),
      'floating-point',
    );
    const bytes: Expr = { op: 'buf', type: 'bytes', address: number, length: number };
    const stream = events({ bytes: string(8) });
    assert.equal(compiled([{ at, do: 'emit', aggregate: 0, fields: [bytes] }], [stream]), 'bytes-in-kernel');
  });

  void it('what is too much: strings-too-large, key-too-large, too-many-variables, program-too-large', () => {
    const long: Expr = {
      op: 'str',
      type: 'string',
      address: number,
      max: { op: 'int', type: 'u64', value: 4096n },
    };
    const set = (local: number): Statement => ({ at, do: 'set', local, value: long });
    assert.equal(
      compiled(
        strings(7).map((_, i) => set(i)),
        [],
        strings(7),
      ),
      'compiled',
    );
    assert.equal(
      compiled(
        strings(9).map((_, i) => set(i)),
        [],
        strings(9),
      ),
      'strings-too-large',
    );
    const wide = table({ key: string(513), value: counter, capacity: 1 });
    assert.equal(
      compiled([{ at, do: 'add', aggregate: 0, key: [long], value: number }], [wide]),
      'key-too-large',
    );
    const numbers = Array.from({ length: 70 }, () => 'u64' as const);
    assert.equal(compiled([], [], numbers), 'too-many-variables');
    const condition: Expr = {
      op: 'compare',
      type: 'bool',
      operator: '==',
      left: { op: 'arg', type: 'u64', index: 0 },
      right: number,
    };
    const many = Array.from({ length: 6000 }, () => adding(number));
    assert.equal(compiled([{ at, do: 'if', condition, yes: many, no: [] }]), 'program-too-large');
  });
});
