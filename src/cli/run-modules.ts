/** `uprobe run`: probe modules, on a thread of their own. */
import { ProbeThread } from '../probe-modules/thread.js';
import type { ModuleRequest } from '../probe-modules/protocol.js';
import { describeParameters } from '../probe-modules/parameters.js';
import { escapeText } from '../base/escape.js';
import { LineWriter } from '../outputs/line-writer.js';
import { Ending } from './ending.js';
import { note, openOutput } from './output.js';
import { noneLeft, run } from './run.js';
import { chooseTargets } from './targets.js';
import type { TargetOptions, Whom } from './targets.js';
import { UsageError } from './usage-error.js';

export interface RunOptions extends TargetOptions {
  /** Milliseconds. */
  readonly duration?: number;
  readonly output?: string;
}

export async function runModules(
  words: readonly string[],
  options: RunOptions,
  command: readonly string[] | undefined,
): Promise<number> {
  const modules = parseModules(words);
  const targets = chooseTargets(options, command);
  if (targets.kind === 'pids') processesOf(targets);
  const beside = targets.kind === 'command' ? 'command' : 'nothing';
  const ending = new Ending();
  let failed = false;
  const failedAtEnd = (error: Error): void => {
    failed = true;
    note(error.message);
  };
  const thread = startThread(ending, openOutput(undefined, beside), true, failedAtEnd);
  // before any process is touched
  await thread.import(modules, true);
  const status = await run({
    targets,
    duration: options.duration,
    ending,
    start: (file, args) => thread.spawn(file, args),
    arm: async (whom) => {
      const fd = openOutput(options.output, beside);
      const processes = processesOf(whom);
      try {
        await thread.load({ processes, command, fd });
      } catch (e) {
        await thread.unload();
        throw e;
      }
      const rootIsGone = noneLeft(whom.pids);
      return {
        places: [],
        describeUnreached: () => [],
        isOver: () => rootIsGone() && thread.nothingIsLeft,
        unregister: () => unload(thread),
      };
    },
    finished: () => undefined,
  });
  return failed ? 1 : status;
}

/** Who does not want to wait for a module's end may say so again. */
async function unload(thread: ProbeThread): Promise<void> {
  const impatient = new Promise<void>((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => resolve());
  });
  await Promise.race([thread.unload(), impatient]);
  thread.closeNow();
}

function startThread(
  ending: Ending,
  fd: number,
  probes: boolean,
  failedAtEnd: (error: Error) => void,
): ProbeThread {
  return new ProbeThread(
    { fd, probes },
    {
      ended: () => ending.end({ why: 'enough' }),
      outputBroken: (error) => ending.end({ why: 'output', error }),
      crashed: (error) => {
        // a run that has ended already has not ended well
        if (ending.reason !== undefined) failedAtEnd(error);
        ending.end({ why: 'failed', error });
      },
      note,
    },
  );
}

/** `FILE NAME=VALUE … FILE …`: as of `insmod`, what stands behind a file is that file's. */
export function parseModules(words: readonly string[]): ModuleRequest[] {
  const modules: { file: string; given: [string, string][] }[] = [];
  for (const word of words) {
    const parameter = /^([A-Za-z_]\w*)=(.*)$/s.exec(word);
    if (parameter === null) modules.push({ file: word, given: [] });
    else if (modules.length === 0) throw new UsageError(`name the file before its parameter: FILE ${word}`);
    else modules.at(-1)!.given.push([parameter[1]!, parameter[2]!]);
  }
  if (modules.length === 0) throw new UsageError('name a probe module: uprobe run FILE -- COMMAND');
  return modules;
}

/** What a module puts into its specs is one thing: some processes, or one tree. */
function processesOf({ pids, trees }: Whom): readonly number[] | { readonly tree: number } {
  if (trees.size === 0) return pids;
  const [tree] = pids;
  if (pids.length > 1 || tree === undefined)
    throw new UsageError('a probe module gets one tree of processes, or any number of single ones');
  return { tree };
}

/** `uprobe run FILE --help`: what modinfo(8) is for the kernel's. Nothing is loaded. */
export async function describeModules(words: readonly string[]): Promise<number> {
  const ending = new Ending();
  const thread = startThread(ending, 1, false, () => undefined);
  const lines = new LineWriter(1, () => undefined);
  for (const { file, description, parameters } of await thread.import(parseModules(words), false)) {
    lines.line(escapeText(description === undefined ? file : `${file}: ${description}`));
    const described = describeParameters(parameters ?? {});
    const width = Math.max(0, ...described.map(({ word }) => word.length));
    for (const { word, text } of described)
      lines.line(`  ${escapeText(word).padEnd(width)}  ${escapeText(text)}`);
    if (parameters === undefined) lines.line('  NAME=VALUE  as it likes: it declares no parameters');
  }
  lines.flush();
  return 0;
}
