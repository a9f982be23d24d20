/** The examples do what their comments say. */
import { spawnSync, type SpawnSyncReturns } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { compileFixture, repositoryRoot } from '../helpers/compile.js';
import { linesOf, uprobe } from '../helpers/cli.js';

const PATIENCE_MS = 60_000;

/** Run an example to its end. */
function run(name: string, args: readonly string[] = [], input = ''): SpawnSyncReturns<string> {
  const path = join(repositoryRoot, 'dist', 'examples', `${name}.js`);
  const result = spawnSync(process.execPath, [path, ...args], {
    input,
    encoding: 'utf8',
    timeout: PATIENCE_MS,
    killSignal: 'SIGKILL',
    // What the examples print must not depend on who runs the tests.
    env: { ...process.env, LC_ALL: 'C' },
  });
  assert.equal(result.error, undefined, `${name} did not end: ${result.stderr}`);
  return result;
}

/** The same for one that must succeed. */
function example(...words: Parameters<typeof run>): { readonly stdout: string; readonly stderr: string } {
  const { status, signal, stdout, stderr } = run(...words);
  assert.equal(status, 0, `${words[0]} ended with ${signal ?? status}: ${stderr}`);
  return { stdout, stderr };
}

/** What a command prints when nobody probes it. */
function unprobed(command: string, args: readonly string[]): string {
  return spawnSync(command, args, { encoding: 'utf8', env: { ...process.env, LC_ALL: 'C' } }).stdout;
}

void test('bash-readline shows the lines that bash reads, and bash runs them', () => {
  const { stdout, stderr } = example('bash-readline', [], 'echo one-$((1 + 1))\necho "two words"\n');
  assert.equal(stdout, 'one-2\ntwo words\n');
  const lines = [...stderr.matchAll(/^(?:.*# |.*\$ )?bash \d+: (.*)$/gm)].map((m) => m[1]);
  assert.deepEqual(lines, [
    JSON.stringify('echo one-$((1 + 1))'),
    JSON.stringify('echo "two words"'),
    'end of input',
  ]);
});

void test('sqlite-statements shows the SQL that sqlite3 prepares, and its result', () => {
  const { stdout, stderr } = example('sqlite-statements');
  assert.equal(stdout, '42\n');
  const statements = [...stderr.matchAll(/^sqlite3 \d+: (".*")$/gm)].map((m) => JSON.parse(m[1]!) as string);
  for (const sql of ['CREATE TABLE t(x);', 'INSERT INTO t VALUES (1), (2), (39);', 'SELECT sum(x) FROM t;'])
    assert.ok(statements.includes(sql), `${sql} is not among ${JSON.stringify(statements)}`);
});

void test('sqlite-statements takes a command of the user', () => {
  const { stdout, stderr } = example('sqlite-statements', ['sqlite3', ':memory:', 'SELECT 6*7']);
  assert.equal(stdout, '42\n');
  assert.match(stderr, /^sqlite3 \d+: "SELECT 6\*7"$/m);
});

void test('malloc-sizes adds up to the number of calls, and ls prints what it always does', () => {
  const { stdout, stderr } = example('malloc-sizes');
  assert.equal(stdout, unprobed('ls', ['/']));
  const counts = [...stderr.matchAll(/^ *< \d+ +(\d+)/gm)].map((m) => Number(m[1]));
  const [, calls, missed] = /^(\d+) calls, (\d+) missed$/m.exec(stderr) ?? [];
  assert.ok(counts.length > 3, stderr);
  assert.equal(
    counts.reduce((sum, n) => sum + n, 0),
    Number(calls),
  );
  assert.equal(Number(missed), 0);
  // The widest bar is that of the most frequent size.
  const bars = [...stderr.matchAll(/^ *< \d+ +\d+ *(#*)$/gm)].map((m) => m[1]!.length);
  assert.equal(bars.indexOf(Math.max(...bars)), counts.indexOf(Math.max(...counts)));
});

void test('changed-argument makes whoami name somebody else', () => {
  const { stdout } = example('changed-argument');
  assert.deepEqual(linesOf(stdout), [unprobed('whoami', []).trim(), 'nobody']);
});

void test('post-handler shows what loads put into registers', () => {
  const { stdout } = example('post-handler');
  const lines = linesOf(stdout);
  assert.ok(lines.length > 1, stdout);
  for (const line of lines) assert.match(line, /^getenv\+0x[0-9a-f]+ +mov r\w+,\[.*\] +r\w+ = 0x[0-9a-f]+/);
  assert.match(stdout, /= 0x[0-9a-f]+ {2}"GREETING=hello"$/m);
  // Each instruction once: its uprobe removed itself.
  const places = lines.map((line) => line.split(' ')[0]);
  assert.equal(new Set(places).size, places.length);
});

void test('counting names the ten functions called most, the most frequent first', () => {
  const { stdout, stderr } = example('counting');
  assert.equal(stdout, '5050\n');
  assert.match(stderr, /^\d+ functions probed, \d+ called; the first ten:$/m);
  const rows = [...stderr.matchAll(/^ *([\d,]+) {2}(\w+)$/gm)];
  const counts = rows.map((m) => Number(m[1]!.replaceAll(',', '')));
  assert.equal(counts.length, 10);
  assert.deepEqual(
    counts,
    counts.toSorted((a, b) => b - a),
  );
  // One hundred rounds of `x=$((x + i))` bind the variable a hundred times.
  const binds = rows.find((m) => m[2] === 'bind_variable');
  assert.ok(Number(binds?.[1]) >= 100, stderr);
});

void test('counting says so when a program is stripped, and does not run it', () => {
  const stripped = compileFixture('loop', { flags: ['-s'] });
  const { status, stdout, stderr } = run('counting', [stripped]);
  assert.equal(status, 1);
  assert.match(stderr, /loop is stripped: it names none of its functions/);
  assert.equal(stdout, '');
});

/** Run a module of the examples as it stands there. */
function moduleExample(
  name: string,
  words: readonly string[],
  command: readonly string[],
): ReturnType<typeof uprobe> {
  const path = join(repositoryRoot, 'examples', 'modules', `${name}.ts`);
  return uprobe(['run', path, ...words, '--', ...command], { env: { LC_ALL: 'C' } });
}

void test('fault-injection makes malloc fail, and ls says what it always says then', () => {
  const calls = Number(
    /^(\d+) calls$/m.exec(moduleExample('fault-injection', ['nth=1000000'], ['ls', '/']).stderr)?.[1],
  );
  assert.ok(calls > 20);
  const said: string[] = [];
  for (let nth = calls; nth > calls - 20; nth--) {
    const { stderr } = moduleExample('fault-injection', [`nth=${nth}`], ['ls', '/']);
    assert.match(stderr, new RegExp(`^call ${nth} of malloc in ls \\(\\d+\\) returns 0$`, 'm'));
    said.push(stderr);
    if (stderr.includes('ls: memory exhausted')) return;
  }
  assert.fail(said.join('\n'));
});

void test('fault-injection changes what a function returns', () => {
  const words = ['function=geteuid', 'value=65534', 'nth=0', 'after=y'];
  const { status, stdout, stderr } = moduleExample('fault-injection', words, ['whoami']);
  assert.deepEqual([status, stdout], [0, 'nobody\n']);
  assert.match(stderr, /^call 1 of geteuid in whoami \(\d+\) returns 65534$/m);
});

void test('call-tree shows calls and returns at their depth', () => {
  const script = 'f() { echo $1; }; for i in 1 2; do f $i; done';
  const { status, stdout, stderr } = moduleExample('call-tree', [], ['bash', '--norc', '-c', script]);
  assert.deepEqual([status, stdout], [0, '1\n2\n']);
  const open: string[] = [];
  let deepest = 0;
  for (const line of linesOf(stderr)) {
    const [, bars = '', name, rest] = /^ *\d+ {2}((?:\| )*)(\w+)(.*)$/.exec(line) ?? assert.fail(line);
    if (rest!.startsWith('(')) {
      assert.match(rest!, /^\(0x[0-9a-f]+, 0x[0-9a-f]+\)$/);
      assert.equal(bars.length / 2, open.length, line);
      open.push(name!);
    } else {
      assert.match(rest!, /^ = (?:-?\d+|0x[0-9a-f]+) {2}\d+ µs$/);
      assert.equal(open.pop(), name, line);
      assert.equal(bars.length / 2, open.length, line);
    }
    deepest = Math.max(deepest, open.length);
  }
  assert.deepEqual(open, []);
  assert.ok(deepest >= 4, stderr);
});

void test('bad-pointer mends the pointer that perl is given', () => {
  const script = 'print unpack("P8", pack("J", 16)), "\\n"';
  assert.equal(spawnSync('perl', ['-e', script]).signal, 'SIGSEGV', 'unprobed it is killed');
  const { status, stdout, stderr } = moduleExample('bad-pointer', ['text=as good'], ['perl', '-e', script]);
  assert.deepEqual([status, stdout], [0, 'as good \n'], stderr);
  assert.match(stderr, /^perl \(\d+\) reads at 0x1[0-9a-f]: \w+ .*\[rsi.*\]/);
});

void test('coverage lists what ran, as often as it did', () => {
  const command = ['bash', '--norc', '-c', 'for i in 1 2; do echo $i; done'];
  const { status, stdout, stderr } = moduleExample(
    'coverage',
    ['functions=execute_command,no_such*'],
    command,
  );
  assert.deepEqual([status, stdout], [0, '1\n2\n']);
  const [, ran, all] = /^execute_command: (\d+) of (\d+) instructions$/m.exec(stderr) ?? assert.fail(stderr);
  const listed = [...stderr.matchAll(/^ *(\d+|\.|\?) {2}0x[0-9a-f]+ {2}(\w+.*)$/gm)].map((m) => [m[1], m[2]]);
  assert.equal(listed.length, Number(all));
  assert.equal(listed.filter(([count]) => Number(count) > 0).length, Number(ran));
  assert.ok(Number(ran) < Number(all));
  // It is entered twice, and returns as often, by whichever of its ways.
  assert.equal(listed[0]![0], '2');
  const returned = listed.filter(([count, text]) => text === 'ret' && count !== '.');
  assert.equal(
    returned.reduce((sum, [count]) => sum + Number(count), 0),
    2,
  );
});

void test('stress does not keep bash from computing', () => {
  const script = 'for i in {1..60000}; do x=$((x + i)); done; echo $x';
  for (const seed of [1, 2]) {
    const words = [`seed=${seed}`, 'functions=e*'];
    const { status, stdout, stderr } = moduleExample('stress', words, ['bash', '--norc', '-c', script]);
    assert.deepEqual([status, stdout], [0, '1800030000\n'], stderr);
    const [, registrations, meanwhile, missed] =
      /^seed \d: (\d+) registrations of \d+ probes, (\d+) taken out while it ran, \d+ hits, (\d+) missed$/m.exec(
        stderr,
      ) ?? assert.fail(stderr);
    assert.ok(Number(registrations) > 5 && Number(meanwhile) > 0, stderr);
    assert.equal(missed, '0');
  }
});
