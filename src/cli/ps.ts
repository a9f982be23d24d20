/** `uprobe ps`: the processes that map a file, whose probes can be hit there. */
import { readFileSync } from 'node:fs';
import { processesOf } from '../index.js';
import type { MappingProcess } from '../index.js';
import { jsonText } from '../base/escape.js';
import { LineWriter } from '../outputs/line-writer.js';
import { table } from '../outputs/table.js';
import { note } from './output.js';

export interface PsOptions {
  readonly json?: boolean;
}

const COLUMNS = [
  { title: 'PID', align: 'right' },
  { title: 'USER' },
  { title: 'COMM' },
  { title: 'COMMAND' },
] as const;

export function ps(path: string, options: PsOptions): number {
  const found = processesOf(path);
  const users = new Users();
  let broken: NodeJS.ErrnoException | undefined;
  const lines = new LineWriter(1, (error) => {
    broken = error;
  });
  if (options.json === true) for (const p of found.processes) lines.line(jsonLine(p, users));
  else if (found.processes.length > 0)
    for (const line of table(
      COLUMNS,
      found.processes.map((p) => row(p, users)),
    ))
      lines.line(line);
  lines.flush();
  if (broken !== undefined && broken.code !== 'EPIPE') throw broken;
  if (found.processes.length === 0 && options.json !== true) note(`no process maps ${found.path} now`);
  sayMore(found);
  return 0;
}

/** What the list does not have. */
function sayMore({ path, stale, hidden }: ReturnType<typeof processesOf>): void {
  if (stale.length > 0) {
    const [whom, use] = stale.length === 1 ? ['process', 'uses'] : ['processes', 'use'];
    note(
      `${whom} ${stale.join(', ')} ${use} an older file that was ${path} before it was replaced or removed; ` +
        `probes of what is there now reach them when they are restarted (/proc/PID/exe and /proc/PID/map_files name the old one)`,
    );
  }
  if (hidden > 0) {
    const who = hidden === 1 ? 'of 1 process' : `of ${hidden} processes`;
    note(`what is mapped could not be seen ${who}: that takes root, with CAP_SYS_PTRACE`);
  }
}

/** A process that only reads the file runs none of its code. */
const row = (p: MappingProcess, users: Users): string[] => {
  const name = users.nameOf(p.uid) ?? String(p.uid);
  return [String(p.pid), name, p.comm, `${p.command.join(' ')}${p.executable ? '' : '  (reads it only)'}`];
};

const jsonLine = ({ pid, comm, uid, command, executable }: MappingProcess, users: Users): string =>
  jsonText({ pid, comm, uid, user: users.nameOf(uid) ?? null, command, executable });

/** Users by id, as passwd(5) names them here; a container's own may have another name there. */
class Users {
  #names: Map<number, string> | undefined;

  nameOf(uid: number): string | undefined {
    return (this.#names ??= readUsers()).get(uid);
  }
}

function readUsers(): Map<number, string> {
  const names = new Map<number, string>();
  let text = '';
  try {
    text = readFileSync('/etc/passwd', 'utf8');
  } catch {
    // ids will do
  }
  for (const line of text.split('\n')) {
    const [name = '', , uid = ''] = line.split(':');
    // The first of several names of one user is what others show, too (getpwuid(3)).
    if (/^\d+$/.test(uid) && !names.has(Number(uid))) names.set(Number(uid), name);
  }
  return names;
}
