import { after, describe, it } from 'node:test';
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Running, assertConforms, documentedSchema, jsonLines, linesOf, uprobe } from './helpers/cli.js';
import type { Finished } from './helpers/cli.js';
import { compileFixture, privateCopy, temporaryDirectory } from './helpers/compile.js';
import { startProgram, type RunningProgram } from './helpers/running.js';

const copyOf = (name: string): string => privateCopy(compileFixture(name));
const started: ChildProcess[] = [];
after(() => {
  for (const child of started) child.kill('SIGKILL');
});

/** A process of ours that calls `tick` about every millisecond until its stdin is closed. */
async function ticker(path: string): Promise<{ pid: number; end(): Promise<string> }> {
  const child = spawn(path, ['slow'], { stdio: ['pipe', 'pipe', 'inherit'] });
  started.push(child);
  let stdout = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  while (!stdout.includes('\n')) await once(child.stdout, 'data');
  return {
    pid: child.pid!,
    async end() {
      const closed = once(child, 'close');
      child.stdin.end();
      await closed;
      return stdout;
    },
  };
}

/** It went on unharmed: it still runs, and ends by itself with its own words. */
async function assertUnharmed(process: { end(): Promise<string> }): Promise<void> {
  assert.match(await process.end(), /^ready \d+\nticks=\d+ wrong=0\n$/);
}

function assertSame(probed: Finished, command: string, args: readonly string[], input = ''): void {
  const plain = spawnSync(command, args, { input, encoding: 'utf8' });
  assert.deepEqual([probed.status, probed.signal, probed.stdout], [plain.status, plain.signal, plain.stdout]);
}

void describe('uprobe trace of a command', () => {
  const calls = copyOf('calls');

  void it('writes a line for every hit to stderr, and leaves the command its output and status', () => {
    const result = uprobe(['trace', `${calls}:add`, '--args', 'a=i64(arg0), b=i64(arg1)', '--', calls, '3']);
    assertSame(result, calls, ['3']);
    const lines = linesOf(result.stderr);
    assert.equal(lines.length, 7);
    assert.match(lines[0]!, /^ +\d+\.\d{6} {2}(\d+)\/\1 {2}calls {2}calls:add {2}a=0 b=1$/);
    assert.match(lines[1]!, / a=0 b=-4611686018427387904$/);
    assert.match(lines[4]!, / a=2 b=5$/);
    assert.equal(lines[6], 'uprobe: 6 lines');
  });

  void it('shows strings, floating-point numbers, memory and what cannot be read', () => {
    const { stderr } = uprobe([
      'trace',
      `${calls}:text`,
      '--args',
      's=str(arg0), two=str(arg0, 2), b=buf(arg0, 1), wild=read(8, "u32")',
      '--',
      calls,
      '5',
    ]);
    const lines = linesOf(stderr);
    assert.match(lines[2]!, / s="hello" two="he" b=68 wild=<unreadable>$/);
    assert.match(lines[3]!, / s="grüße" two="gr" b=67 /);
    assert.match(lines[4]!, / s="a line\\nand a tab\\t" /);
    const mixed = uprobe([
      'trace',
      `${calls}:mixed`,
      '--args',
      'x0=farg0, x1=f32arg1, b=arg1',
      '--',
      calls,
      '1',
    ]);
    assert.match(mixed.stderr, / x0=0\.5 x1=1\.5 b=2\n/);
  });

  void it('reads the arguments on the stack', () => {
    const { stderr } = uprobe(['trace', `${calls}:many`, '--args', 'arg5, arg6, arg9', '--', calls, '1']);
    assert.match(stderr, / arg5=6 arg6=7 arg9=10\n/);
  });

  void it('writes JSON lines as documented, with every bit', () => {
    const args =
      'wide=arg1, narrow=i32(arg1), yes=arg0 == 0, text=comm, none=str(8), real=farg0, shown=hex(arg1)';
    const file = join(temporaryDirectory(), 'lines');
    const result = uprobe(['trace', '--json', '-o', file, `${calls}:add`, '--args', args, '--', calls, '1']);
    assert.equal(result.stderr, '');
    const lines = jsonLines(readFileSync(file, 'utf8'));
    assert.equal(lines.length, 2);
    const schema = documentedSchema('trace');
    for (const line of lines) assertConforms(line, schema);
    assert.deepEqual(
      { ...lines[1], time: '', pid: 0, tid: 0, offset: 0 },
      {
        time: '',
        pid: 0,
        tid: 0,
        comm: 'calls',
        probe: `${calls}:add`,
        symbol: 'add',
        offset: 0,
        kind: 'pre',
        args: {
          wide: '13835058055282163712',
          narrow: 0,
          yes: true,
          text: 'calls',
          none: null,
          real: (lines[1]!['args'] as { real: unknown }).real,
          shown: '0xc000000000000000',
        },
      },
    );
    assert.ok(BigInt(lines[1]?.['time'] as string) > BigInt(lines[0]?.['time'] as string));
  });

  void it('looks after the instruction with --post', () => {
    const { stderr } = uprobe([
      'trace',
      '--json',
      '--post',
      `${calls}:add`,
      '--args',
      'ip=regs.ip',
      '--',
      calls,
      '1',
    ]);
    const pre = uprobe(['trace', '--json', `${calls}:add`, '--args', 'ip=regs.ip', '--', calls, '1']).stderr;
    const [line] = jsonLines(stderr);
    assert.equal(line?.['kind'], 'post');
    const low = (lines: Record<string, unknown>[]): bigint =>
      BigInt((lines[0]!['args'] as { ip: string }).ip) & 0xfffn;
    assert.ok(low([line]) > low(jsonLines(pre)), 'the instruction has run');
  });

  void it('ends after exactly N lines, whoever hits how often', () => {
    for (const n of [1, 3, 1000]) {
      const { stderr, status } = uprobe(['trace', '-n', String(n), `${calls}:fact`, '--', calls, '500']);
      const lines = linesOf(stderr).filter((line) => line.includes('calls:fact'));
      assert.equal(lines.length, n);
      assert.equal(status, 0);
    }
  });

  void it('passes its stdin on untouched', () => {
    const echo = copyOf('stdin_echo');
    const input = 'one\ntwo\n\x00\x1b[31mthree\n'.repeat(50);
    const result = uprobe(['trace', `${echo}:echo_line`, '--args', 'n=arg1', '--', echo, '7'], { input });
    assertSame(result, echo, ['7'], input);
    assert.equal(result.status, 7);
    assert.match(result.stderr, /lines=150\n/, "the command's own words are on stderr too");
    assert.equal(linesOf(result.stderr).filter((line) => line.includes('stdin_echo:echo_line')).length, 150);
  });

  void it('passes arguments on that look like our own', () => {
    const { stdout } = uprobe(['count', 'libc:malloc', '--', 'echo', '-p', '--json', '--', '-n', '3']);
    assert.equal(stdout, '-p --json -- -n 3\n');
  });

  void it('exits as the command exits, and dies as it dies', () => {
    const exits = copyOf('exits');
    for (const way of [
      ['code', '0'],
      ['code', '3'],
      ['_exit', '255'],
      ['signal', '15'],
      ['signal', '9'],
      ['signal', '10'],
      ['fault'],
      ['abort'],
    ]) {
      const result = uprobe(['trace', `${exits}:work`, '-o', '/dev/null', '--', exits, ...way]);
      const plain = spawnSync(exits, way);
      const expected = shellStatus(plain.status, plain.signal);
      assert.equal(shellStatus(result.status, result.signal), expected, way.join(' '));
      if (way[0] === 'signal') assert.equal(result.signal, plain.signal);
    }
  });

  void it('works on programs not written for it', () => {
    const ls = uprobe(['trace', 'libc:malloc', '--args', 'size=arg0', '--', 'ls', '/']);
    assertSame(ls, 'ls', ['/']);
    assert.match(ls.stderr, / ls {2}libc\.so\.6:malloc {2}size=\d+\n/);
    const script = 'for i in 1 2 3; do echo $i; done; exit 4';
    const bash = uprobe(['count', '--json', 'bash:echo_builtin', '--', 'bash', '-c', script]);
    assertSame(bash, 'bash', ['-c', script]);
    assert.equal(jsonLines(bash.stderr)[0]?.['hits'], 3);
  });

  void it('works on sqlite3', { skip: !existsSync('/usr/bin/sqlite3') && 'sqlite3 is not installed' }, () => {
    const statements = 'create table t(x); insert into t values (1), (2); select sum(x) from t;';
    const result = uprobe([
      'trace',
      'libsqlite3:sqlite3_prepare_v2',
      '--args',
      'sql=str(arg1, 18)',
      '--',
      'sqlite3',
      ':memory:',
      statements,
    ]);
    assertSame(result, 'sqlite3', [':memory:', statements]);
    assert.match(
      result.stderr,
      / sqlite3 {2}libsqlite3\.so[.\d]*:sqlite3_prepare_v2 {2}sql="create table t\(x\);"/,
    );
  });
});

const signals: Readonly<Record<string, number>> = {
  SIGTERM: 15,
  SIGKILL: 9,
  SIGUSR1: 10,
  SIGSEGV: 11,
  SIGABRT: 6,
};
const shellStatus = (status: number | null, signal: string | null): number =>
  signal === null ? status! : 128 + signals[signal]!;

void describe('uprobe trace of a process that runs', () => {
  const loop = copyOf('loop');

  void it('writes to stdout, ends after its time, and leaves the process as it was', async () => {
    const target = await ticker(loop);
    const before = performance.now();
    const { status, stdout, stderr } = uprobe([
      'trace',
      `${loop}:tick`,
      '-p',
      String(target.pid),
      '--duration',
      '0.5',
    ]);
    assert.ok(performance.now() - before < 10_000);
    assert.equal(status, 0, stderr);
    assert.ok(linesOf(stdout).length > 20);
    assert.match(stderr, /^uprobe: \d+ lines\n$/);
    await assertUnharmed(target);
  });

  void it('ends at Ctrl-C, also when it is pressed again and again', async () => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const) {
      const target = await ticker(loop);
      const tracing = new Running(['trace', `${loop}:tick`, '-p', String(target.pid)]);
      await tracing.until('a line', () => tracing.stdout.includes('tick'));
      for (let i = 0; i < 5; i++) tracing.child.kill(signal);
      const { status, stderr, stdout } = await tracing.end();
      assert.equal(status, 0, stderr);
      assert.equal(
        Number(/^uprobe: (\d+) lines?\n$/.exec(stderr)?.[1]),
        linesOf(stdout).length,
        'nothing was lost',
      );
      await assertUnharmed(target);
    }
  });

  void it('ends when the process has ended', async () => {
    const target = await ticker(loop);
    const tracing = new Running(['count', '--json', `${loop}:tick`, '-p', String(target.pid)]);
    const ownStatus = (): string => readFileSync(`/proc/${target.pid}/status`, 'latin1');
    await tracing.until('it is traced', () => !/^TracerPid:\t0$/m.test(ownStatus()));
    await new Promise((resolve) => setTimeout(resolve, 500));
    const [, ticks] = /ticks=(\d+)/.exec(await target.end()) ?? [];
    const { status, stdout } = await tracing.end();
    assert.equal(status, 0);
    const hits = jsonLines(stdout)[0]?.['hits'] as number;
    assert.ok(hits > 20 && hits <= Number(ticks), `${hits} of ${ticks}`);
  });

  void it('ends when nobody reads its lines any more', async () => {
    const target = await ticker(loop);
    const tracing = new Running(['trace', `${loop}:tick`, '-p', String(target.pid)]);
    await tracing.until('a line', () => tracing.stdout.includes('tick'));
    tracing.child.stdout?.destroy();
    const { status } = await tracing.end();
    assert.equal(status, 0);
    await assertUnharmed(target);
  });

  void it('ends with an error when its lines cannot be written', async () => {
    const target = await ticker(loop);
    const result = uprobe([
      'trace',
      `${loop}:tick`,
      '-p',
      String(target.pid),
      '-o',
      '/dev/full',
      '--duration',
      '5',
    ]);
    assert.equal(result.status, 1);
    assert.match(result.stderr, /cannot write: ENOSPC/);
    await assertUnharmed(target);
  });

  void it('ends with an error when the last lines, or the table, cannot be written', async () => {
    const target = await ticker(loop);
    const wholeRun = ['-p', String(target.pid), '-o', '/dev/full', '--duration', '0.2'];
    for (const args of [['count'], ['count', '--json'], ['trace']]) {
      const [command, ...options] = args;
      const result = uprobe([command!, `${loop}:tick`, ...options, ...wholeRun]);
      assert.equal(result.status, 1, args.join(' '));
      assert.match(result.stderr, /cannot write: ENOSPC/);
    }
    await assertUnharmed(target);
    const { status, stdout } = uprobe(['count', 'libc:malloc', '-o', '/dev/full', '--', 'echo', 'unharmed']);
    assert.equal(status, 1);
    assert.equal(stdout, 'unharmed\n');
  });

  void it('traces several processes, and only those', async () => {
    const [a, b, c] = [await ticker(loop), await ticker(loop), await ticker(loop)];
    const list = `${a.pid},${b.pid}`;
    const { stdout } = uprobe(['trace', '--json', `${loop}:tick`, '-p', list, '-n', '200']);
    const pids = new Set(jsonLines(stdout).map((line) => line['pid']));
    assert.deepEqual(pids, new Set([a.pid, b.pid]));
    for (const process of [a, b, c]) await assertUnharmed(process);
  });

  void it('refuses a thread, and names its process', async () => {
    const threads = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { stdio: 'ignore' });
    started.push(threads);
    let tid: string | undefined;
    for (let i = 0; i < 200 && tid === undefined; i++) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      const { stdout } = spawnSync('ls', [`/proc/${threads.pid}/task`], { encoding: 'utf8' });
      tid = linesOf(stdout).find((name) => name !== String(threads.pid));
    }
    assert.ok(tid !== undefined);
    const { status, stderr } = uprobe(['trace', 'libc:malloc', '-p', tid]);
    assert.equal(status, 2);
    assert.match(stderr, new RegExp(`is a thread of process ${threads.pid}: write -p ${threads.pid}`));
  });

  void it('with a command that goes on, leaves it running and says so', async () => {
    const tracing = new Running(['trace', `${loop}:tick`, '--duration', '0.3', '--', loop, 'slow']);
    await tracing.until('the end', () => / goes on\n/.test(tracing.stderr));
    const pid = Number(/process (\d+) goes on/.exec(tracing.stderr)?.[1]);
    assert.deepEqual(await tracing.exited, [0, null]);
    process.kill(pid, 0);
    process.kill(pid, 'SIGTERM');
    await tracing.end();
    assert.match(tracing.stdout, /^ready \d+\nticks=\d+ wrong=0\n$/, 'it ended by itself, unharmed');
  });
});

void describe('A place that could not be hit', () => {
  const library = copyOf('elf-versioned');

  void it('because its file was never mapped is told, beside the lines', () => {
    const never = new RegExp(`^uprobe: ${library} was never mapped by 'true': its probe could not be hit$`);
    for (const args of [['trace'], ['trace', '--json'], ['count'], ['count', '--json']]) {
      const file = join(temporaryDirectory(), 'lines');
      const { status, stdout, stderr } = uprobe([...args, '-o', file, `${library}:answer`, '--', 'true']);
      assert.deepEqual([status, stdout], [0, '']);
      assert.match(linesOf(stderr).at(-1) ?? '', never, args.join(' '));
      if (args.includes('--json')) jsonLines(readFileSync(file, 'utf8'));
    }
  });

  void it('is told once for a file, also of processes that run', async () => {
    const process = await ticker(copyOf('loop'));
    const { stderr } = uprobe([
      'count',
      `${library}:answer*`,
      '-p',
      String(process.pid),
      '--duration',
      '0.1',
    ]);
    assert.match(
      stderr,
      new RegExp(`was never mapped by process ${process.pid}: its 2 probes could not be hit`),
    );
    await assertUnharmed(process);
  });

  void it('in one of two processes is told with the reason', async () => {
    const mapped = copyOf('library');
    const plan = jsonLines(uprobe(['plan', '--json', `${mapped}:lib_work`]).stdout)[0]!;
    const mapper = compileFixture('mapper', { flags: ['-O1'] });
    const start = (mode: string): Promise<RunningProgram> =>
      startProgram(mapper, [mapped, String(plan['offset']), mode]);
    const [whole, patched] = [await start('whole'), await start('patched')];
    const pids = ['-p', `${whole.pid},${patched.pid}`, '--duration', '0.1'];
    const { status, stderr } = uprobe(['count', `${mapped}:lib_work`, ...pids]);
    assert.equal(status, 0);
    assert.match(
      stderr,
      new RegExp(`1 place not probed \\(text-already-patched\\), .*: process ${patched.pid}: another tool`),
    );
    assert.doesNotMatch(stderr, /never mapped/);
    for (const program of [whole, patched]) assert.equal(await program.finish(), 'fine status 7');
  });
});

void describe('A place that two PROBEs name', () => {
  const calls = copyOf('calls');
  const probes = [`${calls}:add`, `${calls}:ad[d]`];

  void it('gives two lines a hit, and two rows', () => {
    const hits = linesOf(uprobe(['trace', `${calls}:add`, '--', calls, '3']).stderr).length - 1;
    const { stderr } = uprobe(['trace', ...probes, '--', calls, '3']);
    assert.equal(linesOf(stderr).length - 1, 2 * hits);
    const counted = jsonLines(uprobe(['count', '--json', ...probes, '--', calls, '3']).stderr);
    assert.deepEqual(
      counted.map((row) => row['hits']),
      [hits, hits],
    );
  });
});

void describe('uprobe count', () => {
  const calls = copyOf('calls');

  void it('counts what the program counts itself, and says it in JSON as documented', () => {
    const file = join(temporaryDirectory(), 'counts');
    const probes = ['add', 'fact', 'many', 'text', 'small'].map((name) => `${calls}:${name}`);
    const result = uprobe(['count', '--json', '-o', file, ...probes, '--', calls, '20']);
    assertSame(result, calls, ['20']);
    const lines = jsonLines(readFileSync(file, 'utf8'));
    const schema = documentedSchema('count');
    for (const line of lines) assertConforms(line, schema);
    for (const { symbol, hits, missed, path } of lines) {
      const own = new RegExp(`\\b${String(symbol)}=(\\d+)`).exec(result.stdout)?.[1];
      assert.deepEqual([hits, missed, path], [Number(own), 0, calls], String(symbol));
    }
  });

  void it('arms what can be armed of a glob, and says what could not and why', () => {
    const { status, stderr } = uprobe(['count', 'libc:*time*', '--', 'ls', '/dev/null']);
    assert.equal(status, 0);
    assert.match(stderr, /^uprobe: \d+ places not probed \(ifunc-symbol\), for example libc:\w*time\w*: /m);
    assert.match(stderr, /^HITS +MISSED +PROBE$/m);
  });

  void it('counts every instruction of a function', () => {
    const { stderr } = uprobe(['count', '--json', `${calls}:fact+*`, '--', calls, '1']);
    const lines = jsonLines(stderr);
    assert.ok(lines.length > 5);
    assert.equal(lines[0]?.['hits'], 10, 'fact(10) calls itself down to 1');
    assert.equal(new Set(lines.map((line) => line['offset'])).size, lines.length);
  });

  void it('prefers a function of just that name to a glob', () => {
    const { stderr } = uprobe(['count', '--json', `${calls}:"add"`, `${calls}:ad[d]`, '--', calls, '2']);
    const lines = jsonLines(stderr);
    assert.deepEqual(
      lines.map((line) => [line['probe'], line['hits']]),
      [
        [`${calls}:"add"`, 4],
        [`${calls}:add`, 4],
      ],
    );
  });

  void it('keeps hostile names out of the terminal', () => {
    const source = join(temporaryDirectory(), 'evil.s');
    // The assembler takes any bytes in a quoted name.
    writeFileSync(
      source,
      '.globl main\n.type main,@function\nmain:\ncall "f\u001b[31mx"\nxor %eax,%eax\nret\n.size main,.-main\n' +
        '.type "f\u001b[31mx",@function\n"f\u001b[31mx":\nnop\nret\n.size "f\u001b[31mx",.-"f\u001b[31mx"\n',
    );
    const program = source.replace(/\.s$/, '');
    const built = spawnSync('gcc', ['-o', program, source], { encoding: 'utf8' });
    if (built.status !== 0) return assert.fail(built.stderr);
    for (const args of [
      ['count', `${program}:f*`],
      ['trace', `${program}:f*`],
      ['count', '--json', `${program}:f*`],
    ]) {
      const { stderr } = uprobe([...args, '--', program]);
      assert.ok(!stderr.includes('\u001b'), args[0]);
      assert.match(stderr, /f(\\x1b|\\u001b)\[31mx/);
    }
    const { stdout } = uprobe(['list', program, 'f*']);
    assert.ok(!stdout.includes('\u001b'));
  });

  void it(
    'is drawn live on a terminal',
    { skip: !existsSync('/usr/bin/script') && 'script(1) is not installed' },
    async () => {
      const loop = copyOf('loop');
      const target = await ticker(loop);
      const command = `stty rows 10 cols 60; '${process.execPath}' dist/bin/uprobe.js count '${loop}:*' -p ${target.pid} --duration 1.5`;
      const { stdout } = spawnSync('script', ['-qec', command, '/dev/null'], {
        encoding: 'utf8',
        cwd: new URL('../..', import.meta.url).pathname,
        timeout: 30_000,
      });
      const pictures = stdout.split('\u001b[J').length;
      assert.ok(pictures > 4, `drawn ${pictures} times: ${JSON.stringify(stdout)}`);
      assert.match(stdout, /\u001b\[\d+A/, 'in place');
      await assertUnharmed(target);
    },
  );
});

void describe('Without /proc', () => {
  const wrapper = ['unshare', '--mount', 'sh', '-c', 'umount -l /proc && exec "$@"', 'sh'];
  const tried = spawnSync(wrapper[0]!, [...wrapper.slice(1), 'true']);
  const skip = tried.status !== 0 && 'mounts cannot be changed';

  // A child of ours that nobody lets go would keep the output open, and this test from ending.
  void it('no command runs, and it is told why', { skip }, () => {
    const { status, stdout, stderr } = uprobe(['count', 'libc:malloc', '--', '/bin/echo', 'x'], { wrapper });
    assert.match(stderr, /^uprobe: .*ENOENT\. \/proc is not mounted\. As root: mount -t proc/);
    assert.deepEqual([status, stdout], [1, '']);
  });
});
