/** The examples do what their comments say. */
import { spawnSync, type SpawnSyncReturns } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { compileFixture, repositoryRoot } from '../helpers/compile.js';
import { linesOf } from '../helpers/cli.js';

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
