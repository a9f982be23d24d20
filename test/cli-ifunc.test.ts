/** Functions that a program chooses when it starts, as the command line shows them. */
import { after, describe, it } from 'node:test';
import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import {
  Running,
  assertConforms,
  assertRefused,
  documentedSchema,
  jsonLines,
  linesOf,
  uprobe,
} from './helpers/cli.js';
import { compileFixture, privateCopy } from './helpers/compile.js';
import { until } from './helpers/running.js';

const program = privateCopy(compileFixture('ifunc', { flags: ['-O1', '-fPIE', '-pie'] }));
const started: ChildProcess[] = [];
after(() => {
  for (const child of started) child.kill('SIGKILL');
});

/** It has started, and does nothing until it is fed. */
async function running(): Promise<ChildProcess & { readonly pid: number }> {
  const child = spawn(program, ['10'], { stdio: ['pipe', 'pipe', 'inherit'] });
  started.push(child);
  await once(child.stdout, 'data');
  return child as unknown as ChildProcess & { readonly pid: number };
}

/** Attached, and a moment for what follows. */
async function untilTraced(pid: number): Promise<void> {
  await until('it is traced', () => !/^TracerPid:\t0$/m.test(readFileSync(`/proc/${pid}/status`, 'latin1')));
  await new Promise((resolve) => setTimeout(resolve, 300));
}

const command = ['--', program, '10'];
/** One round of its work. */
const fed = { input: 'x' };

interface Count {
  readonly probe: string;
  readonly symbol: string;
  readonly offset: number;
  readonly hits: number;
  readonly implementations?: readonly { offset: number; hits: number; missed: number }[];
}
const counts = (text: string): Count[] => jsonLines(text) as unknown as Count[];

void describe('uprobe count of an ifunc', () => {
  void it('is one row with the hits of the one that is called', () => {
    const probes = [`${program}:chosen`, `${program}:vector`, 'libc:memcpy', 'libc:memmove'];
    const { status, stdout, stderr } = uprobe(['count', ...probes, ...command], fed);
    assert.equal(status, 0);
    const [, vector] = /vector=(\d+)/.exec(stdout)!;
    const rows = linesOf(stderr).map((line) => line.trim().split(/ +/));
    const hits = new Map(rows.map(([count, , probe]) => [probe, count]));
    assert.equal(rows.length, 5, stderr);
    assert.equal(hits.get(`${program}:chosen`), vector);
    assert.equal(hits.get(`${program}:vector`), vector);
    assert.equal(hits.get('libc:memcpy'), hits.get('libc:memmove'));
    assert.ok(Number(hits.get('libc:memcpy')) >= 10);
  });

  void it('counts a call once where the one that is called hands it to another', () => {
    const { stderr } = uprobe(['count', '--json', 'libc:strcspn', ...command], fed);
    assert.deepEqual(
      counts(stderr).map((l) => l.hits),
      [10],
    );
  });

  void it('in JSON is one line, at the place of the one that is called', () => {
    const { stderr } = uprobe(['count', '--json', `${program}:chosen`, `${program}:vector`, ...command], fed);
    const lines = counts(stderr);
    for (const line of lines) assertConforms(line, documentedSchema('count'));
    const [chosen, vector] = lines;
    assert.equal(lines.length, 2);
    assert.deepEqual({ ...chosen, probe: '' }, { ...vector, symbol: 'chosen', probe: '' });
  });

  void it('in JSON shows each that it may choose where none was called', () => {
    const { stderr } = uprobe(['count', '--json', 'libc:wcscpy', ...command], fed);
    const [line] = counts(stderr);
    assertConforms(line, documentedSchema('count'));
    const implementations = line?.implementations ?? [];
    assert.ok(implementations.length >= 2);
    assert.equal(implementations[0]?.offset, line?.offset);
    assert.deepEqual(new Set(implementations.map((i) => i.hits)), new Set([0]));
  });

  void it('in a process that runs is the one that it calls', async () => {
    const child = await running();
    const counting = new Running([
      'count',
      '--json',
      '-p',
      String(child.pid),
      `${program}:chosen`,
      'libc:strlen',
    ]);
    await untilTraced(child.pid);
    child.stdin!.end('xx');
    const { stdout, status } = await counting.end();
    assert.equal(status, 0);
    const [chosen, strlen] = counts(stdout);
    // At its end it calls the same function twice more.
    assert.deepEqual([chosen?.hits, chosen?.implementations], [2 * 10 + 2, undefined]);
    assert.ok(strlen!.hits >= 20);
    assert.equal(strlen!.implementations, undefined);
  });

  void it('is found by a glob, under its name', () => {
    const globs = [`${program}:chose?`, `${program}:pointe?`, 'libc:strle[n]'];
    const { stderr } = uprobe(['count', '--json', ...globs, ...command], fed);
    const lines = counts(stderr);
    assert.deepEqual(
      lines.map((l) => l.probe),
      [`${program}:chosen`, `${program}:pointed`, 'libc:strlen'],
    );
    for (const { hits } of lines) assert.ok(hits >= 5);
  });

  void it('of a glob that cannot be told is said and left out', () => {
    const { status, stderr } = uprobe(['count', `${program}:[bf][yr]*_[at]*`, ...command], fed);
    assert.equal(status, 2, 'nothing else matches');
    assert.match(stderr, /2 places not probed \(ifunc-symbol\), for example .*(from_table|by_asking)/);
  });

  void it('with an offset is refused before anything starts, where it may choose several', () => {
    assertRefused(
      ['count', `${program}:chosen+4`, ...command],
      /chosen\+0x4 is not one place: .*vector at 0x/,
    );
    assertRefused(
      ['count', `${program}:from_table`, ...command],
      /from_table is not a function but chooses one/,
    );
    assertRefused(['count', 'libc:time', ...command], /time is not a function .* vDSO/);
  });

  void it('counts every instruction of each implementation', () => {
    const { stderr } = uprobe(['count', '--json', `${program}:chosen+*`, ...command], fed);
    const lines = counts(stderr);
    assert.ok(lines.length >= 9);
    for (const { probe } of lines) assert.match(probe, /:@0x[0-9a-f]+$/);
    assert.equal(new Set(lines.map((l) => l.offset)).size, lines.length);
    assert.ok(lines.filter((l) => l.hits >= 10).length >= 3);
  });
});

void describe('uprobe trace of an ifunc', () => {
  void it('shows the name that was given', () => {
    const { stderr } = uprobe(['trace', 'libc:strlen', '-n', '3', '--args', 's=str(arg0)', ...command], fed);
    const lines = linesOf(stderr);
    for (const line of lines.slice(0, 3)) assert.match(line, / {2}libc\.so\.6:strlen {2}s="/);
  });

  void it('in JSON has the place that was hit', () => {
    const [vector] = counts(uprobe(['count', '--json', `${program}:vector`, ...command], fed).stderr);
    const { stderr } = uprobe(['trace', '--json', `${program}:chosen`, ...command], fed);
    const lines = jsonLines(stderr);
    assert.ok(lines.length > 10);
    for (const line of lines) {
      assertConforms(line, documentedSchema('trace'));
      assert.equal(line['symbol'], 'chosen');
    }
    assert.deepEqual(new Set(lines.map((line) => line['offset'])), new Set([vector?.offset]));
  });
});

void describe('uprobe plan of an ifunc', () => {
  void it('shows each implementation', () => {
    const { status, stdout } = uprobe(['plan', `${program}:chosen`]);
    assert.equal(status, 0);
    assert.equal(linesOf(stdout).filter((line) => line === `${program}:chosen`).length, 3);
    for (const name of ['plain', 'vector', 'rare'])
      assert.match(stdout, new RegExp(`^  ifunc        ${name}, one of 3 functions`, 'm'));
  });

  void it('in JSON has a line for each', () => {
    const lines = jsonLines(uprobe(['plan', '--json', `${program}:chosen`, `${program}:pointed`]).stdout);
    for (const line of lines) assertConforms(line, documentedSchema('plan'));
    assert.deepEqual(
      lines.map((line) => (line['ifunc'] as { count: number }).count),
      [3, 3, 3, 1],
    );
  });

  void it('refuses by name what cannot be told', () => {
    const { status, stdout } = uprobe(['plan', `${program}:by_asking`]);
    assert.equal(status, 2);
    assert.match(stdout, /cannot be probed: .*asks others.*\(ifunc-symbol\)/);
  });
});
