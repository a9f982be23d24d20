/** The processes that map a file. */
import { readFileSync, readdirSync, statSync } from 'node:fs';
import { readProc } from '../linux/proc-status.js';
import { liveThread } from './check.js';
import { baseName } from './mapped-file.js';
import type { FileIdentity, Mapping } from './maps.js';
import { mappingsOf, parseMaps } from './maps.js';

/** A process that maps a file. */
export interface MappingProcess {
  readonly pid: number;
  /** Its name, at most 15 bytes (proc_pid_comm(5)). */
  readonly comm: string;
  /** Whose it is: the user id its permissions are looked up with. */
  readonly uid: number;
  /** Its arguments, the name it was started by first; none where it has taken them away. */
  readonly command: readonly string[];
  /** It maps the file to run it, not only to read it: probes can be hit there. */
  readonly executable: boolean;
}

export interface Mappers {
  /** By their pids, in ascending order. Ours is not among them: it is never probed. */
  readonly processes: readonly MappingProcess[];
  /** Processes that map a file which had the same path once: it was removed or replaced, and they still use the old one. */
  readonly stale: readonly number[];
  /** How many processes did not let us see what they map. */
  readonly hidden: number;
}

/** Look at every process once. */
export function mappersOf(file: FileIdentity): Mappers {
  const processes: MappingProcess[] = [];
  const stale: number[] = [];
  let hidden = 0;
  const name = Buffer.from(baseName(file.path).replaceAll('\n', '\\012'));
  for (const pid of allProcesses()) {
    if (pid === process.pid) continue;
    const maps = readMemoryMap(pid);
    if (maps === 'hidden') hidden++;
    // Most processes have neither: they need no closer look.
    if (typeof maps === 'string' || !(maps.includes(` ${file.ino} `) || maps.includes(name))) continue;
    const mappings = parseMaps(maps.toString('utf8'));
    const ours = mappingsOf(file, mappings, pid);
    const found = ours.length === 0 ? undefined : processOf(pid, ours);
    if (found !== undefined) processes.push(found);
    else if (mappings.some((m) => m.deleted && m.path === file.path)) stale.push(pid);
  }
  return { processes, stale, hidden };
}

const allProcesses = (): number[] =>
  readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .toSorted((a, b) => a - b);

/**
 * That of its first thread; where that one has ended before the others (pthread_exit) it shows none, and another's is
 * read. Kernel threads and zombies have none.
 */
function readMemoryMap(pid: number): Buffer | 'hidden' | 'gone' {
  try {
    const maps = readFileSync(`/proc/${pid}/maps`);
    if (maps.length > 0 || !/^State:\tZ/m.test(readProc(`/proc/${pid}/status`) ?? '')) return maps;
    const thread = liveThread(pid);
    return thread === undefined ? 'gone' : readFileSync(`/proc/${thread}/maps`);
  } catch (e) {
    const { code } = e as NodeJS.ErrnoException;
    return code === 'EACCES' || code === 'EPERM' ? 'hidden' : 'gone';
  }
}

/** Undefined: it has ended meanwhile. */
function processOf(pid: number, mappings: readonly Mapping[]): MappingProcess | undefined {
  try {
    const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
    // The last argument has a NUL behind it, too; titles that programs write there may have many.
    while (command.at(-1) === '') command.pop();
    return {
      pid,
      comm: readFileSync(`/proc/${pid}/comm`, 'utf8').replace(/\n$/, ''),
      uid: statSync(`/proc/${pid}`).uid,
      command,
      executable: mappings.some((m) => m.perms[2] === 'x'),
    };
  } catch {
    return undefined;
  }
}
