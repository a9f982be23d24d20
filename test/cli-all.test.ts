/** Commands without -p, --tree and a command: every process that maps the file. Only private copies are probed. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { Running, assertConforms, documentedSchema, jsonLines, linesOf, uprobe } from './helpers/cli.js';
import type { Finished } from './helpers/cli.js';
import { compileFixture, privateCopies, privateCopy } from './helpers/compile.js';
import { runToEnd, whyNoKernelEngine } from './helpers/kernel.js';
import { AS_NOBODY, openToAll, whyNotAsNobody } from './helpers/nobody.js';
import { until } from './helpers/running.js';

/** Run `uprobe` for all processes, something beside it once it has armed, and end it as Ctrl-C does. */
async function during(
  words: readonly string[],
  path: string,
  beside: () => void | Promise<void>,
): Promise<Finished> {
  const running = new Running(words);
  try {
    await until('its uprobes are there', () => isProbed(running, path));
    await beside();
  } finally {
    running.child.kill('SIGINT');
  }
  const finished = await running.end();
  assert.equal(finished.status, 0, finished.stderr);
  return finished;
}

/** By the kernel's own account of a link (fdinfo; Linux 6.17: with the path). */
function isProbed({ child }: Running, path: string): boolean {
  const directory = `/proc/${child.pid}/fdinfo`;
  return readdirSync(directory).some((fd) => {
    try {
      return readFileSync(join(directory, fd), 'utf8').includes(`\npath:\t${path}\n`);
    } catch {
      return false; // just closed
    }
  });
}

void describe('without -p, --tree and a command', { skip: whyNoKernelEngine() }, () => {
  void it('count has the hits of every process that comes and goes', async () => {
    const calls = privateCopy(compileFixture('calls'));
    let wanted = 0n;
    const { stdout, stderr } = await during(
      ['count', `${calls}:add`, `${calls}:fact%return`, '--json'],
      calls,
      () => {
        for (const rounds of ['1', '7', '30']) wanted += runToEnd(calls, rounds).count('add');
      },
    );
    const schema = documentedSchema('count');
    const lines = jsonLines(stdout);
    for (const line of lines) assertConforms(line, schema);
    assert.deepEqual(
      lines.map((l) => [l['hits'], l['missed']]),
      [
        [Number(wanted), 0],
        [Number(wanted) * 5, 0],
      ],
    );
    assert.equal(stderr, '');
  });

  void it('keeps processes apart that ran at the same time', async () => {
    const calls = privateCopy(compileFixture('calls'));
    const { stdout } = await during(['count', `${calls}:fact`, '--by', 'pid, comm', '--json'], calls, () => {
      runToEnd('/bin/sh', '-c', `'${calls}' 3 > /dev/null & '${calls}' 5 > /dev/null & wait`);
    });
    const lines = jsonLines(stdout);
    assert.deepEqual(
      lines.map((l) => l['hits']),
      [50, 30],
    );
    assert.equal(new Set(lines.map((l) => (l['by'] as { pid: number }).pid)).size, 2);
  });

  void it('trace has a line for every hit, with its arguments', async () => {
    const calls = privateCopy(compileFixture('calls'));
    const { stdout, stderr } = await during(
      ['trace', `${calls}:text`, '--args', 's=str(arg0), first=read(arg0, "u8"), none=read(8, "u32")'],
      calls,
      () => void runToEnd(calls, '10'),
    );
    const lines = linesOf(stdout);
    assert.equal(lines.length, 10);
    assert.match(
      lines[3]!,
      /^ +\d+\.\d{6} {2}(\d+)\/\1 {2}calls {2}calls:text {2}s="grüße" first=103 none=<unreadable>$/,
    );
    assert.match(lines[4]!, / s="a line\\nand a tab\\t" first=97 /);
    assert.equal(stderr, 'uprobe: 10 lines\n');
  });

  void it('trace ends after so many lines, and shows no more', () => {
    const calls = privateCopy(compileFixture('calls'));
    const words = ['trace', `${calls}:fact%return`, '-n', '7', '--json', '--engine', 'kernel'];
    const { status, stderr } = uprobe([...words, '--', calls, '1000']);
    assert.equal(status, 0, stderr);
    assert.equal(jsonLines(stderr).length, 7);
  });

  void it('latency and top time the calls of processes that come and go', async () => {
    const naps = privateCopy(compileFixture('naps'));
    const latency = await during(['latency', `${naps}:naps`, '--by', 'us=u32(arg0)', '--json'], naps, () => {
      for (let i = 0; i < 3; i++) runToEnd(naps);
    });
    const lines = jsonLines(latency.stdout);
    assert.deepEqual(
      lines.map((l) => [l['by'], l['count']]),
      [
        [{ us: 20000 }, 12],
        [{ us: 1000 }, 18],
      ],
    );
    assert.ok(BigInt(lines[0]!['minNs'] as string) >= 20_000_000n);
    const top = await during(['top', `${naps}:naps`, `${naps}:rests`], naps, () => void runToEnd(naps));
    assert.match(
      top.stdout,
      /^ +10 +\S+ +\S+ ms +\S+ ms {2}\S+:naps\n +1 +\S+ +\S+ ms +\S+ ms {2}\S+:rests$/m,
    );
  });

  void it('says when there was nothing', async () => {
    const naps = privateCopy(compileFixture('naps'));
    const words = ['--duration', '0.2'];
    assert.equal(uprobe(['hist', `${naps}:naps`, 'arg0', ...words]).stderr, 'uprobe: no hits\n');
    assert.equal(uprobe(['trace', `${naps}:naps`, ...words]).stderr, 'uprobe: 0 lines\n');
    assert.match(uprobe(['count', `${naps}:naps`, ...words]).stdout, /^ *0 +0 {2}\S+:naps$/m);
  });

  void it('never shows hits of its own process', async () => {
    const [node] = privateCopies(process.execPath);
    const own = new Running(['count', `${node}:uv_hrtime`, '--by', 'pid', '--json'], node);
    try {
      await until('its uprobes are there', () => isProbed(own, node!));
      const { pid, status } = spawnSync(node!, ['-e', 'setTimeout(() => {}, 20)']);
      assert.equal(status, 0);
      own.child.kill('SIGINT');
      const pids = jsonLines((await own.end()).stdout).map((l) => (l['by'] as { pid: number }).pid);
      assert.deepEqual(pids, [pid]);
    } finally {
      own.child.kill('SIGKILL');
    }
  });

  void it('stays bounded where nobody reads, and tells what was dropped', async () => {
    const hammer = privateCopy(compileFixture('calls'));
    const running = new Running(['trace', `${hammer}:fact`, '--args', 'n=arg0']);
    running.child.stdout!.pause();
    await until('its uprobes are there', () => isProbed(running, hammer));
    const wanted = Number(runToEnd(hammer, '30000').count('fact'));
    running.child.stdout!.resume();
    running.child.kill('SIGINT');
    const { status, stdout, stderr } = await running.end();
    assert.equal(status, 0);
    const [lines, ...others] = [...stderr.matchAll(/(\d+) (?:lines|more were)/g)].map((m) => Number(m[1]));
    assert.equal(linesOf(stdout).length, lines);
    assert.ok(others.length > 0, stderr);
    assert.equal(
      others.reduce((a, b) => a + b, lines!),
      wanted,
      stderr,
    );
  });

  void it('refuses by name what the kernel cannot do', () => {
    const calls = privateCopy(compileFixture('calls'));
    const refused = (words: readonly string[], message: RegExp): void => {
      const { status, stdout, stderr } = uprobe(words);
      assert.deepEqual([status, stdout], [2, ''], stderr);
      assert.match(stderr, message);
      assert.match(stderr, /-p PID, --tree PID, or a command after --|--engine trap/);
    };
    refused(['trace', `${calls}:mixed`, '--args', 'x=farg0'], /no floating-point numbers/);
    refused(['count', `${calls}:mixed`, '--if', 'f32arg1 > 1.0'], /no floating-point numbers/);
    refused(['trace', `${calls}:text`, '--args', 'b=buf(arg0, 4)'], /b is shown as bytes/);
    refused(['trace', `${calls}:text`, '--post'], /in all processes: .* post handler/);
    refused(['count', `${calls}:text`, '--engine', 'trap'], /say which processes: /);
    refused(['count', `${calls}:text`, '-f'], /-f is for descendants/);
  });
});

void describe('under both engines', { skip: whyNoKernelEngine() }, () => {
  const calls = privateCopy(compileFixture('calls'));
  const run = (engine: string, words: readonly string[]): Finished =>
    uprobe([...words, '--json', '--engine', engine, '--', calls, '20']);
  const commands: readonly (readonly string[])[] = [
    ['hist', `${calls}:add`, 'i64(arg0)'],
    ['hist', `${calls}:add`, 'i64(arg1)', '--linear', '-20:40:7', '--by', 'odd=arg0 & 1'],
    ['hist', `${calls}:fact%return`, 'retval', '--if', 'arg0 % 2 == 1'],
    ['count', `${calls}:add`, `${calls}:fact`, '--if', 'arg0 > 5'],
    ['count', `${calls}:text`, '--by', 's=str(arg0), n=read(arg0, "u8")'],
    ['count', `${calls}:small`, '--by', 'a=i8(arg0), b=u16(arg1), c=arg2 != 0, h=hex(arg1)'],
    ['count', `${calls}:*`, '--if', 'comm == "calls" && pid == tid'],
    ['count', `${calls}:many`, '--by', 'arg5, arg6, x=arg0 > 10 ? arg1 : arg2 * 2'],
    [
      'trace',
      `${calls}:text`,
      `${calls}:fact%return`,
      '--args',
      's=str(arg0, 3), n=read(arg0, "i8") % 100, h=hex(read(arg0, "i16"))',
      '--if',
      'arg0 > 3 && cpu < 4096',
    ],
  ];
  for (const words of commands)
    void it(`${words.join(' ').replaceAll(calls, 'calls')}: the same`, () => {
      const [trap, kernel] = ['trap', 'kernel'].map((engine) => {
        const { status, stderr } = run(engine, words);
        assert.equal(status, 0, stderr);
        return jsonLines(stderr).map((l) => JSON.stringify({ ...l, time: 0, pid: 0, tid: 0, durationNs: 0 }));
      });
      assert.ok(trap!.length > 0);
      assert.deepEqual(kernel!.toSorted(), trap!.toSorted()); // prettier-ignore
    });
});

void describe('who may not load programs', { skip: whyNotAsNobody() }, () => {
  void it('is told what to do', () => {
    const calls = openToAll(privateCopy(compileFixture('calls')));
    for (const probe of [`${calls}:add`, `${calls}:*`]) {
      const { status, stderr } = uprobe(['count', probe], { wrapper: AS_NOBODY, cwd: '/' });
      assert.equal(status, 2);
      assert.match(stderr, /sudo[^]*-p PID, --tree PID, or a command after --\n$/);
    }
    const named = uprobe(['count', `${calls}:add`, '--', calls], { wrapper: AS_NOBODY, cwd: '/' });
    assert.equal(named.status, 0, named.stderr);
  });
});
