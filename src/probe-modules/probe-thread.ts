/**
 * The probe thread: a Worker whose event loop runs the handlers of the modules and nothing else. It has the library, its
 * table and its tracer for itself.
 */
import { setMaxListeners } from 'node:events';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parentPort, workerData } from 'node:worker_threads';
import { closeOwnEngines, engineHandle } from '../compose.js';
import { spawnTarget, uprobes, type HandlerError, type Target } from '../index.js';
import { UprobeError, messageOf } from '../base/errors.js';
import { prepare } from '../prepare.js';
import { LIBRARIES, NOBODY } from './hooks.js';
import { installHooks } from './install-hooks.js';
import { LIBRARY_NAMES, ModuleLibrary, type Hears } from './library.js';
import { asModuleError, importModule, isPlaced, type CheckedModule } from './loader.js';
import { ModuleOutput } from './output.js';
import { valuesOf, type Value } from './parameters.js';
import { toPlain, type Answer, type Command, type LoadRequest, type ModuleRequest } from './protocol.js';
import type { ProbeThreadInit } from './thread.js';
import type { Unload } from './types.js';
import { placeIn } from './where.js';

const port = parentPort;
if (port === null) throw new Error('probe-thread.js is the worker of `uprobe run`, not a program');
const { fd, probes, closed } = workerData as ProbeThreadInit;
const say = (message: Answer): void => port.postMessage(message);
const note = (text: string): void => say({ kind: 'note', text });

// Whose error is it

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
/** Files of this package but the examples. */
const isOurs = (path: string): boolean =>
  path.startsWith(`${ROOT}/`) && !path.startsWith(`${ROOT}/examples/`);
/** Where a registration that failed was asked for: its own stack may end in the library. */
const asked = new WeakMap<object, string>();

/** What an error says, behind the place in its author's file. */
function located(e: unknown): string {
  if (e instanceof SyntaxError && isPlaced(e)) return e.message;
  const text = e instanceof Error && !(e instanceof UprobeError) ? `${e.name}: ${e.message}` : messageOf(e);
  if (typeof e !== 'object' || e === null) return text;
  const place = placeIn((e as Error).stack, isOurs) ?? placeIn(asked.get(e), isOurs);
  return place === undefined ? text : `${place}: ${text}`;
}

const told = new Set<string>();
const hears: Hears = {
  error({ uprobe, kind, pid, error }: HandlerError) {
    if (error instanceof UprobeError && error.code === 'engine-failed')
      return say({ kind: 'crashed', message: error.message });
    const name = `${uprobe.module.path}:${uprobe.symbol ?? `0x${uprobe.offset.toString(16)}`}`;
    const what = kind === 'uprobe' ? '' : `the ${kind} handler of ${name} has thrown in process ${pid}: `;
    const text = `${what}${located(error)}`;
    if (!told.has(text) && told.size < 100) note(text);
    told.add(text);
  },
  failed(error, stack) {
    if (typeof error === 'object' && error !== null && stack !== undefined) asked.set(error, stack);
  },
};

// The modules

class LoadedModule {
  readonly #abort = new AbortController();
  readonly library = new ModuleLibrary(hears);
  #values: Readonly<Record<string, Value>> = {};
  #unload: Unload | undefined;
  #unloading: Promise<void> | undefined;
  form: CheckedModule | undefined;

  constructor(readonly request: ModuleRequest) {
    setMaxListeners(0, this.#abort.signal); // it may be given to any number of specs
  }

  checkParameters(): void {
    const { file, given } = this.request;
    this.#values = valuesOf(this.form?.parameters, given, file);
  }

  async load({ processes, command }: LoadRequest): Promise<void> {
    const unload = await this.form!.load({
      processes,
      command,
      parameters: this.#values as never,
      signal: this.#abort.signal,
      print: output.print,
      end: () => void this.unload().then(endIfAllHave),
    });
    if (unload !== undefined && typeof unload !== 'function')
      throw new TypeError(
        `${this.request.file}: what load returns must be a function, to be called at the end`,
      );
    if (unload === undefined) return;
    if (this.#unloading === undefined) this.#unload = unload;
    else await unload(); // it has ended while it was being loaded
  }

  get isUnloaded(): boolean {
    return this.#unloading !== undefined;
  }

  unload(): Promise<void> {
    return (this.#unloading ??= this.#takeOut());
  }

  async #takeOut(): Promise<void> {
    this.#abort.abort();
    await this.library.close();
    try {
      await this.#unload?.();
    } catch (e) {
      say({ kind: 'crashed', message: located(e) });
    }
    const { missed, errors } = this.library.losses;
    if (missed > 0n) note(`${this.request.file}: ${missed} hits could not be handled in time`);
    if (errors > 1n) note(`${this.request.file}: its handlers have thrown ${errors} times`);
  }
}

const modules: LoadedModule[] = [];
/** For packages that several modules may share. */
const shared = new ModuleLibrary(hears);
(globalThis as unknown as Record<symbol, unknown>)[LIBRARIES] = {
  of: (owner: string) => (owner === NOBODY ? shared : modules[Number(owner)]!.library).exports,
};

function endIfAllHave(): void {
  if (modules.every((m) => m.isUnloaded)) say({ kind: 'ended' });
}

async function importAll(requests: readonly ModuleRequest[], check: boolean): Promise<unknown> {
  installHooks({ names: LIBRARY_NAMES });
  for (const request of requests) {
    const module = new LoadedModule(request);
    const owner = modules.push(module) - 1;
    try {
      module.form = await importModule(request.file, owner);
    } catch (e) {
      throw asModuleError(e, located(e));
    }
    if (check) module.checkParameters();
  }
  return modules.map(({ request: { file }, form }) => {
    const { description, parameters } = form!;
    return { file, description, parameters };
  });
}

async function loadAll(request: LoadRequest): Promise<void> {
  output.switchTo(request.fd);
  if ('tree' in request.processes) watchTree();
  for (const module of modules) await module.load(request);
  // what a module says while it is loaded comes before what the command says
  output.flush();
}

/** How often we look whether a tree still has somebody. */
const LOOK_MS = 50;

function watchTree(): void {
  let was = false;
  setInterval(() => {
    const isSo = uprobes().every((uprobe) => uprobe.state === 'gone');
    if (isSo !== was) say({ kind: 'nothing-left', isSo });
    was = isSo;
  }, LOOK_MS);
}

async function unloadAll(): Promise<void> {
  say({ kind: 'unloading' });
  for (const module of [...modules].reverse()) await module.unload();
  await shared.close();
  output.flush();
}

// The command

let target: Target | undefined;

async function spawn(command: string, args: readonly string[]): Promise<number> {
  target = await spawnTarget(command, args, { stdio: 'inherit' });
  void target.exited.then((status) => say({ kind: 'exited', status }));
  return target.pid;
}

// The other thread

function serve(command: Command): unknown {
  switch (command.kind) {
    case 'import':
      return importAll(command.modules, command.check);
    case 'spawn':
      return spawn(command.command, command.args);
    case 'resume':
      return target?.resume();
    case 'load':
      return loadAll(command);
    case 'unload':
      return unloadAll();
    case 'close':
      output.flush();
      closeOwnEngines();
      Atomics.store(closed, 0, 1);
      Atomics.notify(closed, 0);
      return undefined;
  }
}

async function answer(command: Command): Promise<void> {
  const { id } = command;
  try {
    say({ kind: 'done', id, value: await serve(command) });
  } catch (e) {
    say({ kind: 'failed', id, error: toPlain(e, located(e)) });
  }
}

const output = new ModuleOutput(fd, ({ message, code }) => say({ kind: 'output-broken', message, code }));
output.takeConsole();
process.on('uncaughtException', (e) => say({ kind: 'crashed', message: located(e) }));
process.on('exit', () => output.flush());
if (probes) {
  prepare();
  say({ kind: 'ready', engine: engineHandle() });
}
port.on('message', (command: Command) => void answer(command));
