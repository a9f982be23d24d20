/** Events: from plain handlers and from engines' records to those who read them. */
import { describe, it } from 'node:test';
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { events, string, type EventOf, type EventSchema, type Events } from 'uprobe';
import { ATTACH, DELIVER } from '#uprobe/handler/shapes.js';
import { repositoryRoot } from './helpers/compile.js';

const BUSY = 0x80000000;
const DISCARD = 0x40000000;

/** A record as the kernel's ring buffer has it: the header, then the bytes, filled up to a multiple of eight. */
function record(bytes: Uint8Array, flags = 0): Uint8Array {
  const all = new Uint8Array(8 + ((bytes.length + 7) & ~7));
  new DataView(all.buffer).setUint32(0, (bytes.length | flags) >>> 0, true);
  new DataView(all.buffer).setUint32(4, 0xabcdef, true);
  all.set(bytes, 8);
  return all;
}

/** An event of `words` as one writes it down by hand: which fields there are, then each in eight bytes or more. */
function bytesOf(there: bigint, ...parts: readonly (bigint | Uint8Array)[]): Uint8Array {
  return Buffer.concat(
    [there, ...parts].map((part) => {
      if (typeof part !== 'bigint') return part;
      const bytes = new Uint8Array(8);
      new DataView(bytes.buffer).setBigUint64(0, BigInt.asUintN(64, part), true);
      return bytes;
    }),
  );
}

/** At an odd address: chunks come as they are. */
function chunk(...records: readonly Uint8Array[]): Uint8Array {
  const all = Buffer.concat([Buffer.alloc(1), ...records]);
  return new Uint8Array(all.buffer, all.byteOffset + 1, all.length - 1);
}

const padded = (text: string | Uint8Array, bytes: number): Uint8Array => {
  const all = new Uint8Array(bytes);
  all.set(Buffer.from(text));
  return all;
};

const everything = {
  a: 'u8',
  b: 'i8',
  c: 'u16',
  d: 'i16',
  e: 'u32',
  f: 'i32',
  g: 'u64',
  h: 'i64',
  ok: 'bool',
  text: string(5),
} as const;

/** What is listened to, all in a list. */
function heard<S extends EventSchema>(stream: Events<S>): EventOf<S>[] {
  const all: EventOf<S>[] = [];
  stream.listen((event) => all.push(event));
  return all;
}

const tick = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

void describe('Records of an engine', () => {
  void it('become events with the values that were written', () => {
    const stream = events(everything);
    const all = heard(stream);
    stream[DELIVER](
      chunk(
        record(bytesOf(0x3ffn, 255n, -1n, 65535n, -2n, 4294967295n, -3n, -1n, -4n, 1n, padded('abcde', 8))),
        record(bytesOf(0x3ffn, 0n, 127n, 1n, 2n, 3n, 4n, 5n, 6n, 0n, padded('ä\0x', 8))),
      ),
    );
    const [e, f] = [4294967295, -3];
    assert.deepEqual(all, [
      { a: 255, b: -1, c: 65535, d: -2, e, f, g: (1n << 64n) - 1n, h: -4n, ok: true, text: 'abcde' },
      { a: 0, b: 127, c: 1, d: 2, e: 3, f: 4, g: 5n, h: 6n, ok: false, text: 'ä' },
    ]);
  });

  void it('are the same as the events that a plain handler emits', () => {
    const [emitted, delivered] = [events(everything), events(everything)];
    const [some, others] = [heard(emitted), heard(delivered)];
    emitted.emit({ a: 1n, b: -1, c: 2, d: -2n, e: 3, f: -3, g: 4, h: -4, ok: true, text: 'ab\udcffc\u00e9' });
    emitted.emit({
      a: 1n,
      b: undefined,
      c: 2,
      d: 0,
      e: 3,
      f: 0,
      g: undefined,
      h: 0,
      ok: false,
      text: undefined,
    });
    const text = padded(Uint8Array.of(0x61, 0x62, 0xff, 0x63, 0xc3), 8);
    delivered[DELIVER](chunk(record(bytesOf(0x3ffn, 1n, -1n, 2n, -2n, 3n, -3n, 4n, -4n, 1n, text))));
    delivered[DELIVER](
      chunk(record(bytesOf(0b0110111101n, 1n, 77n, 2n, 0n, 3n, 0n, 77n, 0n, 0n, padded('x', 8)))),
    );
    assert.deepEqual(some, others);
    assert.deepEqual(Object.keys(some[1]!), Object.keys(everything));
  });

  void it('can have 64 fields', () => {
    const names = Array.from({ length: 64 }, (_, i) => `f${i}`);
    const stream = events(Object.fromEntries(names.map((name) => [name, 'u8' as const])));
    const all = heard(stream);
    const there = (1n << 63n) | (1n << 32n) | (1n << 31n) | 1n;
    stream[DELIVER](chunk(record(bytesOf(there, ...names.map((_, i) => BigInt(i))))));
    const values = Object.entries(all[0]!).filter(([, value]) => value !== undefined);
    assert.deepEqual(values, [['f0', 0], ['f31', 31], ['f32', 32], ['f63', 63]]); // prettier-ignore
  });

  void it('that are marked as discarded are left out', () => {
    const stream = events({ n: 'u32' });
    const all = heard(stream);
    const one = bytesOf(1n, 1n);
    stream[DELIVER](chunk(record(one), record(one, DISCARD), record(bytesOf(1n, 2n))));
    assert.deepEqual(all, [{ n: 1 }, { n: 2 }]);
    assert.equal(stream.lost, 0);
  });

  void it('of memory that a program has scribbled over are events of the type, or lost, and the rest is left alone', () => {
    const stream = events({ n: 'u8', ok: 'bool', text: string(8) });
    const all = heard(stream);
    const huge = record(
      bytesOf(7n, 0x123456789an, 0xffn, padded(Uint8Array.of(0xff, 1, 2, 3, 4, 5, 6, 7), 8)),
      BUSY,
    );
    const short = record(bytesOf(7n, 1n));
    const cut = record(bytesOf(7n, 1n, 1n, padded('', 8))).subarray(0, 24);
    stream[DELIVER](chunk(huge, short, cut));
    assert.deepEqual(all, [{ n: 0x9a, ok: true, text: '\udcff\x01\x02\x03\x04\x05\x06\x07' }]);
    assert.equal(stream.lost, 2);
    for (let state = 1, i = 0; i < 2000; i++) {
      const bytes = Uint8Array.from(
        { length: 200 },
        () => (state = (Math.imul(state, 69069) + 1) >>> 0) >>> 24,
      );
      for (let at = 0; i % 2 === 0 && at < 200; at += 40) bytes.set([32, 0, 0, 0], at);
      stream[DELIVER](bytes);
    }
    assert.ok(all.every(({ n, ok, text }) => n === undefined || (n >= 0 && n < 256 && [true, false, undefined].includes(ok) && (text ?? '').length <= 8))); // prettier-ignore
  });

  void it('are decoded, too, where no code may be made of text', () => {
    const program = `
      import { events, string } from 'uprobe';
      import { DELIVER } from '#uprobe/handler/shapes.js';
      const stream = events({ n: 'i16', text: string(8), none: 'u8' });
      stream.listen((event) => console.log(event));
      const bytes = Buffer.alloc(40);
      bytes.writeUInt32LE(32);
      bytes[8] = 0b011;
      bytes.writeInt16LE(-5, 16);
      bytes.write('hello', 24);
      stream[DELIVER](bytes);`;
    const { stdout, stderr } = spawnSync(
      process.execPath,
      ['--disallow-code-generation-from-strings', '--input-type=module', '-e', program],
      { cwd: repositoryRoot, encoding: 'utf8', timeout: 60_000 },
    );
    assert.equal(stdout, "{ n: -5, text: 'hello', none: undefined }\n", stderr);
  });
});

void describe('Events', () => {
  void it('wait for who reads them, in their order', async () => {
    const stream = events({ n: 'u32' });
    for (let n = 0; n < 5000; n++) stream.emit({ n });
    assert.deepEqual([stream.waiting, stream.delivered], [5000, 0]);
    stream.close();
    let next = 0;
    for await (const { n } of stream) assert.equal(n, next++);
    assert.deepEqual([next, stream.waiting, stream.delivered, stream.lost], [5000, 0, 5000, 0]);
  });

  void it('go to who waits for them', async () => {
    const stream = events({ n: 'u32' });
    const seen: (number | undefined)[] = [];
    const reading = (async () => {
      for await (const { n } of stream) seen.push(n);
    })();
    for (let n = 0; n < 5; n++) {
      await tick();
      stream.emit({ n });
      stream[DELIVER](chunk(record(bytesOf(1n, BigInt(n + 100)))));
    }
    stream.close();
    await reading;
    assert.deepEqual(seen, [0, 100, 1, 101, 2, 102, 3, 103, 4, 104]);
  });

  void it('that were not read when a loop was left are there for the next', async () => {
    const stream = events({ n: 'u32' });
    for (let n = 0; n < 4; n++) stream.emit({ n });
    for await (const { n } of stream) if (n === 1) break;
    stream.close();
    const rest = [];
    for await (const { n } of stream) rest.push(n);
    assert.deepEqual(rest, [2, 3]);
  });

  void it('do not go to who has stopped waiting', async () => {
    const stream = events({ n: 'u32' });
    const iterator = stream[Symbol.asyncIterator]();
    const next = iterator.next();
    const other = stream[Symbol.asyncIterator]().next();
    await iterator.return!();
    stream.emit({ n: 1 });
    stream.emit({ n: 2 });
    assert.deepEqual(await next, { done: true, value: undefined });
    assert.deepEqual(await other, { done: false, value: { n: 1 } });
    assert.deepEqual(stream.toJSON(), { delivered: 1, waiting: 1, lost: 0 });
  });

  void it('go to all who listen, at once, those that have waited first', () => {
    const stream = events({ n: 'u32' });
    stream.emit({ n: 1 });
    const first = heard(stream);
    assert.deepEqual(first, [{ n: 1 }]);
    const second: unknown[] = [];
    const stop = stream.listen((event) => second.push(event));
    stream.emit({ n: 2 });
    stop();
    stream.emit({ n: 3 });
    assert.deepEqual(first, [{ n: 1 }, { n: 2 }, { n: 3 }]);
    assert.deepEqual(second, [{ n: 2 }]);
    assert.deepEqual(stream.toJSON(), { delivered: 3, waiting: 0, lost: 0 });
  });

  void it('go on to all others when a listener throws, which is an uncaught exception', () => {
    const program = `
      import { events } from 'uprobe';
      const stream = events({ n: 'u8' });
      process.on('uncaughtException', (e) => console.log(e.message));
      stream.listen(({ n }) => { throw new Error('no ' + n); });
      stream.listen(({ n }) => console.log(n));
      for (const n of [1, 2]) stream.emit({ n });`;
    const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
      cwd: repositoryRoot,
      encoding: 'utf8',
      timeout: 60_000,
    });
    assert.equal(stdout, '1\n2\nno 1\nno 2\n');
  });

  void it('beyond what may wait are lost, and counted with what engines have lost', () => {
    const stream = events({ n: 'u32' }, { queue: 3 });
    let there = 10n;
    const detach = stream[ATTACH]({ lost: () => there });
    for (let n = 0; n < 5; n++) stream.emit({ n });
    stream[DELIVER](chunk(record(bytesOf(1n, 5n)), record(bytesOf(1n, 6n))));
    assert.deepEqual(stream.toJSON(), { delivered: 0, waiting: 3, lost: 14 });
    there = 11n;
    detach();
    detach();
    there = 50n;
    assert.equal(stream.lost, 15);
    assert.deepEqual(heard(stream), [{ n: 0 }, { n: 1 }, { n: 2 }]);
  });

  void it('of a cleared stream are forgotten, and so are its counts', () => {
    const stream = events({ n: 'u32' }, { queue: 1 });
    let there = 10n;
    stream[ATTACH]({ lost: () => there });
    stream.emit({ n: 1 });
    stream.emit({ n: 2 });
    stream.clear();
    assert.deepEqual(stream.toJSON(), { delivered: 0, waiting: 0, lost: 0 });
    there = 12n;
    assert.equal(stream.lost, 2);
  });

  void it('of a closed stream are lost; who waits is told the end', async () => {
    const stream = events({ n: 'u32' });
    const iterator = stream[Symbol.asyncIterator]();
    const next = iterator.next();
    stream.close();
    assert.deepEqual(await next, { done: true, value: undefined });
    assert.deepEqual(await iterator.next(), { done: true, value: undefined });
    stream.emit({ n: 1 });
    assert.equal(stream.lost, 1);
  });

  void it('that cannot be are refused, and nobody hears of them', () => {
    const stream = events({ n: 'i8', text: string(4) });
    const all = heard(stream);
    assert.throws(() => stream.emit({ n: 128, text: '' }), /emit: n: 128 does not fit in i8 \(-128 to 127\)/);
    assert.throws(() => stream.emit({ n: 0, text: 5 as never }), TypeError);
    assert.deepEqual(all, []);
    assert.equal(stream.delivered, 0);
  });

  void it('have names and types that there are, and room', () => {
    assert.throws(() => events({}), RangeError);
    assert.throws(() => events({ 'a b': 'u8' }), /"a b" is no name/);
    assert.throws(() => events({ ['__proto__']: 'u8' }), /no name/);
    assert.throws(() => events({ a: 'u128' as never }), /events: a: 'u128' is no type/);
    for (const buffer of [0, 2048, 5000, 2 ** 40])
      assert.throws(() => events({ a: 'u8' }, { buffer }), /power/);
    assert.throws(() => events({ a: 'u8' }, { queue: 0 }), RangeError);
    assert.deepEqual(events({ a: 'u8', class: string(3) }, { buffer: 8192 }).shape, {
      kind: 'events',
      fields: [
        { name: 'a', type: 'u8' },
        { name: 'class', type: { string: 3 } },
      ],
      buffer: 8192,
    });
  });
});
