import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { RefusedError, SpecError } from '#uprobe/base/errors.js';
import { checkPlace, checkProcesses, checkSpec, checkSpecs } from '#uprobe/probe/spec.js';

const good = { pathname: '/bin/true', symbol: 'main', processes: 5 };
const codeOf = (spec: unknown): string => {
  try {
    checkSpec(spec);
  } catch (e) {
    assert.ok(e instanceof SpecError || e instanceof RefusedError, String(e));
    return e.code;
  }
  return 'ok';
};
const withField = (fields: object): string => codeOf({ ...good, ...fields });

void describe('a spec', () => {
  void it('is copied: changing it later changes nothing', () => {
    const processes = [5, 6, 5];
    const spec = { ...good, processes };
    const checked = checkSpec(spec);
    processes.push(7);
    spec.symbol = 'other';
    assert.deepEqual(checked.processes, [5, 6]);
    assert.deepEqual(checked.place, { symbol: 'main' });
    assert.equal(checked.deadline, 1000);
    assert.equal(checked.engine, 'auto');
  });

  void it('has exactly one place', () => {
    assert.deepEqual(checkPlace({ symbol: 'a', symbolOffset: 4 }), { symbol: 'a', symbolOffset: 4 });
    assert.deepEqual(checkPlace({ offset: 16, addr: 16n }), { offset: 16, addr: 16n });
    assert.deepEqual(checkPlace({ addr: 16n }), { addr: 16n });
    assert.deepEqual(checkPlace({ pid: 5, liveAddr: 16n }), { pid: 5, liveAddr: 16n });
    for (const place of [
      {},
      { symbolOffset: 4 },
      { symbol: 'a', offset: 4 },
      { symbol: 'a', addr: 4n },
      { pid: 5 },
      { liveAddr: 4n },
      { pid: 5, liveAddr: 4n, addr: 4n },
    ])
      assert.throws(
        () => checkPlace(place),
        (e) => e instanceof SpecError && e.code === 'bad-place',
        JSON.stringify(Object.keys(place)),
      );
  });

  void it('has numbers in range, and addresses that are bigints', () => {
    const { symbol: _, ...rest } = good;
    for (const offset of [-1, 1.5, NaN, Infinity, '4', 2 ** 60])
      assert.equal(codeOf({ ...rest, offset }), 'bad-number');
    for (const addr of [-1n, 1n << 64n, 4, '4']) assert.equal(codeOf({ ...rest, addr }), 'bad-address');
    assert.throws(() => checkSpec({ ...rest, addr: 0x401000 }), /write 0x401000n/);
    for (const symbol of ['', 5, 'a\0b']) assert.equal(withField({ symbol }), 'bad-symbol');
    for (const deadline of [0, -1, NaN, Infinity, '1', 1e12])
      assert.equal(withField({ deadline }), 'bad-deadline');
    for (const pathname of ['', 5, undefined, 'a\0b', 'x'.repeat(5000)])
      assert.equal(withField({ pathname }), 'bad-pathname');
  });

  void it('has no keys nobody knows, and mistyped ones are told', () => {
    assert.throws(() => checkSpec({ ...good, prehandler: () => undefined }), /did you mean preHandler\?/);
    assert.equal(withField({ nonsense: 1 }), 'unknown-key');
    assert.equal(withField({ nonsense: undefined }), 'ok');
  });

  void it('is an object', () => {
    for (const spec of [undefined, null, 5, 'libc:malloc', [good]]) assert.equal(codeOf(spec), 'bad-spec');
    assert.throws(() => checkSpecs(5), { code: 'bad-spec' });
    assert.throws(() => checkSpecs([]), { code: 'no-specs' });
    assert.throws(() => checkSpecs([good, { ...good, symbol: 5 }]), /specs\[1\]\.symbol/);
  });

  void it('says in which processes a handler runs', () => {
    const { processes: _, ...rest } = good;
    assert.equal(codeOf({ ...rest, preHandler: () => undefined }), 'processes-not-said');
    assert.throws(() => checkSpec({ ...rest, postHandler: () => undefined }), /processes: 'all'/);
    assert.equal(checkSpec(rest).processes, 'all');
    assert.equal(checkSpec({ ...rest, preHandler: () => undefined, processes: 'all' }).processes, 'all');
    assert.deepEqual(checkProcesses({ tree: 5 }), { tree: 5 });
    const wrong: readonly (readonly [unknown, string])[] = [
      ...[0, -1, 1.5, 1 << 23, [5, 0], { tree: 0 }].map((p) => [p, 'bad-pid'] as const),
      ...['some', {}, { tree: 5, pid: 6 }, null].map((p) => [p, 'bad-processes'] as const),
      [[], 'no-processes'],
    ];
    for (const [processes, code] of wrong)
      assert.throws(() => checkProcesses(processes), { name: 'SpecError', code }, JSON.stringify(processes));
  });

  void it('has handlers that are functions, and synchronous', () => {
    assert.equal(withField({ preHandler: 5 }), 'bad-function');
    assert.equal(withField({ onError: 'log' }), 'bad-function');
    assert.equal(withField({ preHandler: async () => undefined }), 'async-handler');
    assert.equal(withField({ postHandler: function* () {} }), 'async-handler');
    assert.equal(withField({ postHandler: async function* () {} }), 'async-handler');
    assert.throws(() => checkSpec({ ...good, preHandler: async () => undefined }), /TypeError/);
  });

  void it('that asks for what is not there yet is refused by name', () => {
    assert.equal(withField({ symbol: 'main%return' }), 'bad-symbol');
  });

  void it('has an engine, a signal and a trust of the right kinds', () => {
    assert.equal(withField({ engine: 'magic' }), 'bad-engine');
    assert.equal(withField({ engine: 'jump' }), 'ok');
    assert.equal(withField({ signal: {} }), 'bad-signal');
    assert.equal(withField({ signal: AbortSignal.abort() }), 'ok');
    assert.equal(withField({ trustPlace: 1 }), 'bad-boolean');
  });
});
