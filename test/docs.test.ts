/** What the documentation shows is what happens. */
import { describe, it } from 'node:test';
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { transformSync } from 'esbuild';
import { repositoryRoot, temporaryDirectory } from './helpers/compile.js';

const directory = temporaryDirectory();
mkdirSync(join(directory, 'node_modules'));
symlinkSync(repositoryRoot, join(directory, 'node_modules', 'uprobe'));
mkdirSync(join(directory, 'bin'));
const command = join(directory, 'bin', 'uprobe');
writeFileSync(command, `#!/bin/sh\nexec '${process.execPath}' '${repositoryRoot}/dist/bin/uprobe.js' "$@"\n`);
chmodSync(command, 0o755);

function blocksOf(file: string, language: string): string[] {
  const text = readFileSync(join(repositoryRoot, file), 'utf8');
  const blocks = text.matchAll(/^```(.*)\n([^]*?)^```$/gm);
  return [...blocks].filter((m) => m[1] === language).map((m) => m[2]!);
}

/** A line of ours, whatever the numbers. */
const pattern = (line: string): RegExp =>
  new RegExp(
    `^${line
      .trim()
      .replace(/[\\^$.*+?()[\]{}|]/g, '\\$&')
      .replace(/\d+(?:\\\.\d+)? [nµm]?s\b/g, '\\S+ [nµm]?s') // a duration
      .replace(/\d+/g, '\\d+')
      .replace(/\\\|[@ ]+\\\|/, '\\|[@ ]+\\|') // a bar
      .replace(/\broot\b/g, '\\S+') // whoever runs the tests
      .replace(/ +/g, ' +')}$`,
  );

function run(file: string, args: readonly string[]): { status: number | null; output: string } {
  const { status, stdout, stderr } = spawnSync(file, args, {
    cwd: directory,
    input: '',
    encoding: 'utf8',
    timeout: 60_000,
    env: { ...process.env, PATH: `${join(directory, 'bin')}:${process.env['PATH']}` },
  });
  return { status, output: stdout + stderr };
}

for (const file of ['README.md', 'docs/library.md', 'docs/aggregates.md', 'docs/handlers.md'])
  void describe(`A program in ${file}`, () => {
    for (const [i, source] of blocksOf(file, 'ts').entries())
      void it(`runs: number ${i + 1}`, () => {
        // The types go, and nothing else: what this Node does not know, no reader's may need.
        const { code } = transformSync(source, { loader: 'ts', format: 'esm', target: 'esnext' });
        const program = join(directory, `${i}.mjs`);
        writeFileSync(program, code);
        const { status, output } = run(process.execPath, [program]);
        assert.equal(status, 0, output);
      });
  });

for (const file of ['README.md', 'docs/cli.md'])
  void describe(`A command in ${file}`, () => {
    const samples = blocksOf(file, '').filter((block) => block.startsWith('$ '));
    assert.ok(samples.length > 0);
    for (const sample of samples) {
      const [line = '', ...shown] = sample.trimEnd().split('\n');
      const typed = line.replace(/^\$ (npx )?/, '');
      void it(`shows what is written there: ${typed}`, () => {
        const { status, output } = run('sh', ['-c', typed]);
        assert.equal(status, 0, output);
        const lines = output.split('\n').map((l) => l.trim());
        for (const row of shown)
          assert.ok(
            lines.some((l) => pattern(row).test(l)),
            `${row}\n${output}`,
          );
      });
    }
  });
