#!/usr/bin/env node
/**
 * The entry: parse, load the one command that was asked for, turn its end into an exit status. 2: the words are
 * wrong and nothing was touched; 1: something else failed; otherwise what the command returns.
 */
import { writeSync } from 'node:fs';
import { escapeText } from '../base/escape.js';
import { buildProgram, isCommanderError } from './program.js';
import { exitStatusOf } from './failure.js';

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

async function main(): Promise<number> {
  const { ours, command } = splitCommand(process.argv.slice(2));
  let status = 0;
  const program = buildProgram(command, (s) => {
    status = s;
  });
  try {
    await program.parseAsync(ours, { from: 'user' });
    return status;
  } catch (e) {
    // commander has said what is wrong itself; its own status for help and version is 0.
    if (isCommanderError(e)) return e.exitCode === 0 ? 0 : 2;
    complain(e);
    return exitStatusOf(e);
  }
}

function complain(e: unknown): void {
  const isExpected = e instanceof Error && exitStatusOf(e) === 2;
  const text =
    e instanceof Error
      ? isExpected || process.env['UPROBE_DEBUG'] === undefined
        ? e.message
        : (e.stack ?? e.message)
      : String(e);
  try {
    writeSync(2, `uprobe: ${text.split('\n').map(escapeText).join('\n')}\n`);
  } catch {
    // Nobody can be told any more.
  }
}

// Not process.exitCode: what is still open (a target that goes on, a doorbell) must not keep us.
process.exit(await main());
