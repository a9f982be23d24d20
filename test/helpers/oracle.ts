/**
 * Two witnesses to how often an instruction ran, neither of them ours: a program that single-steps (fixtures/stepper.c)
 * and the kernel's own uprobes.
 */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, realpathSync, rmdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { compileFixture, temporaryDirectory } from './compile.js';

export interface StepOptions {
  cwd?: string;
  env?: NodeJS.ProcessEnv;
  /** What the command reads from its stdin; default /dev/null. */
  input?: string;
  /**
   * Let the dynamic linker run freely and begin at the program's entry point: a second less. What ran before is not
   * counted: constructors and ifunc resolvers of libraries.
   */
  fromEntry?: boolean;
  /** Milliseconds before everything is killed and the call rejects; default 120,000 (a step takes about 10 µs). */
  timeout?: number;
}

export interface StepResult {
  /** File offset → how often a thread arrived at the instruction there. Only offsets that were reached. */
  readonly counts: Map<number, number>;
  readonly stdout: string;
  readonly stderr: string;
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** Several modules at once: counts by the path given. */
export interface StepModulesResult extends Omit<StepResult, 'counts'> {
  readonly modules: Map<string, Map<number, number>>;
}

/** Run a command, single-stepping all its threads (not its children), and count in one file it maps. */
export async function stepCounts(
  command: string,
  args: readonly string[],
  modulePath: string,
  options: StepOptions = {},
): Promise<StepResult> {
  const { modules, ...rest } = await stepModules(command, args, [modulePath], options);
  return { ...rest, counts: modules.get(modulePath) ?? new Map<number, number>() };
}

export async function stepModules(
  command: string,
  args: readonly string[],
  modulePaths: readonly string[],
  options: StepOptions = {},
): Promise<StepModulesResult> {
  const stepper = compileFixture('stepper');
  const out = join(temporaryDirectory(), 'counts');
  const ended = await collect(
    stepper,
    [...(options.fromEntry ? ['-e'] : []), out, ...modulePaths, '--', command, ...args],
    options,
  );
  const text = existsSync(out) ? readFileSync(out, 'utf8') : '';
  if (!text.endsWith('end\n')) {
    throw new Error(`stepping ${command} failed (${ended.signal ?? ended.code}):\n${ended.stderr}`);
  }
  return { ...ended, modules: parseCounts(text, modulePaths) };
}

function parseCounts(text: string, modulePaths: readonly string[]): Map<string, Map<number, number>> {
  const byRealPath = new Map<string, Map<number, number>>();
  for (const line of text.split('\n')) {
    const [path = '', offset, count] = line.split('\t');
    if (count === undefined) continue;
    const counts = byRealPath.get(path) ?? new Map<number, number>();
    counts.set(Number(offset), Number(count));
    byRealPath.set(path, counts);
  }
  return new Map(
    modulePaths.map((path) => [path, byRealPath.get(realpathSync(path)) ?? new Map<number, number>()]),
  );
}

/** Run to the end and keep what it said. */
function collect(
  command: string,
  args: readonly string[],
  options: StepOptions,
): Promise<Omit<StepResult, 'counts'>> {
  return new Promise((resolve, reject) => {
    const { cwd, env, input, timeout = 120_000 } = options;
    const child = spawn(command, args, {
      ...(cwd === undefined ? {} : { cwd }),
      ...(env ? { env } : {}),
      stdio: [input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
    });
    let stdout = '';
    let stderr = '';
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      child.kill('SIGKILL'); // PTRACE_O_EXITKILL takes the command along
    }, timeout);
    child.stdout!.setEncoding('utf8').on('data', (text: string) => (stdout += text));
    child.stderr!.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    child.stdin?.on('error', () => undefined); // a command that reads nothing: EPIPE
    child.stdin?.end(input);
    child.on('error', reject);
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      if (late)
        reject(
          new Error(
            `${args.slice(args.indexOf('--') + 1).join(' ')}: not stepped to its end in ${timeout} ms`,
          ),
        );
      else resolve({ stdout, stderr, code, signal });
    });
  });
}

/** The counts, or why the kernel would not: a reason for `t.skip`. */
export type KernelCounts =
  | { readonly counts: Map<number, number>; readonly refused?: undefined }
  | { readonly refused: string; readonly counts?: undefined };

let runs = 0;
const MAX_KERNEL_SITES = 64; // each costs 47–112 ms to remove

/**
 * Hits of the kernel's own uprobes at file offsets of `path`, while `run` runs. The kernel steps a `rep` instruction
 * round by round and counts each of them, and a site it can never arm (a lock prefix …) silently counts 0. Only for private copies: the probes fire in every process that maps the file.
 */
export async function kernelCounts(
  path: string,
  offsets: readonly number[],
  run: () => Promise<void>,
): Promise<KernelCounts> {
  if (offsets.length > MAX_KERNEL_SITES)
    throw new Error(`at most ${MAX_KERNEL_SITES} sites: removing one takes 0.1 s`);
  const tracefs = findTracefs();
  if ('refused' in tracefs) return tracefs;
  const { directory, release } = tracefs;
  const group = `uprobe_test_${process.pid}`;
  const control = join(directory, 'uprobe_events');
  const file = realpathSync(path);
  const thisRun = ++runs;
  const events = new Map(offsets.map((offset) => [`run${thisRun}_at_${offset.toString(16)}`, offset]));
  const made: string[] = [];
  try {
    const refused = refusal(() => {
      for (const [name, offset] of events) {
        writeFileSync(control, `p:${group}/${name} ${file}:0x${offset.toString(16)}\n`, { flag: 'a' });
        made.push(`${group}/${name}`);
      }
      if (made.length > 0) writeFileSync(join(directory, 'events', group, 'enable'), '1');
    });
    if (refused !== undefined) return { refused };
    await run();
    return { counts: readProfile(join(directory, 'uprobe_profile'), file, events) };
  } finally {
    if (made.length > 0) writeFileSync(join(directory, 'events', group, 'enable'), '0');
    for (const event of made) writeFileSync(control, `-:${event}\n`, { flag: 'a' });
    release();
  }
}

/** The reason why it failed, or nothing. */
function refusal(action: () => void): string | undefined {
  try {
    action();
    return undefined;
  } catch (error) {
    return `the kernel's uprobes refused: ${(error as Error).message}`;
  }
}

/** `uprobe_profile` lines: file, event, hits (Documentation/trace/uprobetracer.rst). */
function readProfile(
  profile: string,
  file: string,
  events: ReadonlyMap<string, number>,
): Map<number, number> {
  const counts = new Map([...events.values()].map((offset) => [offset, 0]));
  for (const line of readFileSync(profile, 'utf8').split('\n')) {
    const [hits = '', event = ''] = line.trim().split(/\s+/).toReversed();
    const offset = events.get(event);
    if (offset !== undefined && line.trim().startsWith(`${file} `)) counts.set(offset, Number(hits));
  }
  return counts;
}

type Tracefs = { directory: string; release: () => void } | { refused: string };

/** Where tracefs is mounted, else a mount of our own. */
function findTracefs(): Tracefs {
  for (const directory of ['/sys/kernel/tracing', '/sys/kernel/debug/tracing']) {
    if (existsSync(join(directory, 'uprobe_events'))) return { directory, release: () => undefined };
  }
  const directory = mkdtempSync(join(tmpdir(), 'uprobe-tracefs-'));
  const { status, stderr } = spawnSync('mount', ['-t', 'tracefs', 'nodev', directory], { encoding: 'utf8' });
  const release = (): void => {
    if (status === 0) spawnSync('umount', [directory]);
    rmdirSync(directory);
  };
  if (status === 0 && existsSync(join(directory, 'uprobe_events'))) return { directory, release };
  release();
  return { refused: `tracefs cannot be mounted: ${stderr?.trim() || 'this kernel has no uprobe events'}` };
}
