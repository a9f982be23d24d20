/** The commands, their options and their help. Each command's code is loaded only when it runs. */
import { readFileSync, writeSync } from 'node:fs';
import { Command, CommanderError, Option } from 'commander';
import { escapeText } from '../base/escape.js';
import { parseCount, parseLinear, parseMilliseconds, parsePids, parseSeconds } from './options.js';
import type { CountOptions } from './count.js';
import type { DoctorOptions } from './doctor.js';
import type { HistOptions } from './hist.js';
import type { LatencyOptions } from './latency.js';
import type { ListOptions } from './list.js';
import type { PlanOptions } from './plan.js';
import type { PsOptions } from './ps.js';
import type { RunOptions } from './run-modules.js';
import type { TopOptions } from './top.js';
import type { TraceOptions } from './trace.js';
import { UsageError } from './usage-error.js';

const PROBES = `
PROBE names places in a program or library:
  PATH:SYMBOL          a function; PATH may be a soname or a program in $PATH (libc, bash)
  PATH:SYMBOL+0x10     an instruction inside it
  PATH:0xOFFSET        a file offset
  PATH:@0xADDRESS      an address as nm and objdump print it
  PATH:'str*'          every function that matches (* ? [...])
  PATH:SYMBOL+*        every instruction of a function; PATH:*+* of all functions
  PATH:SYMBOL%return   where the function returns
bpftrace's uprobe:PATH:SYMBOL and uretprobe:PATH:SYMBOL are understood.

Without -p, --tree and COMMAND all processes are probed, those to come, too (as root, by the kernel).`;

const TRACE_HELP = `${PROBES}

With a command, its input, output and exit status are its own and our lines go to stderr.

Examples:
  uprobe trace libc:malloc --args 'size=arg0' -- ls
  uprobe trace bash:readline -p 4711 --duration 10
  uprobe trace libc:open --args 'path=str(arg0), flags=hex(arg1)' -o trace.txt -- git status
  uprobe trace 'libc:malloc%return' --args 'size=arg0, at=hex(retval)' -- ls
  uprobe trace bash:execute_command --tree 4711 --duration 10
  uprobe trace --json -n 100 libsqlite3:sqlite3_step -- sqlite3 my.db .dump`;

const COUNT_HELP = `${PROBES}

Examples:
  uprobe count 'libc:*alloc' -- ls
  uprobe count -f 'libc:fopen*' -- sh -c 'ls -l; date'
  uprobe count 'redis-server:*' -p 4711 --duration 5
  uprobe count libc:malloc --if 'arg0 >= 4096' --by 'comm, size=arg0' -- ls
  uprobe count --json 'bash:main+*' -- bash -c true`;

const HIST_HELP = `${PROBES}

EXPR is an expression as of --args: a whole number. The histogram has powers of two, or with --linear steps.

Examples:
  uprobe hist libc:malloc arg0 -- ls
  uprobe hist libc:read%return 'i64(retval)' --if 'i64(retval) > 0' --by arg0 -- cat /etc/passwd
  uprobe hist libc:malloc arg0 --linear 0:1024:64 -- ls
  uprobe hist bash:xmalloc -p 4711 arg0 --by pid --json --duration 5`;

const LATENCY_HELP = `${PROBES}

PROBE is a function; from its entry to its return.

Examples:
  uprobe latency libc:malloc libc:free -- ls
  uprobe latency 'libc:*alloc' --by 'retval == 0' -- ls
  uprobe latency libc:malloc --if 'arg0 > 1000' --linear 0:20000:1000 -- ls
  uprobe latency bash:execute_command --tree 4711 --duration 5`;

const TOP_HELP = `${PROBES}

PROBE is a function, in all its calls that have returned. With --no-times any place: its hits are counted only, which
costs less.

Examples:
  uprobe top 'libc:*' --no-times -- ls
  uprobe top 'bash:*' -p 4711 --interval 0.5 --duration 5
  uprobe top 'libc:*alloc' libc:free --by comm -f -- sh -c 'ls; date'`;

const LIST_HELP = `
Examples:
  uprobe list libc
  uprobe list node '*Start*' --json`;

const PS_HELP = `
Processes in containers are seen, too: a file is known by its device and inode, not by its path.

Examples:
  uprobe ps libc
  uprobe ps bash --json`;

const PLAN_HELP = `${PROBES}

Nothing is armed. The exit status is 2 when a place named for itself cannot be probed.

Examples:
  uprobe plan libc:malloc
  uprobe plan 'bash:main+*' --json`;

const RUN_HELP = `
FILE is a probe module: TypeScript or JavaScript (.ts .mts .js .mjs) whose default export is a
function ({ processes, parameters, print, signal, end }), or { description, parameters, load }.
It imports registerUprobe and the rest from 'uprobe'; what it registers is taken out at the end.
NAME=VALUE belongs to the FILE before it. Several files are loaded in order and unloaded in reverse.

uprobe run FILE --help tells what a module does and may be given. In the package, examples/modules has some.

Examples:
  uprobe run fault-injection.ts nth=20 -- ls /
  uprobe run call-tree.ts coverage.ts functions=main -- bash -c true
  uprobe run coverage.ts --help`;

type Finish = (status: number) => void;

/** @param command what stood behind `--`. */
export function buildProgram(command: readonly string[] | undefined, finish: Finish): Command {
  const program = new Command('uprobe');
  program
    .description('Probes at any instruction of running programs.')
    .configureOutput({
      writeOut: (text) => writeAll(1, text),
      writeErr: (text) => writeAll(2, text),
      outputError: (text, write) => write(oneMessage(text)),
    })
    .exitOverride()
    .option('-V, --version', 'print the version')
    .on('option:version', printVersion)
    .helpOption('-h, --help', 'print help')
    .addHelpText('after', `\nuprobe COMMAND --help tells more of one command.`);
  addTrace(program, command, finish);
  addCount(program, command, finish);
  addHist(program, command, finish);
  addLatency(program, command, finish);
  addTop(program, command, finish);
  addRun(program, command, finish);
  addList(program, command, finish);
  addPs(program, command, finish);
  addPlan(program, command, finish);
  addDoctor(program, command, finish);
  return program;
}

/** Whose probes. */
function withProcesses(command: Command): Command {
  return command
    .addOption(
      new Option('-p, --pid <PID>', 'probe this process (again, or a list, for several)').argParser(
        parsePids,
      ),
    )
    .addOption(
      new Option(
        '--tree <PID>',
        'this process and all its descendants, those to come, too (again, or a list)',
      ).argParser(parsePids),
    )
    .option('-f, --follow', 'with the descendants of each -p or of COMMAND');
}

/** What all that probe have in common. */
function withTargets(command: Command, words = 'PROBE...'): Command {
  for (const word of words.split(' ')) command.argument(`<${word}>`);
  return withProcesses(
    command.usage(`${words} [-p PID | --tree PID]... [options] [-- COMMAND [ARGUMENTS...]]`),
  )
    .option('--if <EXPR>', 'only hits for which it is true: \'arg0 > 100 && comm == "ls"\'')
    .option('--duration <SECONDS>', 'end after so many seconds', parseSeconds)
    .option('-o, --output <FILE>', 'write the lines there')
    .option('--json', 'JSON lines')
    .addOption(engineOption())
    .option('--trust-place', 'probe also where it cannot be proven that an instruction starts');
}

const withKeys = (command: Command): Command =>
  command.option('--by <LIST>', "results apart for each value: pid, comm, cgroup, 'size=arg0', …");

const withLinear = (command: Command): Command =>
  command.addOption(
    new Option('--linear <MIN:MAX:STEP>', 'buckets of one width, in place of powers of two').argParser(
      parseLinear,
    ),
  );

const engineOption = (): Option =>
  new Option('--engine <NAME>', 'how threads are diverted')
    .choices(['auto', 'trap', 'jump', 'kernel'])
    .default('auto');

function addTrace(program: Command, command: readonly string[] | undefined, finish: Finish): void {
  withTargets(program.command('trace').description('a line for every hit'))
    .option('--args <LIST>', "what to show: 'fd=arg0, path=str(arg1), n=i32(arg2)'")
    .option('-n, --count <N>', 'end after so many lines', parseCount)
    .option('--post', 'look at registers and memory after the instruction')
    .option('--deadline <MS>', 'how long a hit may wait for us (1000)', parseMilliseconds)
    .addHelpText('after', TRACE_HELP)
    .action(async (probes: string[], options: TraceOptions) => {
      const { trace } = await import('./trace.js');
      finish(await trace(probes, options, command));
    });
}

function addCount(program: Command, command: readonly string[] | undefined, finish: Finish): void {
  withKeys(withTargets(program.command('count').description('how often each place is hit')))
    .addHelpText('after', COUNT_HELP)
    .action(async (probes: string[], options: CountOptions) => {
      const { count } = await import('./count.js');
      finish(await count(probes, options, command));
    });
}

function addHist(program: Command, command: readonly string[] | undefined, finish: Finish): void {
  const hist = program.command('hist').description('a histogram of a value at a place');
  withLinear(withKeys(withTargets(hist, 'PROBE EXPR')))
    .addHelpText('after', HIST_HELP)
    .action(async (probe: string, expression: string, options: HistOptions) => {
      const { hist: run } = await import('./hist.js');
      finish(await run(probe, expression, options, command));
    });
}

function addLatency(program: Command, command: readonly string[] | undefined, finish: Finish): void {
  const latency = program.command('latency').description('how long functions take: a histogram of each');
  withLinear(withKeys(withTargets(latency)))
    .addHelpText('after', LATENCY_HELP)
    .action(async (probes: string[], options: LatencyOptions) => {
      const { latency: run } = await import('./latency.js');
      finish(await run(probes, options, command));
    });
}

function addTop(program: Command, command: readonly string[] | undefined, finish: Finish): void {
  const top = program.command('top').description('which functions are called most, and how long they take');
  withKeys(withTargets(top))
    .option(
      '--interval <SECONDS>',
      'a table every so many seconds (1 on a terminal, else one at the end)',
      parseSeconds,
    )
    .option('--no-times', 'count only')
    .addHelpText('after', TOP_HELP)
    .action(async (probes: string[], options: TopOptions) => {
      const { top: run } = await import('./top.js');
      finish(await run(probes, options, command));
    });
}

function addRun(program: Command, command: readonly string[] | undefined, finish: Finish): void {
  const run = program.command('run').description('load probe modules: files of TypeScript with handlers');
  withProcesses(
    run
      .argument('[FILE...]')
      .usage('FILE [NAME=VALUE]... [-p PID]... [--tree PID] [options] [-- COMMAND [ARGUMENTS...]]'),
  )
    .option('--duration <SECONDS>', 'end after so many seconds', parseSeconds)
    .option('-o, --output <FILE>', 'write what they print there')
    // said by us: of files that are named, help shows what they say of themselves
    .helpOption(false)
    .option('-h, --help', 'print help; behind a FILE, what it does and may be given')
    .addHelpText('after', RUN_HELP)
    .action(async (words: string[], options: RunOptions & { help?: boolean }) => {
      if (options.help === true && words.length === 0) return run.outputHelp();
      const { describeModules, runModules } = await import('./run-modules.js');
      finish(await (options.help === true ? describeModules(words) : runModules(words, options, command)));
    });
}

function addList(program: Command, command: readonly string[] | undefined, finish: Finish): void {
  program
    .command('list')
    .description('the functions of a file that can be probed')
    .argument('<PATH>', 'a path, a soname or a program in $PATH')
    .argument('[GLOB]', 'only functions that match')
    .option('--json', 'JSON lines')
    .addHelpText('after', LIST_HELP)
    .action(async (path: string, glob: string | undefined, options: ListOptions) => {
      refuseCommand(command, 'list');
      const { list } = await import('./list.js');
      finish(await list(path, glob, options));
    });
}

function addPs(program: Command, command: readonly string[] | undefined, finish: Finish): void {
  program
    .command('ps')
    .description('the processes that map a file')
    .argument('<PATH>', 'a path, a soname or a program in $PATH')
    .option('--json', 'JSON lines')
    .addHelpText('after', PS_HELP)
    .action(async (path: string, options: PsOptions) => {
      refuseCommand(command, 'ps');
      const { ps } = await import('./ps.js');
      finish(ps(path, options));
    });
}

function addPlan(program: Command, command: readonly string[] | undefined, finish: Finish): void {
  program
    .command('plan')
    .description('how places would be probed, or why not; arms nothing')
    .argument('<PROBE...>')
    .usage('PROBE... [options]')
    .option('--json', 'JSON lines')
    .addOption(engineOption())
    .option('--post', 'plan for a handler after the instruction')
    .option('--trust-place', 'probe also where it cannot be proven that an instruction starts')
    .addHelpText('after', PLAN_HELP)
    .action(async (probes: string[], options: PlanOptions) => {
      refuseCommand(command, 'plan');
      const { plan } = await import('./plan.js');
      finish(await plan(probes, options));
    });
}

function addDoctor(program: Command, command: readonly string[] | undefined, finish: Finish): void {
  program
    .command('doctor')
    .description('what this machine and user may do, with a remedy for each no')
    .option('--json', 'JSON lines')
    .action(async (options: DoctorOptions) => {
      refuseCommand(command, 'doctor');
      const { doctor } = await import('./doctor.js');
      finish(await doctor(options));
    });
}

function refuseCommand(command: readonly string[] | undefined, name: string): void {
  if (command !== undefined) throw new UsageError(`uprobe ${name} runs no command: nothing may follow --`);
}

/** commander's `error: …` with its suggestion on a line of its own, as one message of ours. */
const oneMessage = (text: string): string =>
  `uprobe: ${escapeText(
    text
      .trim()
      .replace(/^error: /, '')
      .replaceAll('\n', ' '),
  )}\n`;

function printVersion(): void {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  writeAll(1, `${(JSON.parse(text) as { version: string }).version}\n`);
  throw new CommanderError(0, 'commander.version', 'version');
}

/** Help may go to a pipe that is closed already: nothing to be sorry for. */
function writeAll(fd: number, text: string): void {
  try {
    for (let left = Buffer.from(text); left.length > 0;) left = left.subarray(writeSync(fd, left));
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code !== 'EPIPE') throw e;
  }
}
