/** The command line as its users meet it: a process. */
import { spawn, spawnSync } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import assert from 'node:assert/strict';
import { repositoryRoot } from './compile.js';

const main = join(repositoryRoot, 'dist', 'bin', 'uprobe.js');
/** Nothing here takes nearly as long; what hangs is to fail. */
const PATIENCE_MS = 60_000;

export interface Finished {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface CliOptions {
  readonly input?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** A command that executes it. */
  readonly wrapper?: readonly string[];
}

/** Run to the end. */
export function uprobe(args: readonly string[], options: CliOptions = {}): Finished {
  const { input = '', env, cwd, wrapper = [] } = options;
  const [command = '', ...words] = [...wrapper, process.execPath, main, ...args];
  const result = spawnSync(command, words, {
    input,
    encoding: 'utf8',
    timeout: PATIENCE_MS,
    killSignal: 'SIGKILL',
    maxBuffer: 1 << 28,
    ...(cwd !== undefined && { cwd }),
    env: { ...process.env, ...env },
  });
  assert.equal(result.error, undefined, `uprobe ${args.join(' ')} did not end`);
  const { status, signal, stdout, stderr } = result;
  return { status, signal, stdout, stderr };
}

/** One that goes on, with its output so far. */
export class Running {
  readonly child: ChildProcess;
  stdout = '';
  stderr = '';
  readonly #closed: Promise<unknown>;
  /** Status and signal of its own end; who has its output may go on. */
  readonly exited: Promise<unknown[]>;

  /** @param node the program that runs it */
  constructor(args: readonly string[], node = process.execPath) {
    this.child = spawn(node, [main, ...args], { stdio: ['pipe', 'pipe', 'pipe'] });
    this.#closed = once(this.child, 'close');
    this.exited = once(this.child, 'exit');
    this.child.stdout?.setEncoding('utf8').on('data', (text: string) => (this.stdout += text));
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => (this.stderr += text));
  }

  /** Wait until something is true of its output. */
  async until(what: string, isTrue: () => boolean): Promise<void> {
    const limit = performance.now() + PATIENCE_MS / 2;
    while (!isTrue()) {
      if (this.child.exitCode !== null || performance.now() > limit) {
        this.child.kill('SIGKILL');
        assert.fail(`${what} did not happen; stdout: ${this.stdout}; stderr: ${this.stderr}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  /** Wait for its end and for that of whoever has its output. */
  async end(): Promise<Finished> {
    const timer = setTimeout(() => this.child.kill('SIGKILL'), PATIENCE_MS / 2);
    await this.#closed;
    clearTimeout(timer);
    const { exitCode: status, signalCode: signal } = this.child;
    return { status, signal, stdout: this.stdout, stderr: this.stderr };
  }
}

export const linesOf = (text: string): string[] => text.split('\n').filter((line) => line !== '');

export const jsonLines = (text: string): Record<string, unknown>[] =>
  linesOf(text).map((line) => JSON.parse(line) as Record<string, unknown>);

/** Wrong input: one message, exit status 2, nothing else. */
export function assertRefused(args: readonly string[], message: RegExp, options: CliOptions = {}): void {
  const { status, stdout, stderr } = uprobe(args, options);
  assert.match(stderr, message);
  assert.equal(status, 2, stderr);
  assert.equal(stdout, '');
  assert.match(stderr, /^uprobe: /);
  assert.equal(stderr.match(/^uprobe: /gm)?.length, 1, `one message: ${stderr}`);
  assert.doesNotMatch(stderr, /\n\s+at .*:\d+:\d+/, 'no stack');
}

interface Schema {
  readonly type?: string | readonly string[];
  readonly enum?: readonly unknown[];
  readonly pattern?: string;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly additionalProperties?: boolean | Schema;
  readonly items?: Schema;
}

/** The schema that docs/json.md gives for a command. */
export function documentedSchema(name: string): Schema {
  const text = readFileSync(join(repositoryRoot, 'docs', 'json.md'), 'utf8');
  const block = new RegExp(`^\`\`\`json schema=${name}\n([^]*?)\n\`\`\``, 'm').exec(text);
  assert.ok(block?.[1] !== undefined, `docs/json.md has no schema for ${name}`);
  return JSON.parse(block[1]) as Schema;
}

/** As much of JSON Schema as the documented schemas use. */
export function assertConforms(value: unknown, schema: Schema, where = '$'): void {
  if (schema.type !== undefined) {
    assert.ok(
      [schema.type].flat().some((type) => isOfType(value, type)),
      `${where} is ${JSON.stringify(value)}`,
    );
  }
  if (schema.enum !== undefined)
    assert.ok(schema.enum.includes(value), `${where} is ${JSON.stringify(value)}`);
  if (schema.pattern !== undefined) assert.match(String(value), new RegExp(schema.pattern), where);
  if (Array.isArray(value)) {
    for (const [i, item] of value.entries()) assertConforms(item, schema.items ?? {}, `${where}[${i}]`);
  } else if (typeof value === 'object' && value !== null) {
    assertObject(value as Record<string, unknown>, schema, where);
  }
}

function assertObject(value: Record<string, unknown>, schema: Schema, where: string): void {
  for (const key of schema.required ?? []) assert.ok(Object.hasOwn(value, key), `${where} has no ${key}`);
  for (const [key, item] of Object.entries(value)) {
    const known = schema.properties?.[key] ?? schema.additionalProperties ?? true;
    assert.notEqual(known, false, `${where}.${key} is not documented`);
    if (typeof known === 'object') assertConforms(item, known, `${where}.${key}`);
  }
}

function isOfType(value: unknown, type: string): boolean {
  if (type === 'null') return value === null;
  if (type === 'array') return Array.isArray(value);
  if (type === 'integer') return Number.isSafeInteger(value);
  if (type === 'object') return typeof value === 'object' && value !== null && !Array.isArray(value);
  return typeof value === type;
}
