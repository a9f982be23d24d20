/** `uprobe run`: probe modules as their authors write them, in files outside of any package. */
import assert from 'node:assert/strict';
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { Running, assertRefused, linesOf, uprobe } from '../helpers/cli.js';
import { compileFixture, privateCopy, temporaryDirectory } from '../helpers/compile.js';
import { victim } from '../helpers/victim.js';
import { startProgram, tracerOf, until } from '../helpers/running.js';

const directory = temporaryDirectory();
const calls = privateCopy(compileFixture('calls'));
let written = 0;

/** A file of its own for each text. */
function file(text: string, name = `module-${++written}.ts`): string {
  const path = join(directory, name);
  writeFileSync(path, text);
  return path;
}

/** A module whose load function has this body. */
const loading = (body: string, before = ''): string =>
  `import { registerUprobe, registerUprobes, type ProbeContext } from 'uprobe';\n${before}\n` +
  `export default async function ({ processes, print, parameters, signal, end }: ProbeContext) {\n${body}\n}\n`;

const CALLS = `pathname: ${JSON.stringify(calls)}, symbol: 'add', processes`;
const COUNTING = `
  let n = 0;
  const probe = await registerUprobe({ ${CALLS}, preHandler: () => { n++; } });
  return () => print('counted', n, Number(probe.nhits), probe.state);`;

void describe('a probe module', () => {
  void it('probes a command from its first instruction, and has its last word when its probes are gone', () => {
    const result = uprobe(['run', file(loading(COUNTING)), '--', calls, '3']);
    assert.equal(result.status, 0, result.stderr);
    assert.equal(result.stdout, uprobe(['count', `${calls}:add`, '--', calls, '3']).stdout);
    assert.equal(result.stderr, 'counted 6 6 gone\n');
  });

  void it('gives the command its own exit status', () => {
    const { status } = uprobe(['run', file(loading(COUNTING)), '--', 'sh', '-c', 'exit 7']);
    assert.equal(status, 7);
  });

  void it('is given a whole tree, and ends with the last of it', () => {
    const script = `(sleep 0.3; '${calls}' 2) & '${calls}' 1; exit 5`;
    const { status, stdout, stderr } = uprobe([
      'run',
      '-f',
      file(loading(`print(processes);${COUNTING}`)),
      '--',
      'sh',
      '-c',
      script,
    ]);
    assert.equal(status, 5, stderr);
    assert.match(stdout, /^rounds=1 [^]*^rounds=2 /m);
    assert.match(stderr, /^\{ tree: \d+ \}\ncounted 6 6 gone\n$/);
  });

  void it('probes processes that run, and lets them go at Ctrl-C', async () => {
    const program = await startProgram(privateCopy(compileFixture('loop')), ['slow']);
    const running = new Running([
      'run',
      file(
        loading(`
          let n = 0;
          await registerUprobe({ pathname: '/proc/' + processes[0] + '/exe', symbol: 'tick', processes,
            preHandler() { if (++n === 3) print('three'); } });
          return async () => { await null; print('gone'); };`),
      ),
      '-p',
      String(program.pid),
    ]);
    await running.until('three hits', () => running.stdout.includes('three\n'));
    running.child.kill('SIGINT');
    const { status, stdout, stderr } = await running.end();
    assert.deepEqual([status, stdout, stderr], [0, 'three\ngone\n', '']);
    assert.equal(tracerOf(program.pid), '0');
    assert.match(await program.finish(), /ticks=\d+ wrong=0 status 0$/);
  });

  void it('has the text of its handlers as its author wrote it', () => {
    const handler = `(hit) => {\n    // café ☕\n    const  size = hit.arg( 0 );   print(handler === saved, String(handler));\n  }`;
    const text = loading(
      `  const saved: unknown = 1; const handler: any = ${handler};\n print(String(handler));`,
      'interface Size { bytes: bigint }   type T<A> = A extends Size ? 1 : 2;',
    );
    const { stderr } = uprobe(['run', file(text), '--', 'true']);
    assert.equal(stderr, `${handler}\n`);
  });

  void it('finds the library also where another one is installed, and its own files beside it', () => {
    const project = join(directory, 'project');
    mkdirSync(join(project, 'node_modules', 'uprobe'), { recursive: true });
    writeFileSync(
      join(project, 'node_modules', 'uprobe', 'package.json'),
      '{ "name": "uprobe", "type": "module", "main": "x.js" }',
    );
    writeFileSync(join(project, 'node_modules', 'uprobe', 'x.js'), 'throw new Error("the wrong library");');
    writeFileSync(
      join(project, 'helper.ts'),
      `export const name: string = 'add';\nexport let n = 0;\nexport const more = (): number => ++n;`,
    );
    writeFileSync(
      join(project, 'main.mts'),
      `import * as uprobe from 'uprobe'; import { more, name } from './helper.ts';
       export default async ({ processes, print }) => {
         await uprobe.registerUprobe({ pathname: ${JSON.stringify(calls)}, symbol: name, processes, preHandler: () => { more(); } });
         return () => print(more(), Object.keys(uprobe).includes('openModule'));
       };`,
    );
    const { stderr } = uprobe([
      'run',
      join(project, 'main.mts'),
      join(project, 'main.mts'),
      '--',
      calls,
      '3',
    ]);
    // twice the same file: each has its own copy of everything
    assert.deepEqual(linesOf(stderr), ['7 true', '7 true']);
  });

  void it('may be JavaScript, and an object with a description and parameters', () => {
    const text = `
      import { probeModule } from 'uprobe';
      export default probeModule({
        description: 'Shows what it is given',
        parameters: {
          nth: { type: 'number', default: 3, description: 'which call' },
          name: { type: 'string' },
          quiet: { type: 'boolean', optional: true },
          address: { type: 'bigint', default: 0x10n },
        },
        load: ({ parameters, print, command }) => print(parameters, command),
      });`;
    const path = file(text, 'given.mjs');
    const { status, stdout } = uprobe(['run', path, '--help']);
    assert.equal(status, 0);
    assert.deepEqual(linesOf(stdout), [
      `${path}: Shows what it is given`,
      '  nth=NUMBER      which call (default 3)',
      '  name=STRING     (must be given)',
      '  quiet=BOOLEAN   (optional)',
      '  address=BIGINT  (default 16)',
    ]);
    const run = uprobe(['run', path, 'name=a=b', 'nth=0x20', 'quiet=y', '--', 'true', 'x']);
    assert.equal(run.stderr, "{ nth: 32, name: 'a=b', quiet: true, address: 16n } [ 'true', 'x' ]\n");
    assertRefused(['run', path, '--', 'true'], /given\.mjs needs name=… \(a string\)/);
    assertRefused(['run', path, 'name=x', 'nht=4', '--', 'true'], /no parameter nht: did you mean nth\?/);
    assertRefused(
      ['run', path, 'name=x', 'nth=many', '--', 'true'],
      /nth=many is wrong \(a number: which call\)/,
    );
    assertRefused(['run', 'nth=3', path, '--', 'true'], /name the file before its parameter/);
  });

  void it('loses nothing of what it prints, however, and keeps the order', () => {
    const text = loading(`
      for (let i = 0; i < 30000; i++) i % 3 === 0 ? print(i) : i % 3 === 1 ? console.log(i) : process.stdout.write(i + '\\n');
      print('an escape: \\u001b[2J');
      end();`);
    const program = uprobe(['run', file(text), '-o', join(directory, 'out'), '--', 'sleep', '0.01']);
    assert.equal(program.status, 0);
    const piped = uprobe(['run', file(text), '--', 'sh', '-c', 'sleep 0.05']);
    const expected = [...Array(30000).keys(), 'an escape: \\x1b[2J'].join('\n');
    assert.equal(piped.stderr.replace(/uprobe: process \d+ goes on\n/, ''), `${expected}\n`);
  });

  void it('ends the run when it says so, and is unloaded', async () => {
    const program = await startProgram(privateCopy(compileFixture('loop')), ['slow']);
    const text = loading(`
      let n = 0;
      signal.addEventListener('abort', () => print('aborted'));
      await registerUprobe({ pathname: '/proc/' + processes[0] + '/exe', symbol: 'tick', processes,
        preHandler() { if (++n === 5) end(); } });
      return () => print(n >= 5);`);
    const { status, stdout } = uprobe(['run', file(text), '-p', String(program.pid)]);
    assert.deepEqual([status, stdout], [0, 'aborted\ntrue\n']);
    assert.match(await program.finish(), /wrong=0 status 0$/);
  });
});

void describe('several probe modules', () => {
  void it('are loaded in order and unloaded in reverse, each with its own parameters', () => {
    const text = loading(`
      print('load', parameters.name);
      return () => print('unload', parameters.name);`);
    const path = file(text);
    const { stderr } = uprobe(['run', path, 'name=a', path, 'name=b', file(text), 'name=c', '--', 'true']);
    assert.deepEqual(linesOf(stderr), ['load a', 'load b', 'load c', 'unload c', 'unload b', 'unload a']);
  });

  void it('go on when one of them ends', () => {
    const first = file(
      loading(`
        let n = 0;
        const probe = await registerUprobe({ ${CALLS}, preHandler() { n++; end(); } });
        return () => print('first', n, probe.state);`),
    );
    const { stderr } = uprobe(['run', first, file(loading(COUNTING)), '--', calls, '3']);
    assert.match(stderr, /^first [1-6] gone$/m);
    assert.match(stderr, /^counted 6 6 gone$/m);
  });

  void it('are all undone when one cannot be loaded', () => {
    const good = file(loading(COUNTING.replace('n, Number(probe.nhits)', "'undone'")));
    const bad = file(loading(`\n  throw new Error('not today');`));
    const { status, stdout, stderr } = uprobe(['run', good, bad, '--', 'echo', 'never']);
    assert.equal(status, 1);
    assert.equal(stdout, '', 'the command has not run');
    assert.deepEqual(linesOf(stderr), ['counted undone gone', `uprobe: ${bad}:5:9: Error: not today`]);
  });
});

void describe('an error in a probe module names its file and line', () => {
  const at = (path: string, place: string): RegExp =>
    new RegExp(`^uprobe: ${path.replace(/[.]/g, '\\.')}:${place}: `);
  const run = (path: string): string[] => ['run', path, '--', 'echo', 'never'];

  void it('where it is no TypeScript: module-syntax', () => {
    const path = file('const a: number = 1;\nlet b = = 2;\n');
    assertRefused(run(path), at(path, '2:9'));
  });
  void it('where it is no JavaScript', () => {
    const path = file('const a = 1;\nlet b = = 2;\n', 'broken.mjs');
    assertRefused(run(path), at(path, '2:9'));
  });
  void it('where it uses what cannot be erased', () => {
    for (const text of ['\n  enum A { B }', '\n  namespace A { export const x = 1 }']) {
      const path = file(text);
      assertRefused(run(path), at(path, '2:3'));
      assertRefused(run(path), /not supported .*Only what can be erased/);
    }
  });
  void it('where it imports what is not there: module-import', () => {
    const path = file(`import { registerProbe } from 'uprobe';\n`);
    assertRefused(run(path), at(path, '1'));
    assertRefused(run(path), /does not provide an export named 'registerProbe'/);
    assertRefused(run(file(`import './nowhere.ts';\n`)), /nowhere\.ts/);
  });
  void it('where its top level throws', () => {
    const path = file(`\nconst x: { y: number } | undefined = undefined;\nexport default x.y;`);
    const { status, stderr } = uprobe(run(path));
    assert.match(stderr, at(path, '3:18'));
    assert.equal(status, 1);
  });
  void it('where a spec is wrong, also when nobody waits for it', () => {
    const awaited = file(loading(`\n  await registerUprobe({ ${CALLS.replace('add', 'ad')} });`));
    assertRefused(run(awaited), at(awaited, '5:9'));
    assertRefused(run(awaited), /Did you mean add/);
    const later = file(
      loading(
        `\n  void registerUprobe({ ${CALLS}, preHandlr() {} });\n  await new Promise((r) => setTimeout(r, 200));`,
      ),
    );
    const { status, stderr } = uprobe(run(later));
    assert.match(stderr, at(later, '5:8'));
    assert.equal(status, 1);
  });
  void it('where a handler throws, and the program goes on', () => {
    const path = file(
      loading(`  await registerUprobe({ ${CALLS},\n  preHandler(hit) {\n    hit.nothing.at(0);\n  } });`),
    );
    const { status, stderr } = uprobe(['run', path, '--', calls, '3']);
    assert.equal(status, 0);
    const [first, ...rest] = linesOf(stderr);
    assert.match(
      first!,
      /^uprobe: the pre handler of \S+calls:add has thrown in process \d+: \S+\.ts:6:17: TypeError: /,
    );
    assert.deepEqual(rest, [`uprobe: ${path}: its handlers have thrown 6 times`]);
  });
  void it('where something fails later', () => {
    const path = file(loading(`  setTimeout(() => {\n    throw new Error('too late');\n  }, 50);`));
    const { status, stderr } = uprobe(['run', path, '--', 'sleep', '1']);
    assert.equal(status, 1);
    assert.match(stderr, new RegExp(`^uprobe: ${path}:5:11: Error: too late$`, 'm'));
  });
  void it('where its last word fails', () => {
    const path = file(loading(`  return () => {\n    throw new Error('in the end');\n  };`));
    const { status, stderr } = uprobe(['run', path, '--', 'true']);
    assert.equal(status, 1);
    assert.equal(stderr, `uprobe: ${path}:5:11: Error: in the end\n`);
  });
});

void describe('what is no probe module is refused before anything is started', () => {
  void it('a file that is not there: no-such-module', () =>
    assertRefused(
      ['run', join(directory, 'nowhere.ts'), '--', 'true'],
      /nowhere\.ts: there is no such file/,
    ));
  void it('a directory', () => assertRefused(['run', directory, '--', 'true'], /it is not a file/));
  void it('another kind of file: bad-module', () =>
    assertRefused(['run', '/bin/ls', '--', 'true'], /ls: a probe module's name ends with \.ts/));
  void it('one without a default export', () =>
    assertRefused(
      ['run', file('export const x = 1;'), '--', 'true'],
      /it has no default export: write export default/,
    ));
  void it('an object that is none', () => {
    assertRefused(['run', file('export default { laod() {} };'), '--', 'true'], /unknown key "laod"/);
    assertRefused(
      ['run', file('export default { description: "x" };'), '--', 'true'],
      /no function called load/,
    );
  });
  void it('parameters that are none: bad-parameter', () =>
    assertRefused(
      ['run', file("export default { parameters: { n: { type: 'int' } }, load() {} };"), '--', 'true'],
      /parameter "n" must say its type: 'string', 'number', 'bigint', 'boolean'/,
    ));
  void it('no file, no process, both kinds of processes', () => {
    assertRefused(['run', '--', 'true'], /name a probe module/);
    assertRefused(['run', 'x.ts'], /say which processes/);
    const [a, b] = [victim(), victim()].map(String);
    assertRefused(['run', 'x.ts', '--tree', a!, '-p', b!], /a probe module gets one tree of processes/);
  });
});

void describe('a probe module that does not behave', () => {
  void it('cannot register any more when it is unloaded: module-unloaded', () => {
    const path = file(
      loading(`  return async () => {
        await registerUprobe({ ${CALLS} }).catch((e) => print(e.code));
        const { uprobes } = await import('uprobe');
        print(uprobes().length);
      };`),
    );
    assert.equal(uprobe(['run', path, '--', 'true']).stderr, 'module-unloaded\n0\n');
  });

  void it('with a handler that never returns harms no program', async () => {
    const program = await startProgram(privateCopy(compileFixture('loop')), ['slow']);
    const path = file(
      loading(`
        await registerUprobe({ pathname: '/proc/' + processes[0] + '/exe', symbol: 'tick', processes, deadline: 50,
          preHandler() { print('stuck'); process.stdout.write(''); for (;;); } });
        print('armed');`),
    );
    const running = new Running(['run', path, '-p', String(program.pid)]);
    await until('it is attached', () => tracerOf(program.pid) !== '0');
    await new Promise((resolve) => setTimeout(resolve, 500));
    running.child.kill('SIGINT');
    await new Promise((resolve) => setTimeout(resolve, 200));
    running.child.kill('SIGINT'); // impatient
    const { status } = await running.end();
    assert.equal(status, 0, running.stderr);
    assert.equal(tracerOf(program.pid), '0');
    assert.match(await program.finish(), /ticks=\d+ wrong=0 status 0$/);
  });

  void it('that leaves by process.exit ends the run, and its probes are gone', async () => {
    const program = await startProgram(privateCopy(compileFixture('loop')), ['slow']);
    const path = file(
      loading(`
        let n = 0;
        await registerUprobe({ pathname: '/proc/' + processes[0] + '/exe', symbol: 'tick', processes,
          preHandler() { if (++n === 3) setImmediate(() => process.exit(3)); } });`),
    );
    const { status, stderr } = uprobe(['run', path, '-p', String(program.pid)]);
    assert.equal(status, 1);
    assert.match(stderr, /a module has called process\.exit\(3\)/);
    assert.match(await program.finish(), /ticks=\d+ wrong=0 status 0$/);
  });
});

void it('the command line of an installed package finds its library through a link, too', () => {
  const home = join(directory, 'home');
  mkdirSync(join(home, 'node_modules'), { recursive: true });
  symlinkSync(directory, join(home, 'node_modules', 'probes'));
  const path = join(home, 'node_modules', 'probes', 'linked.ts');
  writeFileSync(path, loading(COUNTING));
  assert.equal(uprobe(['run', path, '--', calls, '3']).stderr, 'counted 6 6 gone\n');
});
