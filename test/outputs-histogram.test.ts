/** Histograms and stats as lines. */
import { describe, it } from 'node:test';
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { histogram, linearHistogram, stats } from 'uprobe';
import { histogramLines, powerText } from '#uprobe/outputs/histogram.js';
import { statsLine } from '#uprobe/outputs/stats-line.js';
import { durationText } from '#uprobe/outputs/trace-line.js';

/** What bpftrace prints of a map, without its name; undefined where it cannot run. */
function bpftrace(additions: readonly string[]): string[] | undefined {
  const program = `BEGIN { ${additions.map((call) => `@ = ${call};`).join(' ')} exit(); }`;
  const { status, stdout } = spawnSync('bpftrace', ['-e', program], { encoding: 'utf8', timeout: 60_000 });
  if (status !== 0) return undefined;
  return stdout.split('\n').filter((line) => /^[[(]/.test(line));
}
const skip = bpftrace(['hist(1)']) === undefined && 'bpftrace cannot run here';

void describe('A histogram in lines', () => {
  void it("is the same as bpftrace's of the same values", { skip }, () => {
    // bpftrace 0.17 has no buckets above 2G
    const values = [-5, -1, 0, 1, 1, 2, 3, 700, 700, 700, 1023, 1024, 5000, 1_048_576, 2 ** 30];
    const ours = histogram();
    for (const value of values) ours.add(value);
    assert.deepEqual(histogramLines(ours.buckets(), 80), bpftrace(values.map((value) => `hist(${value})`)));
  });

  void it("is the same as bpftrace's of the same values where it is linear", { skip }, () => {
    for (const [min, max, step] of [
      [0, 100, 10],
      [1, 10_000, 2047],
      [1024, 10 * 1024, 512],
    ] as const) {
      const values = [min, min + step - 1, min + step, min + step, min + 3 * step + 1];
      const inRange = linearHistogram({ min, max, step });
      for (const value of values) inRange.add(value);
      const lines = (all: readonly number[]): string[] | undefined =>
        bpftrace(all.map((value) => `lhist(${value}, ${min}, ${max}, ${step})`));
      assert.deepEqual(histogramLines(inRange.buckets(), 80), lines(values));
      const all = linearHistogram({ min, max, step });
      const beyond = [min - 1, min - 1, max + step];
      for (const value of beyond) all.add(value);
      assert.deepEqual(histogramLines(all.buckets(), 80).at(0), lines(beyond)?.at(0));
    }
  });

  void it('fits a terminal of any width', () => {
    const h = histogram();
    for (const value of [-1, 0, 5, 5, 2n ** 63n]) h.add(value);
    for (let columns = 1; columns < 200; columns++) {
      const lines = histogramLines(h.buckets(), columns);
      const widths = new Set(lines.map((line) => line.length));
      assert.equal(widths.size, 1);
      const [width] = [...widths];
      if (lines[0]!.includes('|')) assert.ok(width! < columns && width! <= 79, `${columns}: ${width}`);
      else assert.ok(columns < 32);
    }
    assert.deepEqual(histogramLines(h.buckets().slice(0, 5), 40), [
      '(..., 0)               1 |@@@@@@      |',
      '[0]                    1 |@@@@@@      |',
      '[1]                    0 |            |',
      '[2, 4)                 0 |            |',
      '[4, 8)                 2 |@@@@@@@@@@@@|',
    ]);
    assert.match(histogramLines(h.buckets(), 80).at(-1)!, /^\[8E, \.\.\.\) +1 /);
  });

  void it('of nothing is no line', () => {
    assert.deepEqual(histogramLines(histogram().buckets(), 80), []);
  });

  void it('can have limits that are durations, and long ones', () => {
    const h = histogram();
    h.add(1500);
    assert.match(histogramLines(h.buckets(), 80, durationText)[0]!, /^\[1\.02 µs, 2\.05 µs\) +1 \|@+\|$/);
    const long = linearHistogram({ min: 1_234_567_891, max: 9_234_567_891, step: 1_000_000_001 });
    for (const value of [1_300_000_000, 0]) long.add(value);
    const lines = histogramLines(long.buckets(), 80);
    assert.deepEqual(
      lines.map((line) => [line.length, line.indexOf('|')]),
      [
        [79, 34],
        [79, 34],
      ],
    );
  });

  void it('has no suffix where it would not be exact', () => {
    assert.deepEqual(
      [0n, 1n, 1000n, 1024n, 1536n, 3n << 20n, 1n << 64n, -2048n, (1n << 30n) + 1n].map(powerText),
      ['0', '1', '1000', '1K', '1536', '3M', '16E', '-2K', '1073741825'],
    );
  });
});

void it('Stats are one line, of numbers or durations', () => {
  const s = stats();
  assert.equal(statsLine(s), 'count 0');
  for (const value of [1000, 2000, 4000]) s.add(value);
  assert.equal(statsLine(s), 'count 3  mean 2333.33  min 1000  max 4000  sum 7000');
  assert.equal(statsLine(s, durationText), 'count 3  mean 2.33 µs  min 1.00 µs  max 4.00 µs  sum 7.00 µs');
});
