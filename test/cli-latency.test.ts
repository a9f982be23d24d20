import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  Running,
  assertConforms,
  assertRefused,
  documentedSchema,
  jsonLines,
  uprobe,
} from './helpers/cli.js';
import { compileFixture, privateCopy } from './helpers/compile.js';

/** `naps` is called six times for 1 ms, four times for 20 ms; `rests` calls it twice. */
const naps = privateCopy(compileFixture('naps'));
const MS = 1_000_000n;

interface Line {
  readonly probe: string;
  readonly by?: Readonly<Record<string, unknown>>;
  readonly count: number;
  readonly sumNs: string;
  readonly minNs: string;
  readonly maxNs: string;
  readonly meanNs: number;
  readonly buckets: readonly { readonly from: string; readonly to: string; readonly count: number }[];
}

function latencies(...words: string[]): Line[] {
  const { status, stderr } = uprobe(['latency', ...words, '--json', '--', naps]);
  assert.equal(status, 0, stderr);
  const schema = documentedSchema('latency');
  const lines = jsonLines(stderr);
  for (const line of lines) assertConforms(line, schema);
  return lines as unknown as Line[];
}

void describe('uprobe latency', () => {
  void it('times every call, from entry to return', () => {
    const lines = latencies(`${naps}:naps`, `${naps}:rests%return`);
    const [rests, all] = lines.toSorted((a, b) => a.count - b.count);
    assert.deepEqual([rests!.count, all!.count], [1, 10]);
    assert.ok(BigInt(rests!.minNs) >= 21n * MS);
    assert.ok(BigInt(all!.minNs) >= MS && BigInt(all!.minNs) < 20n * MS);
    assert.ok(BigInt(all!.maxNs) >= 20n * MS);
    assert.ok(BigInt(all!.sumNs) >= 86n * MS);
    assert.equal(all!.meanNs, Number(all!.sumNs) / 10);
    assert.equal(
      all!.buckets.reduce((sum, b) => sum + b.count, 0),
      10,
    );
    // 20 ms and more are beyond 2^24 ns
    const long = all!.buckets.filter((b) => Number(b.from) >= 2 ** 24);
    assert.ok(long.reduce((sum, b) => sum + b.count, 0) >= 4);
  });

  void it('takes conditions and keys of arguments at the entry and of what is returned', () => {
    const [one, ...none] = latencies(`${naps}:naps`, '--if', 'arg0 == 20000 && i64(retval) == -20000');
    assert.deepEqual([one!.count, none], [4, []]);
    const byArgument = latencies(`${naps}:naps`, '--by', 'us=u32(arg0)');
    assert.deepEqual(
      byArgument.map((l) => [l.by, l.count]),
      [
        [{ us: 20000 }, 4],
        [{ us: 1000 }, 6],
      ],
    );
    const [slow] = latencies(
      `${naps}:naps`,
      '--if',
      'duration >= 20_000_000',
      '--linear',
      '0:20000000:1000000',
    );
    assert.ok(slow!.count >= 4);
    assert.deepEqual(
      slow!.buckets.map((b) => b.from),
      ['20000000'],
    );
  });

  void it('shows durations to people, with count, mean, least and greatest', () => {
    const { status, stderr } = uprobe(['latency', `${naps}:n?ps`, '--', naps]);
    assert.equal(status, 0);
    assert.ok(stderr.includes(`\n@[${naps}:naps]:\n`), stderr);
    assert.match(stderr, /^\[\d\S* [µm]s, \d\S* [µm]s\) +\d+ \|@*/m);
    assert.match(stderr, /^count 10 {2}mean \S+ ms {2}min \S+ ms {2}max \S+ ms {2}sum \S+ ms$/m);
  });

  void it('shows at Ctrl-C what there is', async () => {
    const running = new Running(['latency', `${naps}:naps`, '--json', '--', naps, '30']);
    await new Promise((resolve) => setTimeout(resolve, 1500));
    running.child.kill('SIGINT');
    const { stderr } = await running.end();
    const [line] = jsonLines(stderr.split('\n')[0]!) as unknown as Line[];
    assert.ok(line!.count > 0 && line!.count < 10_000, stderr);
  });

  void it('refuses what is no function', () => {
    for (const place of ['naps+4', '0x1000', 'naps+*'])
      assertRefused(
        ['latency', `${naps}:${place}`, '--', naps],
        /calls are timed from the entry of a function/,
      );
    assertRefused(['latency', '--', naps], /missing required argument 'PROBE'/);
    assertRefused(
      ['latency', `${naps}:naps`, '--if', 'farg0 > 1', '--', naps],
      /farg0 is gone when a function returns/,
    );
  });
});
