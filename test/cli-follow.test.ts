/** The command line with processes that make processes. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, it } from 'node:test';
import { Running, jsonLines, linesOf, uprobe } from './helpers/cli.js';
import { compileFixture, privateCopy } from './helpers/compile.js';
import { until } from './helpers/running.js';

const compiled = compileFixture('family');
const CALLS = 10;
const totalOf = (stdout: string): number => Number(/total=(\d+)/.exec(stdout)?.[1]);

void describe('--follow', () => {
  void it('counts the hits of all children as one; without it those of the command alone', () => {
    const family = privateCopy(compiled);
    const args = (option: string): string[] => ['count', '--json', ...(option ? [option] : []), `${family}:work`, '--', family, 'fork', '20']; // prettier-ignore
    for (const [option, expected] of [
      ['-f', 210],
      ['--follow', 210],
      ['', CALLS],
    ] as const) {
      const { status, stdout, stderr } = uprobe(args(option));
      assert.equal(status, 0, stderr);
      assert.equal(totalOf(stdout), 210);
      assert.deepEqual(jsonLines(stderr).map((l) => [l['hits'], l['missed']]), [[expected, 0]]); // prettier-ignore
    }
  });

  void it('has a line for each hit, with the process it is from', () => {
    const family = privateCopy(compiled);
    const { stdout, stderr } = uprobe([
      'trace',
      '-f',
      `${family}:work`,
      '--args',
      'n=arg0',
      '--',
      family,
      'deep',
      '3',
    ]);
    assert.equal(totalOf(stdout), 4 * CALLS);
    const lines = linesOf(stderr).filter((line) => line.includes('family:work'));
    const pids = lines.map(
      (line) => /^ *[\d.]+ {2}(\d+)\/\1 {2}family {2}family:work {2}n=\d$/.exec(line)?.[1],
    );
    assert.equal(lines.length, 4 * CALLS, stderr);
    assert.equal(new Set(pids).size, 4);
    assert.ok(!pids.includes(undefined), stderr);
    assert.match(stderr, /^uprobe: 40 lines$/m);
  });

  void it('goes on until the last of them has ended, and exits as the command did', () => {
    const family = privateCopy(compiled);
    const script = `"$0" orphans 5; exit 3`;
    const { status, stdout, stderr } = uprobe([
      'count',
      '-f',
      `${family}:work`,
      '--',
      'sh',
      '-c',
      script,
      family,
    ]);
    assert.equal(status, 3, stderr);
    assert.equal(totalOf(stdout), 6 * CALLS);
    assert.match(stderr, /^ {2}60 +0 {2}/m);
  });

  void it('says of a file that none of them maps that nobody did', () => {
    const family = privateCopy(compiled);
    const { stderr } = uprobe(['count', '-f', `${family}:work`, '--', 'sh', '-c', 'true; true']);
    assert.match(stderr, /was never mapped by 'sh' or a process that it made/);
  });

  void it('finds a program behind two shells and an exec', () => {
    const family = privateCopy(compiled);
    const script = `sh -c 'exec "$0" bomb 3' "$0" | cat`;
    const { stdout, stderr } = uprobe(['count', '-f', `${family}:work`, '--', 'bash', '-c', script, family]);
    assert.equal(totalOf(stdout), 4 * CALLS);
    assert.match(stderr, /^ {2}40 +0 {2}/m);
  });
});

void describe('a tree that exists already', () => {
  for (const words of [['--tree'], ['-f', '-p']])
    void it(`is probed with ${words.join(' ')}: the root, the children that it has, and those to come`, async () => {
      const loop = privateCopy(compileFixture('loop'));
      // Not Node's own child: those are not for a tracer. The shell waits for two, and starts a third at the end.
      const script =
        'echo pid $$; exec 3<&0; "$0" slow <&3 & "$0" slow <&3 & wait; exec "$0" slow 5 </dev/null';
      const shell = spawn('sh', ['-c', 'bash -c "$1" "$0"; echo left', loop, script]);
      let output = '';
      shell.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
      await until('both run', () => [...output.matchAll(/ready/g)].length === 2);
      const pid = /pid (\d+)/.exec(output)![1]!;
      const run = new Running(['trace', '--json', ...words, pid, `${loop}:tick`]);
      const pids = (): Set<unknown> =>
        new Set(jsonLines(run.stdout.replace(/[^\n]*$/, '')).map((l) => l['pid']));
      await run.until('both are hit', () => pids().size === 2);
      shell.stdin.end();
      await once(shell, 'close');
      const { status, stderr } = await run.end();
      assert.equal(status, 0, stderr);
      assert.equal(pids().size, 3, 'the root, which executed the program at last');
      assert.ok(pids().has(Number(pid)));
      const own = jsonLines(run.stdout).filter((l) => l['pid'] === Number(pid));
      assert.equal(own.length, 5);
      assert.match(output, /left/);
    });

  void it('given twice, or with one of its descendants, has one line for each hit', async () => {
    const loop = privateCopy(compileFixture('loop'));
    const shell = spawn('sh', ['-c', 'bash -c \'echo pid $$; exec 3<&0; "$0" slow <&3 & wait\' "$0"', loop]);
    let output = '';
    shell.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
    await until('it runs', () => /ready \d+/.test(output));
    const [root, child] = [/pid (\d+)/, /ready (\d+)/].map((re) => re.exec(output)![1]!) as [string, string];
    const args = ['--tree', root, '--tree', `${root},${child}`, '-p', child, `${loop}:tick`, '-n', '20'];
    const { stdout } = uprobe(['trace', '--json', '--args', 'n=arg0', ...args]);
    const seen = jsonLines(stdout).map((l) => JSON.stringify(l['args']));
    assert.equal(new Set(seen).size, 20, 'each tick once');
    shell.stdin.end();
    await once(shell, 'close');
    assert.match(output, /wrong=0/);
  });

  void it('several of them are one row of count', async () => {
    const loop = privateCopy(compileFixture('loop'));
    const shell = spawn('sh', [
      '-c',
      'exec 3<&0; "$0" slow <&3 & "$0" slow <&3 & "$0" slow <&3 & wait',
      loop,
    ]);
    let output = '';
    shell.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
    await until('all run', () => [...output.matchAll(/ready \d+\n/g)].length === 3);
    const [a, b, c] = [...output.matchAll(/ready (\d+)/g)].map((m) => m[1]!) as [string, string, string];
    const run = new Running(['count', '--json', '--tree', a, '--tree', b, '-p', c, `${loop}:tick`]);
    await new Promise((resolve) => setTimeout(resolve, 4000));
    shell.stdin.end();
    await once(shell, 'close');
    const { stdout, stderr } = await run.end();
    const [row, ...more] = jsonLines(stdout);
    assert.deepEqual(more, [], stderr);
    assert.ok(Number(row?.['hits']) > 10, stdout);
    assert.equal(row?.['implementations'], undefined);
    assert.equal([...output.matchAll(/wrong=0/g)].length, 3);
  });
});
