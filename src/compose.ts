/** The one file that wires the engines to the table. One table for each thread that loads this package. */
import { onExit } from 'signal-exit';
import { SpecError, makeRefusal } from './base/errors.js';
import type { Engine, EngineName, EngineSink } from './engines/engine.js';
import { costOf } from './engines/kernel/instructions.js';
import { createKernelEngine } from './engines/kernel/kernel-engine.js';
import { examineKernel } from './engines/kernel/findings.js';
import { unavailable } from './engines/kernel/machine.js';
import * as kernelRefusals from './engines/kernel/refusals.js';
import { refusalFor, refuseProcesses } from './engines/trap/refusals.js';
import { closeTracerAt } from './engines/trap/close-tracer.js';
import { createTrapEngine, type TrapEngine } from './engines/trap/trap-engine.js';
import { examineProcesses, type Finding } from './linux/examine.js';
import type { EngineOffer } from './probe/engine-choice.js';
import { openView, type ModuleView, type OpenModuleOptions } from './probe/inspect.js';
import { register } from './probe/register.js';
import { checkSpec, checkSpecs } from './probe/spec.js';
import { Table } from './probe/table.js';
import { startTarget, type Target } from './probe/target.js';
import type { SpawnTargetOptions, UprobeSpec } from './probe/types.js';
import { UprobeGroup } from './probe/uprobe-group.js';
import { Uprobe, type UprobeModule } from './probe/uprobe.js';

// The engines

let trap: TrapEngine | undefined;
let kernel: Engine | undefined;
let sinkOf: (name: EngineName) => EngineSink;

/** Made when it is first needed, and anew after it failed. */
function trapEngine(): TrapEngine {
  if (trap !== undefined) return trap;
  const sink = sinkOf('trap');
  const made = createTrapEngine({
    ...sink,
    failed: (error) => {
      trap = undefined;
      stay();
      sink.failed(error);
    },
  });
  trap = made;
  leave();
  return made;
}

function kernelEngine(): Engine {
  kernel ??= createKernelEngine(sinkOf('kernel'));
  leave();
  return kernel;
}

let unhook: (() => void) | undefined;

/**
 * As long as there is an engine, every way out of this process that can be caught lets its targets go and ends its
 * thread: a normal exit would wait forever for a thread that sleeps in the kernel. Nothing is hooked before.
 */
function leave(): void {
  unhook ??= onExit(closeOwnEngines, { alwaysLast: true });
}

function stay(): void {
  if (trap !== undefined || kernel !== undefined) return;
  unhook?.();
  unhook = undefined;
}

/**
 * A thread that is ended with its process has no exit of its own. Whoever started it has it close its engine first, and where
 * the thread no longer listens closes the engine by its handle.
 */
export const engineHandle = (): number => trapEngine().handle;
export function closeOwnEngines(): void {
  trap?.closeSync();
  kernel?.closeSync();
}
export const closeEngineOf = (handle: number): void => closeTracerAt(handle);

const missing = (name: EngineName): EngineOffer => ({
  name,
  missing: makeRefusal(
    'engine-not-available',
    `this version of uprobe has no ${name} engine`,
    (words) => `Use ${words.engine('trap')}, or leave it out`,
  ),
});

/** In the order of preference. */
function offers(sinks: (name: EngineName) => EngineSink): readonly EngineOffer[] {
  sinkOf = sinks;
  return [
    { name: 'trap', refuseProcesses, canArm: refusalFor, engine: trapEngine },
    missing('jump'),
    {
      name: 'kernel',
      refuseProcesses: kernelRefusals.refuseProcesses,
      canArm: kernelRefusals.refusalFor,
      describe: costOf,
      unavailable,
      engine: kernelEngine,
    },
  ];
}

const table = new Table(offers);

// The public functions

/**
 * Probe one place. Resolves when it is armed in every process concerned that maps the file, and `pending` where none
 * does yet. Rejects with SpecError, FileError, PlaceError, ProcessError or RefusedError, and then nothing was changed.
 */
export async function registerUprobe<C = unknown>(spec: UprobeSpec<C>): Promise<Uprobe> {
  const [registration] = await register(table, [checkSpec(spec)], { one: true });
  return registration!.view;
}

/** Probe any number of places as one transaction: all of them, or none. */
export async function registerUprobes<C = unknown>(specs: Iterable<UprobeSpec<C>>): Promise<UprobeGroup> {
  const checked = checkSpecs(specs);
  return new UprobeGroup(await register(table, checked), checked);
}

/** The same as `uprobe.unregister()`: idempotent, never rejects for a uprobe or a group. */
export async function unregisterUprobe(uprobe: Uprobe | UprobeGroup): Promise<void> {
  if (!(uprobe instanceof Uprobe || uprobe instanceof UprobeGroup))
    throw new SpecError(
      'bad-uprobe',
      'unregisterUprobe takes what registerUprobe or registerUprobes returned',
    );
  await uprobe.unregister();
}

/** Every uprobe that is registered now, in registration order. */
export const uprobes = (): readonly Uprobe[] => table.registrations().map((r) => r.view);

/** Every file that is probed now. */
export const modules = (): readonly UprobeModule[] => table.modules().map((m) => m.view);

/**
 * Start a program that stops before its first instruction, until `target.resume()`. Like `child_process.spawn` in what
 * it takes; the command is found by the $PATH of the given environment.
 */
export const spawnTarget = (
  command: string,
  args: readonly string[] = [],
  options: SpawnTargetOptions = {},
): Promise<Target> => startTarget((request) => trapEngine().spawn(request), command, args, options);

/** Look at a program or library without probing it: its functions, instructions, and what a probe would become. */
export const openModule = (pathname: string, options: OpenModuleOptions = {}): ModuleView =>
  openView(pathname, options, table.offers);

/** Look at everything the engines need. Starts (and ends) children of its own; touches no other process. */
export const examineMachine = (): Promise<readonly Finding[]> =>
  Promise.resolve([...examineProcesses(), ...examineKernel()]);
