/**
 * The entry: parse, load the one command that was asked for, turn its end into an exit status. 2: the words are
 * wrong and nothing was touched; 1: something else failed; otherwise what the command returns.
 */
import { writeSync } from 'node:fs';
import { prepare, prepareDrain } from '../prepare.js';
import { escapeText } from '../base/escape.js';
import { exitStatusOf, isBug } from './failure.js';
import { said } from './words.js';

/** What stands behind the first `--` is a command with its own options: nobody here may look at it. */
function splitCommand(argv: readonly string[]): {
  ours: readonly string[];
  command: readonly string[] | undefined;
} {
  const at = argv.indexOf('--');
  return at < 0
    ? { ours: argv, command: undefined }
    : { ours: argv.slice(0, at), command: argv.slice(at + 1) };
}

const PROBING = new Set(['trace', 'count', 'hist', 'latency', 'top']);

/**
 * The thread that will be needed starts beside us while we read the options: most of the time to the first hit is loading code, and
 * this way two processors do it. The tracer is for a command, and for processes that are named; events of all others come from the
 * kernel.
 */
function startEarly(ours: readonly string[], command: readonly string[] | undefined): void {
  if (!PROBING.has(ours[0] ?? '') || ours.includes('--help') || ours.includes('-h')) return;
  const isNamed = command !== undefined || ours.some((word) => /^(?:-p|--pid|--tree)/.test(word));
  const byKernel = !isNamed || asksForKernel(ours);
  if (command !== undefined || !byKernel) prepare(); // also of programs that we start
  if (byKernel && ours[0] === 'trace') prepareDrain();
}

const asksForKernel = (ours: readonly string[]): boolean =>
  ours.includes('--engine=kernel') || ours[ours.indexOf('--engine') + 1] === 'kernel';

async function main(): Promise<number> {
  const { ours, command } = splitCommand(process.argv.slice(2));
  let status = 0;
  try {
    startEarly(ours, command);
    const { buildProgram } = await import('./program.js');
    const program = buildProgram(command, (s) => {
      status = s;
    });
    await program.parseAsync(ours, { from: 'user' });
    return status;
  } catch (e) {
    if (isSaidAlready(e)) return e.exitCode === 0 ? 0 : 2;
    complain(e);
    return exitStatusOf(e);
  }
}

/** commander says itself what is wrong; help and version end in an error, too, with status 0. */
const isSaidAlready = (e: unknown): e is { exitCode: number } =>
  e instanceof Error && 'code' in e && String(e.code).startsWith('commander.') && 'exitCode' in e;

function complain(e: unknown): void {
  const text = isBug(e) ? (e.stack ?? e.message) : said(e);
  try {
    writeSync(2, `uprobe: ${text.split('\n').map(escapeText).join('\n')}\n`);
  } catch {
    // Nobody can be told any more.
  }
}

// Not process.exitCode: what is still open (a target that goes on, a doorbell) must not keep us.
void main().then((status) => process.exit(status));
