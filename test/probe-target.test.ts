import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { text } from 'node:stream/consumers';
import { FileError, SpecError, UprobeError } from '#uprobe/base/errors.js';
import { startTarget, type SpawnFunction, type Target } from '#uprobe/probe/target.js';
import type { SpawnTargetOptions } from '#uprobe/probe/types.js';
import type { ExitStatus, SpawnRequest } from '#uprobe/process/spawn.js';
import { temporaryDirectory } from './helpers/compile.js';

/** Starts the program at `resume`, without a tracer. */
function plainSpawn(requests: SpawnRequest[] = []): SpawnFunction {
  return (request) => {
    requests.push(request);
    let finish: (status: ExitStatus) => void = () => undefined;
    const exited = new Promise<ExitStatus>((resolve) => (finish = resolve));
    const env = Object.fromEntries(
      request.env.map((e) => [e.slice(0, e.indexOf('=')), e.slice(e.indexOf('=') + 1)]),
    );
    const { file, argv, cwd, fds } = request;
    const options = { argv0: argv[0], env, stdio: [...fds], ...(cwd !== undefined && { cwd }) };
    const child = spawn(file, argv.slice(1), options);
    child.on('exit', (code, signal) => finish({ code, signal }));
    return Promise.resolve({
      pid: child.pid!,
      resume: () => Promise.resolve(),
      kill: (signal) => void child.kill(signal),
      exited,
    });
  };
}
const start = (
  command: string,
  args: string[] = [],
  options: SpawnTargetOptions = {},
  requests?: SpawnRequest[],
): Promise<Target> => startTarget(plainSpawn(requests), command, args, options);
const fails = async (code: string, starting: Promise<Target>): Promise<void> => {
  await assert.rejects(starting, (e) => e instanceof UprobeError && e.code === code && e.message.length > 20);
};

void describe('a target', () => {
  void it('has the streams of a child process', async () => {
    const target = await start('cat');
    target.stdin!.end('hello');
    assert.equal(await text(target.stdout!), 'hello');
    assert.equal(await text(target.stderr!), '');
    assert.deepEqual(await target.exited, { code: 0, signal: null });
  });

  void it('has the directory, environment and name it was given, and its command is found by their $PATH', async () => {
    const directory = temporaryDirectory();
    const script = join(directory, 'say');
    writeFileSync(script, '#!/bin/sh\necho "$X $(pwd) $1"\n');
    chmodSync(script, 0o755);
    const requests: SpawnRequest[] = [];
    const env = { PATH: `/bin:${directory}`, X: 'there', Y: undefined };
    const target = await start('say', ['one'], { cwd: directory, env, argv0: 'other' }, requests);
    assert.equal(await text(target.stdout!), `there ${directory} one\n`);
    assert.deepEqual(requests[0]!.argv, ['other', 'one']);
    assert.deepEqual(requests[0]!.env, [`PATH=/bin:${directory}`, 'X=there']);
    assert.equal(requests[0]!.file, script);
    await target.exited;
  });

  void it('may have our streams, none, or a descriptor', async () => {
    const requests: SpawnRequest[] = [];
    const target = await start('true', [], { stdio: ['ignore', 'inherit', 2] }, requests);
    assert.deepEqual([target.stdin, target.stdout, target.stderr], [null, null, null]);
    assert.deepEqual(requests[0]!.fds.slice(1), [1, 2]);
    await target.exited;
  });

  void it('can be killed, by name, by number and by a signal', async () => {
    const controller = new AbortController();
    const targets = await Promise.all([
      start('sleep', ['60']),
      start('sleep', ['60']),
      start('sleep', ['60'], { signal: controller.signal }),
    ]);
    targets[0].kill();
    targets[1].kill(9);
    controller.abort();
    assert.deepEqual(await Promise.all(targets.map(async (t) => (await t.exited).signal)), [
      'SIGTERM',
      'SIGKILL',
      'SIGKILL',
    ]);
    targets[0].kill();
    assert.throws(() => targets[0].kill('SIGWHAT' as NodeJS.Signals), SpecError);
  });

  void it('ends when it is disposed of', async () => {
    let ended: Promise<ExitStatus>;
    {
      await using target = await start('sleep', ['60']);
      ended = target.exited;
    }
    assert.equal((await ended).signal, 'SIGKILL');
  });

  void it('that cannot be started is an error that says what to do', async () => {
    await fails('ENOENT', start('no-such-program-anywhere'));
    await fails('ENOENT', start('/nowhere/program'));
    await fails('EACCES', start('/etc/passwd'));
    await fails('EACCES', start('/tmp/'));
    await fails('ENOENT', start('true', [], { cwd: '/nowhere' }));
    await fails('ENOTDIR', start('true', [], { cwd: '/etc/passwd' }));
    await fails('bad-argument', start(''));
    await fails('bad-argument', start('true', ['a\0b']));
    await fails('bad-argument', start('true', [], { env: { 'A=B': 'c' } }));
    await fails('bad-stdio', start('true', [], { stdio: 'loud' as 'pipe' }));
    await assert.rejects(start('true', [], { signal: AbortSignal.abort(new Error('early')) }), /early/);
    assert.ok(await start('no-such-program-anywhere').catch((e: unknown) => e instanceof FileError));
  });

  void it('leaves no descriptor behind, also when it could not be started', async () => {
    const count = (): number => readdirSync('/proc/self/fd').length;
    const target = await start('true');
    await text(target.stdout!);
    await target[Symbol.asyncDispose]();
    const before = count();
    for (let i = 0; i < 5; i++) {
      await assert.rejects(
        startTarget(() => Promise.reject(new Error('no')), 'true', [], {}),
        /no/,
      );
      const ended = await start('true');
      await Promise.all([ended.exited, once(ended.stdout!.resume(), 'close')]);
      await ended[Symbol.asyncDispose]();
    }
    await new Promise((r) => setTimeout(r, 50));
    assert.ok(count() <= before, `${count()} descriptors, ${before} before`);
  });
});
