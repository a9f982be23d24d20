import { describe, it } from 'node:test';
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { assertConforms, documentedSchema, jsonLines, linesOf, uprobe } from './helpers/cli.js';
import { compileFixture } from './helpers/compile.js';

const calls = compileFixture('calls');

interface Listed {
  readonly name: string;
  readonly aliases: readonly string[];
  readonly address: string;
  readonly offset: number;
  readonly size: number;
}

function listed(path: string, ...more: string[]): Listed[] {
  const { status, stdout, stderr } = uprobe(['list', path, ...more, '--json']);
  assert.equal(status, 0, stderr);
  const schema = documentedSchema('list');
  const lines = jsonLines(stdout);
  for (const line of lines) assertConforms(line, schema);
  return lines as unknown as Listed[];
}

/** Name → address of the functions nm knows, without versions. */
function functionsByNm(path: string, ...options: string[]): Map<string, bigint> {
  const { stdout } = spawnSync('nm', ['--defined-only', ...options, path], {
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  });
  const found = new Map<string, bigint>();
  for (const line of linesOf(stdout)) {
    const match = /^([0-9a-f]+) [tTwWi] (.+)$/.exec(line);
    if (match !== null) found.set((match[2] ?? '').replace(/@.*$/, ''), BigInt(`0x${match[1]}`));
  }
  return found;
}

void describe('uprobe list', () => {
  void it('shows the functions nm shows, at the same addresses', () => {
    const known = functionsByNm(calls);
    const functions = listed(calls);
    assert.ok(functions.some((f) => f.name === 'add') && functions.some((f) => f.name === 'main'));
    for (const f of functions) {
      for (const name of [f.name, ...f.aliases]) assert.equal(BigInt(f.address), known.get(name), name);
    }
  });

  void it('shows every exported function of libc once, with all its names', () => {
    const path = linesOf(spawnSync('ldd', [process.execPath], { encoding: 'utf8' }).stdout)
      .map((line) => /libc\.so\.6 => (\S+)/.exec(line)?.[1])
      .find((found) => found !== undefined);
    assert.ok(path !== undefined);
    const functions = listed(path);
    assert.equal(new Set(functions.map((f) => f.address)).size, functions.length, 'one line for one address');
    const names = new Map(
      functions.flatMap((f) => [f.name, ...f.aliases].map((n) => [n.replace(/@.*$/, ''), f.address])),
    );
    for (const name of ['malloc', 'read', 'getenv', 'qsort', 'printf', 'memcpy'])
      assert.ok(names.has(name), name);
    const malloc = functions.find((f) => [f.name, ...f.aliases].includes('malloc'));
    assert.equal(malloc?.name, 'malloc', 'the best name is the one people use');
    assert.equal(BigInt(malloc.address), functionsByNm(path, '-D').get('malloc'));
  });

  void it('takes a soname, a program in $PATH, and a glob', () => {
    assert.ok(listed('libc', 'malloc').length === 1);
    assert.ok(listed('libc.so.6', '*alloc').length > 3);
    assert.match(
      uprobe(['list', 'libc', 'mallo?']).stdout,
      /^ +ADDRESS +OFFSET +SIZE +KIND +NAME\n +0x[0-9a-f]+ .* malloc/,
    );
  });

  void it('lists the 100 MB of node quickly', () => {
    const start = performance.now();
    const { status, stdout } = uprobe(['list', process.execPath]);
    const took = performance.now() - start;
    assert.equal(status, 0);
    assert.ok(linesOf(stdout).length > 10_000);
    assert.ok(took < 5000, `it took ${took.toFixed(0)} ms`);
  });

  void it('ends quietly when its reader has seen enough', () => {
    const { status, stderr } = spawnSync(
      'bash',
      [
        '-c',
        'set -o pipefail; "$0" "$1" list "$0" | head -n 1 >/dev/null',
        process.execPath,
        'dist/bin/uprobe.js',
      ],
      { encoding: 'utf8', cwd: new URL('../..', import.meta.url).pathname },
    );
    assert.deepEqual([status, stderr], [0, '']);
  });
});

void describe('uprobe plan', () => {
  const planned = (...args: string[]): Record<string, unknown>[] => {
    const lines = jsonLines(uprobe(['plan', '--json', ...args]).stdout);
    const schema = documentedSchema('plan');
    for (const line of lines) assertConforms(line, schema);
    return lines;
  };

  void it('shows the instruction, and every engine with its answer', () => {
    const { status, stdout } = uprobe(['plan', `${calls}:add`]);
    assert.equal(status, 0);
    assert.match(
      stdout,
      /add {2}offset 0x[0-9a-f]+ {2}address 0x[0-9a-f]+\n {2}instruction {2}\S.*\([0-9a-f ]+\)\n/,
    );
    assert.match(stdout, /^ {2}trap +yes, and it would be taken$/m);
    assert.match(stdout, /^ {2}jump +no: .*\(engine-not-available\)$/m);
  });

  void it('says the same in JSON, by every form of a place', () => {
    const [bySymbol] = planned(`${calls}:add`);
    assert.ok(bySymbol !== undefined);
    const { address, offset } = bySymbol as { address: string; offset: number };
    const forms = [
      `${calls}:@${address}`,
      `${calls}:0x${offset.toString(16)}`,
      `${calls}:add+0x0`,
      `uprobe:${calls}:add`,
    ];
    for (const form of forms)
      assert.deepEqual({ ...planned(form)[0], probe: '' }, { ...bySymbol, probe: '' }, form);
  });

  void it('shows every instruction of a function', () => {
    const lines = planned(`${calls}:fact+*`);
    assert.ok(lines.length > 5);
    assert.deepEqual(lines[0]?.['symbolOffset'], 0);
    for (const [i, line] of lines.entries()) {
      const { bytes } = line['instruction'] as { bytes: string };
      const next = lines[i + 1];
      if (next !== undefined) assert.equal(Number(line['offset']) + bytes.length / 2, next['offset']);
    }
  });

  void it('has a place that cannot be probed with its refusal, and status 2 when it was named for itself', () => {
    const { status, stdout } = uprobe(['plan', `${calls}:add+0x999`, `${calls}:add`]);
    assert.equal(status, 2);
    assert.match(stdout, /cannot be probed: .*\(outside-symbol\)/);
    assert.match(stdout, /it would be taken/);
    assert.equal((planned(`${calls}:add+0x999`)[0]!['refusal'] as { code: string }).code, 'outside-symbol');
  });

  void it('follows --engine', () => {
    assert.equal(planned('--engine', 'trap', `${calls}:add`)[0]?.['chosen'], 'trap');
    assert.equal(planned('--engine', 'jump', `${calls}:add`)[0]?.['chosen'], null);
    assert.equal(uprobe(['plan', '--engine', 'jump', `${calls}:add`]).status, 2);
  });
});

void describe('uprobe doctor --json', () => {
  void it('conforms to its schema', () => {
    const lines = jsonLines(uprobe(['doctor', '--json']).stdout);
    assert.ok(lines.length > 2);
    for (const line of lines) assertConforms(line, documentedSchema('doctor'));
  });
});
