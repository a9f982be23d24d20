import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { Running, assertConforms, documentedSchema, jsonLines, uprobe } from './helpers/cli.js';
import { compileFixture, privateCopy, repositoryRoot } from './helpers/compile.js';
import { startProgram } from './helpers/running.js';

const naps = privateCopy(compileFixture('naps'));
const calls = privateCopy(compileFixture('calls'));

interface Line {
  readonly seconds: number;
  readonly symbol: string;
  readonly count: number;
  readonly rate: number;
  readonly sumNs?: string;
  readonly meanNs?: number;
  readonly by?: Readonly<Record<string, unknown>>;
}

function top(words: readonly string[], command: readonly string[]): Line[] {
  const { status, stderr } = uprobe(['top', ...words, '--json', '--', ...command]);
  assert.equal(status, 0, stderr);
  return conforming(stderr);
}

function conforming(text: string): Line[] {
  const schema = documentedSchema('top');
  const lines = jsonLines(text);
  for (const line of lines) assertConforms(line, schema);
  return lines as unknown as Line[];
}

void describe('uprobe top', () => {
  void it('shows calls, rates, total and mean times, the longest first', () => {
    const lines = top([`${naps}:naps`, `${naps}:rest*`], [naps]);
    assert.deepEqual(
      lines.map((l) => [l.symbol, l.count]),
      [
        ['naps', 10],
        ['rests', 1],
      ],
    );
    for (const { count, rate, seconds, sumNs, meanNs } of lines) {
      assert.ok(Math.abs(rate - count / seconds) < 0.2 * rate, `${rate} ${count} ${seconds}`);
      assert.equal(meanNs, Number(sumNs) / count);
    }
    assert.ok(BigInt(lines[0]!.sumNs!) >= 86_000_000n);
    const { stderr } = uprobe(['top', `${naps}:naps`, `${naps}:rests`, `${naps}:main`, '--', naps]);
    assert.match(stderr, /^CALLS +RATE\/S +TOTAL +MEAN +PROBE\n +1 +\S+ +\S+ ms +\S+ ms +\S+:main\n +10 /m);
  });

  void it('counts only, at any place, where no times are wanted', () => {
    const { stdout } = spawnSync(calls, { encoding: 'utf8' });
    const told = Object.fromEntries([...stdout.matchAll(/(\w+)=(\d+)/g)].map((m) => [m[1]!, Number(m[2])]));
    const lines = top([`${calls}:*`, '--no-times'], [calls]);
    for (const name of ['add', 'fact', 'many', 'mixed', 'text', 'point_sum', 'by_value', 'variadic', 'small'])
      assert.equal(lines.find((l) => l.symbol === name)?.count, told[name], name);
    assert.equal(lines[0]!.symbol, 'fact');
    assert.ok(lines.every((l) => l.sumNs === undefined && l.meanNs === undefined));
    const { stderr } = uprobe(['top', `${calls}:add+*`, '--no-times', '--', calls]);
    assert.match(stderr, /^HITS +RATE\/S +PROBE\n +20 /m);
  });

  void it('keeps rows apart by keys, and takes conditions', () => {
    const lines = top([`${naps}:naps`, '--by', 'us=u32(arg0)', '--if', 'arg0 > 0'], [naps]);
    assert.deepEqual(
      lines.map((l) => [l.by, l.count]),
      [
        [{ us: 20000 }, 4],
        [{ us: 1000 }, 6],
      ],
    );
    const counted = top([`${calls}:fact`, '--no-times', '--by', 'n=u8(arg0)', '--if', 'arg0 >= 9'], [calls]);
    assert.deepEqual(
      counted.map((l) => [l.by, l.count]),
      [
        [{ n: 10 }, 10],
        [{ n: 9 }, 10],
      ],
    );
  });

  void it('writes every so often where that is asked for, with the rates since', async () => {
    const running = new Running(['top', `${naps}:naps`, '--interval', '0.3', '--json', '--', naps, '8']);
    const { status, stderr } = await running.end();
    assert.equal(status, 0, stderr);
    const lines = conforming(stderr);
    assert.ok(lines.length >= 3, stderr);
    assert.ok(lines.every((l, i) => i === 0 || l.seconds >= lines[i - 1]!.seconds));
    assert.equal(lines.at(-1)!.count, 80);
    const [first, second] = lines;
    const since = (second!.count - first!.count) / (second!.seconds - first!.seconds);
    assert.ok(Math.abs(second!.rate - since) < 0.3 * since + 1, `${second!.rate} ${since}`);
  });

  void it(
    'is drawn in place on a terminal, no wider and no higher than it is',
    { skip: !existsSync('/usr/bin/script') && 'script(1) is not installed' },
    async () => {
      const loop = privateCopy(compileFixture('loop'));
      const running = await startProgram(loop, ['slow']);
      const main = join(repositoryRoot, 'dist', 'bin', 'uprobe.js');
      const words = `top '${loop}:*' --no-times -p ${running.pid} --interval 0.2 --duration 1.2`;
      const command = `stty rows 6 columns 60; '${process.execPath}' '${main}' ${words}`;
      const { stdout } = spawnSync('script', ['-qec', command, '/dev/null'], {
        encoding: 'utf8',
        timeout: 30_000,
      });
      await running.finish();
      const pictures = [...stdout.matchAll(/\x1b\[\?7l([^]*?)\x1b\[\?7h/g)].map((m) => m[1]!);
      assert.ok(pictures.length >= 3, stdout);
      for (const picture of pictures) {
        const lines = picture.split('\r\n').filter((l) => l !== '');
        assert.ok(lines.length <= 5 && lines.every((l) => l.length <= 60), picture);
        assert.match(lines[0]!, /^ *HITS +RATE\/S +PROBE/);
      }
      assert.match(pictures.at(-1)!, /^ *[1-9]\d+ +[1-9]\d\d+ {2}\S+loop:tick$/m);
    },
  );
});
