/** Aggregates: what handlers add, what programs read, and what engines attach. */
import { describe, it } from 'node:test';
import assert from 'node:assert/strict';
import { Worker } from 'node:worker_threads';
import { counter, events, histogram, linearHistogram, stats, string, table } from 'uprobe';
import {
  ATTACH,
  cellWords,
  emptyCell,
  STATS,
  type CellShape,
  type CellSource,
} from '#uprobe/handler/shapes.js';
import { makeCell } from '#uprobe/handler/aggregates/cells.js';
import { mergeCell } from '#uprobe/handler/aggregates/parts.js';
import { WORDS } from '#uprobe/handler/aggregates/views.js';
import { assertConforms, documentedSchema } from './helpers/cli.js';

/** Values at which anything can go wrong. */
const EDGES: readonly bigint[] = [0n, 1n, 31n, 32n, 52n, 53n, 62n, 63n, 64n]
  .flatMap((bits) => [-1n, 0n, 1n].flatMap((by) => [(1n << bits) + by, -(1n << bits) + by]))
  .filter((value) => value >= -(1n << 63n) && value < 1n << 64n);

/** The same value as whoever has it may hand it over. */
const forms = (value: bigint): (number | bigint)[] =>
  BigInt(Number(value)) === value ? [value, Number(value)] : [value];

/** Numbers that are the same at each run. */
function* numbers(seed: number): Generator<number> {
  for (let state = seed; ;) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    yield state / 2 ** 32;
  }
}

function randomValue(random: Generator<number>): number | bigint {
  const next = (): number => random.next().value as number;
  const magnitude = BigInt.asUintN(Math.floor(next() * 64) + 1, BigInt(Math.floor(next() * 2 ** 53)) << 11n);
  const value = next() < 0.3 && magnitude <= 1n << 63n ? -magnitude : magnitude;
  const both = forms(value);
  return both[Math.floor(next() * both.length)]!;
}

void describe('A counter', () => {
  void it('adds 1, numbers and bigints', () => {
    const c = counter();
    c.add();
    c.add(41);
    c.add(-2n);
    assert.equal(c.value, 40n);
    c.clear();
    assert.equal(c.value, 0n);
  });

  void it('is exact beyond 2^53, and wraps round as a signed 64-bit number', () => {
    const c = counter();
    let sum = 0n;
    const random = numbers(1);
    for (let i = 0; i < 10_000; i++) {
      const value = randomValue(random);
      c.add(value);
      sum += BigInt(value);
    }
    for (const value of EDGES.flatMap(forms)) {
      c.add(value);
      sum += BigInt(value);
    }
    assert.equal(c.value, BigInt.asIntN(64, sum));
  });

  void it('refuses what is no whole number of 64 bits', () => {
    const c = counter();
    for (const wrong of [0.5, Number.NaN, Infinity, 2 ** 64, 1n << 64n, -(1n << 63n) - 1n])
      assert.throws(() => c.add(wrong), RangeError, String(wrong));
    for (const wrong of [undefined, null, '1', true])
      assert.throws(() => c.add(wrong as never), TypeError, String(wrong));
    assert.equal(c.value, 0n);
  });
});

void describe('A histogram', () => {
  void it('counts every value in the bucket whose limits it is between', () => {
    for (const value of EDGES.flatMap(forms)) {
      const h = histogram();
      h.add(value);
      const [bucket, ...others] = h.buckets();
      assert.equal(others.length, 0);
      assert.ok(bucket!.from <= value && value < bucket!.to, `${value}: ${bucket!.from} to ${bucket!.to}`);
      assert.equal(bucket!.count, 1);
    }
  });

  void it('has buckets for negative numbers, 0 and powers of two, from the first to the last used', () => {
    const h = histogram();
    for (const value of [-5, 0, 0n, 1, 9, 15n]) h.add(value);
    assert.deepEqual(h.buckets(), [
      { from: -(1n << 63n), to: 0n, count: 1 },
      { from: 0n, to: 1n, count: 2 },
      { from: 1n, to: 2n, count: 1 },
      { from: 2n, to: 4n, count: 0 },
      { from: 4n, to: 8n, count: 0 },
      { from: 8n, to: 16n, count: 2 },
    ]);
    assert.equal(h.count, 6);
    assert.equal(
      JSON.stringify(h),
      '{"count":6,"buckets":[{"from":"-9223372036854775808","to":"0","count":1},{"from":"0","to":"1","count":2},' +
        '{"from":"1","to":"2","count":1},{"from":"2","to":"4","count":0},{"from":"4","to":"8","count":0},{"from":"8","to":"16","count":2}]}',
    );
    h.clear();
    assert.deepEqual(h.buckets(), []);
  });
});

void describe('A linear histogram', () => {
  void it('counts every value in the bucket whose limits it is between', () => {
    for (const options of [
      { min: 0, max: 100, step: 7 },
      { min: -10, max: 10, step: 5n },
      { min: -(1n << 63n), max: (1n << 64n) - 1n, step: (1n << 60n) + 1n },
      { min: 2 ** 52 - 3, max: 2n ** 52n + 5n, step: 2 },
    ])
      for (const value of [...EDGES, ...Array.from({ length: 130 }, (_, i) => BigInt(i - 15))].flatMap(
        forms,
      )) {
        const h = linearHistogram(options);
        h.add(value);
        const [bucket, ...others] = h.buckets();
        assert.equal(others.length, 0);
        const { from, to } = bucket!;
        assert.ok(from <= value && value < to, `${value}: ${from} to ${to}`);
        if (value >= options.min && value < options.max)
          assert.ok(to - from <= options.step && (from - BigInt(options.min)) % BigInt(options.step) === 0n);
      }
  });

  void it('says which limits cannot be', () => {
    assert.throws(
      () => linearHistogram({ min: 5, max: 5, step: 1 }),
      /min \(5\) must be less than max \(5\)/,
    );
    assert.throws(() => linearHistogram({ min: 0, max: 5, step: 0 }), /at least 1, not 0/);
    assert.throws(() => linearHistogram({ min: 0, max: 1e6, step: 1 }), /make step at least 245/);
    assert.ok(linearHistogram({ min: 0, max: 1e6, step: 245 }));
  });
});

void describe('Stats', () => {
  void it('have nothing to say before the first value', () => {
    const s = stats();
    assert.deepEqual([s.count, s.sum, s.min, s.max, s.mean], [0, 0n, undefined, undefined, undefined]);
    assert.equal(JSON.stringify(s), '{"count":0,"sum":"0","min":null,"max":null,"mean":null}');
  });

  void it('are exact over everything that 64 bits hold, signed and unsigned', () => {
    const s = stats();
    const random = numbers(2);
    const values = [...EDGES.flatMap(forms), ...Array.from({ length: 10_000 }, () => randomValue(random))];
    let [sum, min, max] = [0n, 1n << 70n, -(1n << 70n)];
    for (const [i, value] of values.entries()) {
      s.add(value);
      const integer = BigInt(value);
      sum += integer;
      if (integer < min) min = integer;
      if (integer > max) max = integer;
      if (i % 100 === 0) assert.deepEqual([s.count, s.sum, s.min, s.max], [i + 1, sum, min, max]);
    }
    assert.equal(s.mean, Number(sum) / values.length);
  });

  void it('know large unsigned values from negative ones', () => {
    const s = stats();
    s.add((1n << 63n) + 5n);
    assert.deepEqual([s.min, s.max], [(1n << 63n) + 5n, (1n << 63n) + 5n]);
    s.add(-7);
    assert.deepEqual([s.min, s.max, s.sum], [-7n, (1n << 63n) + 5n, (1n << 63n) - 2n]);
  });
});

void describe('A table', () => {
  void it('has a cell for each key of one field', () => {
    const t = table({ key: 'i32', value: counter, capacity: 10 });
    t.at(-1).add();
    t.at(-1n).add(2n);
    t.at(7).add(5);
    assert.deepEqual(
      t.entries().map(({ key, value }) => [...key, value.value]),
      [
        [-1, 3n],
        [7, 5n],
      ],
    );
    assert.equal(t.get(7)?.value, 5n);
    assert.equal(t.get(8), undefined);
    assert.equal(t.size, 2);
    t.clear();
    assert.equal(t.size, 0);
  });

  void it('tells keys of several fields apart', () => {
    const t = table({ key: ['u64', string(4), 'bool', string(4)], value: stats, capacity: 10 });
    t.at(1, 'a', true, 'b').add(1);
    t.at(1n, 'a', true, 'b').add(2);
    t.at(1, 'ab', true, '').add(3);
    t.at(1, '', true, 'ab').add(4);
    t.at(1, 'a', false, 'b').add(5);
    assert.deepEqual(
      t.entries().map(({ key, value }) => [...key, value.sum]),
      [
        [1n, 'a', true, 'b', 3n],
        [1n, 'ab', true, '', 3n],
        [1n, '', true, 'ab', 4n],
        [1n, 'a', false, 'b', 5n],
      ],
    );
    assert.equal(
      JSON.stringify(t).slice(0, 102),
      '{"entries":[{"key":["1","a",true,"b"],"value":{"count":2,"sum":"3","min":"1","max":"2","mean":1.5}},{"',
    );
  });

  void it('keys strings by their bytes, cut off where the field ends', () => {
    const t = table({ key: string(4), value: counter, capacity: 10 });
    for (const text of [
      'häß',
      'häß!',
      'hä\u{dcc3}',
      'hä\u{dcc3}\u{dc9f}',
      'ab\0c',
      'ab',
      '\u{dcff}',
      '\ufffd',
    ])
      t.at(text).add();
    assert.deepEqual(
      t.entries().map(({ key, value }) => [...key, value.value]),
      [
        ['hä\u{dcc3}', 4n],
        ['ab', 2n],
        ['\u{dcff}', 1n],
        ['\ufffd', 1n],
      ],
    );
  });

  void it('counts what is added for keys for which there is no room', () => {
    const t = table({ key: 'u8', value: histogram, capacity: 2 });
    for (const key of [1, 2, 3, 1, 3, 4]) t.at(key).add(key);
    assert.equal(t.size, 2);
    assert.equal(t.overflow, 3);
    assert.equal(t.toJSON().overflow, 3);
  });

  void it('has no cell for a key to which nothing was added', () => {
    const t = table({ key: 'u8', value: stats, capacity: 1 });
    const unused = t.at(1);
    assert.throws(() => t.at(1).add(0.5), RangeError);
    assert.equal(t.size, 0);
    unused.add(1);
    unused.add(2);
    assert.equal(t.get(1)?.count, 2);
    assert.equal(t.overflow, 0);
  });

  void it('refuses values that a field cannot have', () => {
    const t = table({ key: ['u8', 'i64', 'bool', string(8)], value: counter, capacity: 10 });
    const refuses = (key: readonly unknown[], error: typeof RangeError | typeof TypeError): void =>
      assert.throws(() => t.at(...(key as [number, number, boolean, string])), error);
    refuses([256, 0, true, ''], RangeError);
    refuses([-1, 0, true, ''], RangeError);
    refuses([0, 1n << 63n, true, ''], RangeError);
    refuses([0.5, 0, true, ''], RangeError);
    refuses([0, 0, 1, ''], TypeError);
    refuses([0, 0, true, 5], TypeError);
    refuses([undefined, 0, true, ''], TypeError);
    refuses([0, 0, true], TypeError);
  });

  void it('says what it cannot be made of', () => {
    assert.throws(() => table({ key: [] as never, value: counter, capacity: 1 }), /at least one field/);
    assert.throws(() => table({ key: 'u65' as never, value: counter, capacity: 1 }), /'u65' is no type/);
    assert.throws(() => table({ key: 'u8', value: counter, capacity: 0 }), /not 0/);
    assert.throws(() => table({ key: 'u8', value: counter() as never, capacity: 1 }), /what makes a cell/);
    assert.throws(() => string(0), RangeError);
  });

  void it('shows those with the most first', () => {
    const t = table({ key: 'u8', value: counter, capacity: 10 });
    for (const [key, n] of [
      [1, 5],
      [2, 50],
      [3, 7],
    ] as const)
      t.at(key).add(n);
    assert.deepEqual(
      t.top(2).map(({ key }) => key),
      [[2], [3]],
    );
  });
});

/** A part of a cell that an engine might have: words, and additions as a program in the kernel makes them. */
function fakeSource(shape: CellShape): CellSource & { words: BigInt64Array } {
  const source = {
    words: emptyCell(shape),
    cell: () => source.words,
    clear: () => {
      source.words = emptyCell(shape);
    },
  };
  return source;
}

void describe('An engine', () => {
  for (const make of [counter, histogram, stats, () => linearHistogram({ min: 0, max: 100, step: 10 })])
    void it(`can have parts of a ${make().shape.kind}: all that was added is read, while it is there and afterwards`, () => {
      const all = make();
      const parted = make();
      const sources = [fakeSource(parted.shape), fakeSource(parted.shape)];
      const random = numbers(3);
      const detach = sources.map((source) => parted[ATTACH](source as never));
      for (let i = 0; i < 3000; i++) {
        const value = randomValue(random);
        all.add(value);
        const where = i % 3;
        const added = makeCell(parted.shape);
        added.add(value);
        if (where === 2) parted.add(value);
        else mergeCell(parted.shape, sources[where]!.words, added[WORDS]());
        if (i % 500 === 0) assert.deepEqual(parted.toJSON(), all.toJSON());
      }
      for (const end of [...detach, ...detach]) {
        end();
        assert.deepEqual(parted.toJSON(), all.toJSON());
      }
      sources[0]!.words.fill(77n);
      assert.deepEqual(parted.toJSON(), all.toJSON());
      parted.clear();
      assert.deepEqual(parted.toJSON(), make().toJSON());
    });

  void it('writes stats in words whose order nobody else has decided', () => {
    const s = stats();
    const source = fakeSource(s.shape);
    s[ATTACH](source);
    // -1, 2^32 + 5 and, unsigned, 2^64 - 1: lower and upper halves are summed apart.
    source.words[STATS.count] = 3n;
    source.words[STATS.low] = 0xffffffffn + 5n + 0xffffffffn;
    source.words[STATS.high] = -1n + 1n + 0xffffffffn;
    source.words[STATS.leastSigned] = -1n;
    source.words[STATS.mostSigned] = (1n << 32n) + 5n;
    source.words[STATS.leastUnsigned] = -1n;
    source.words[STATS.mostUnsigned] = -1n;
    assert.equal(s.sum, -1n + (1n << 32n) + 5n + (1n << 64n) - 1n);
    assert.deepEqual([s.count, s.min, s.max], [3, -1n, (1n << 64n) - 1n]);
    assert.equal(source.words.length, cellWords(s.shape));
  });

  void it('can have parts of a table: keys are the same by their bytes', () => {
    const t = table({ key: ['i16', string(5)], value: counter, capacity: 3 });
    const key = (n: number, text: Uint8Array): Uint8Array => {
      const bytes = new Uint8Array(16);
      new DataView(bytes.buffer).setBigInt64(0, BigInt(n), true);
      bytes.set(text, 8);
      return bytes;
    };
    const cells = [
      { key: key(-2, Buffer.from('ä')), cell: BigInt64Array.of(5n) },
      { key: key(-2, Uint8Array.of(0xff, 0x41, 0xc3, 0xa4, 0xf0)), cell: BigInt64Array.of(1n) },
    ];
    const source = {
      entries: () => cells,
      overflow: () => 9n,
      clear: () => void cells.splice(0),
    };
    t.at(-2, 'ä').add(1);
    const detach = t[ATTACH](source);
    const look = (): unknown => t.entries().map((entry) => [...entry.key, entry.value.value]);
    const wanted = [
      [-2, 'ä', 6n],
      [-2, '\udcffAä\udcf0', 1n],
    ];
    assert.deepEqual(look(), wanted);
    assert.equal(t.get(-2, '\udcffAä\udcf0')?.value, 1n);
    assert.deepEqual([t.size, t.overflow], [2, 9]);
    detach();
    detach();
    cells.splice(0);
    assert.deepEqual(look(), wanted);
    assert.deepEqual([t.size, t.overflow], [2, 9]);
    t[ATTACH](source);
    t.clear();
    assert.deepEqual(look(), []);
  });
});

void describe('As JSON', () => {
  void it('histograms and stats are what docs/json.md says', () => {
    const cells = {
      histogram: histogram(),
      linear: linearHistogram({ min: 0, max: 9, step: 2 }),
      stats: stats(),
    };
    const schemas = { histogram: 'histogram', linear: 'histogram', stats: 'stats' } as const;
    for (const value of [undefined, -5, 0, 7n, 1n << 63n])
      for (const [name, cell] of Object.entries(cells)) {
        if (value !== undefined) cell.add(value);
        const schema = documentedSchema(schemas[name as keyof typeof schemas]);
        assertConforms(JSON.parse(JSON.stringify(cell)), schema);
      }
  });
});

void describe('While another thread adds', () => {
  void it(
    'everything that is read was added, and in the end all of it is there',
    { timeout: 60_000 },
    async () => {
      const rounds = 200_000;
      const c = counter();
      const h = histogram();
      const memory = new SharedArrayBuffer(8 * 80);
      const done = new Int32Array(memory, 8 * 79, 1);
      const source = (first: number, words: number): CellSource => ({
        cell: () =>
          BigInt64Array.from(new BigInt64Array(memory, first * 8, words), (_, i) =>
            Atomics.load(new BigInt64Array(memory), first + i),
          ),
        clear: () => assert.fail('nobody clears'),
      });
      const ends = [c[ATTACH](source(0, 1)), h[ATTACH](source(1, 66))];
      const worker = new Worker(
        `const { workerData: memory } = require('node:worker_threads');
       const words = new BigInt64Array(memory);
       for (let i = 0; i < ${rounds}; i++) {
         Atomics.add(words, 0, 3n);
         Atomics.add(words, 1 + 2 + (i & 31), 1n);
       }
       Atomics.store(new Int32Array(memory, 8 * 79, 1), 0, 1);`,
        { eval: true, workerData: memory },
      );
      let [before, own, readings] = [0n, 0, 0];
      while (Atomics.load(done, 0) === 0) {
        c.add(2);
        h.add(5);
        own++;
        const { value } = c;
        assert.ok(value >= before + 2n && (value - 2n * BigInt(own)) % 3n === 0n);
        assert.ok(h.count >= own && h.count <= own + rounds);
        before = value;
        if (++readings % 50 === 0) await new Promise((resolve) => setImmediate(resolve));
      }
      for (const end of ends) end();
      await worker.terminate();
      assert.equal(c.value, 3n * BigInt(rounds) + 2n * BigInt(own));
      assert.equal(h.count, rounds + own);
      assert.equal(h.buckets().find(({ from }) => from === 4n)?.count, rounds / 32 + own);
    },
  );
});

void it('Types are as written: a compiler checks these', () => {
  const t = table({ key: ['u32', string(16), 'u64', 'bool'], value: counter, capacity: 1 });
  const one = table({ key: 'i64', value: () => linearHistogram({ min: 0, max: 1, step: 1 }), capacity: 1 });
  const e = events({ pid: 'u32', size: 'i64', path: string(8), ok: 'bool' });
  type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
  type Key = ReturnType<typeof t.entries>[number]['key'];
  type Event = Parameters<Parameters<typeof e.listen>[0]>[0];
  const checks: [
    Same<Key, readonly [number, string, bigint, boolean]>,
    Same<ReturnType<typeof one.entries>[number]['key'], readonly [bigint]>,
    Same<Event['pid'], number | undefined>,
    Same<Event['size'], bigint | undefined>,
    Same<Event['path'], string | undefined>,
    Same<Event['ok'], boolean | undefined>,
  ] = [true, true, true, true, true, true];
  assert.ok(checks.every(Boolean));
  const never = (): void => {
    t.at(1n, 'a', 1, true).add();
    one.at(1).add(5n);
    e.emit({ pid: 1n, size: 5, path: undefined, ok: true });
    one.get(1)?.buckets();
    // @ts-expect-error: a histogram needs a value
    one.at(1).add();
    // @ts-expect-error: what could not be read is nothing to add
    counter().add(undefined);
    // @ts-expect-error: the key has four fields
    t.at(1, 'a').add();
    // @ts-expect-error: the second is a string
    t.at(1, 2, 1, true).add();
    // @ts-expect-error: a field is missing
    e.emit({ pid: 1, size: 5, path: '' });
    // @ts-expect-error: what is read of a table is not to be added to
    t.get(1, '', 1, true) satisfies { add(): void } | undefined;
    // @ts-expect-error: no such type
    events({ pid: 'u31' });
  };
  assert.equal(typeof never, 'function');
});
