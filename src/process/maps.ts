/**
 * /proc/PID/maps, and which of its lines belong to one file.
 *
 * Also used by the tracer thread: imports only base/ and node:fs.
 */
import { readFileSync, statSync } from 'node:fs';
import { ProcessError, messageOf } from '../base/errors.js';

/** One line of /proc/PID/maps. */
export interface Mapping {
  /** First address. */
  readonly start: number;
  /** First address behind it. */
  readonly end: number;
  /** As the kernel prints them, e.g. `r-xp`. */
  readonly perms: string;
  /** File offset of `start`; 0 for anonymous memory. */
  readonly offset: number;
  /** The device in stat(2)'s encoding, to be compared with `stat.dev`; 0 for anonymous memory. */
  readonly dev: bigint;
  readonly ino: bigint;
  /** The path as its process sees it, `[heap]` and the like, or empty. */
  readonly path: string;
  /** The file behind it has no name any more (` (deleted)` was on the line and was taken off). */
  readonly deleted: boolean;
}

/** What identifies a file: its device and inode as fstat(2) says them, and the path it was opened by. */
export interface FileIdentity {
  readonly dev: bigint;
  readonly ino: bigint;
  readonly path: string;
}

/** /proc/sys/vm/max_map_count is 65,530 by default; who raises it (databases do) stays far below this. */
const MAX_LINES = 1 << 20;
const DELETED = ' (deleted)';

// fs/proc/task_mmu.c, show_vma_header_prefix: fixed fields, one space each, then the path padded to column 73.
const LINE =
  /^([0-9a-f]{1,16})-([0-9a-f]{1,16}) ([r-][w-][x-][ps]) ([0-9a-f]{1,16}) ([0-9a-f]+):([0-9a-f]+) ([0-9]+)(?: +(.*))?$/;

/** Parse the text of a maps file. Lines that are not as the kernel writes them are an error, never skipped. */
export function parseMaps(text: string): Mapping[] {
  const mappings: Mapping[] = [];
  for (let at = 0; at < text.length;) {
    const end = text.indexOf('\n', at);
    const line = text.slice(at, end < 0 ? text.length : end);
    at = end < 0 ? text.length : end + 1;
    if (mappings.length >= MAX_LINES) throw new RangeError(`more than ${MAX_LINES} mappings`);
    const mapping = parseLine(line);
    // The vsyscall page of the kernel lies above what a double holds exactly, and nobody can probe it.
    if (mapping.end <= Number.MAX_SAFE_INTEGER) mappings.push(mapping);
  }
  return mappings;
}

function parseLine(line: string): Mapping {
  const m = LINE.exec(line);
  if (m === null)
    throw new SyntaxError(`not a line of /proc/PID/maps: ${JSON.stringify(line.slice(0, 120))}`);
  const [, start, end, perms, offset, major, minor, ino, rest = ''] = m as unknown as string[];
  const deleted = rest.endsWith(DELETED);
  return {
    start: parseInt(start!, 16),
    end: parseInt(end!, 16),
    perms: perms!,
    offset: parseInt(offset!, 16),
    dev: makedev(parseInt(major!, 16), parseInt(minor!, 16)),
    ino: BigInt(ino!),
    // The kernel writes a newline in a name as \012 and nothing else escaped (seq_path with "\n").
    path: (deleted ? rest.slice(0, -DELETED.length) : rest).replaceAll('\\012', '\n'),
    deleted,
  };
}

/** glibc's gnu_dev_makedev: the encoding of `st_dev`. Maps prints major:minor apart. */
export function makedev(major: number, minor: number): bigint {
  const ma = BigInt(major);
  const mi = BigInt(minor);
  return ((ma & 0xfffn) << 8n) | ((ma & ~0xfffn) << 32n) | (mi & 0xffn) | ((mi & ~0xffn) << 12n);
}

/**
 * The mappings of a live process. A process that is gone, or whose memory map may not be read, is a ProcessError.
 * A zombie has none: an empty list.
 */
export function readMaps(pid: number): Mapping[] {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/maps`, 'utf8');
  } catch (e) {
    throw unreadable(pid, e);
  }
  try {
    return parseMaps(text);
  } catch (e) {
    throw new ProcessError('bad-maps', pid, `/proc/${pid}/maps cannot be understood: ${messageOf(e)}`, {
      cause: e,
    });
  }
}

function unreadable(pid: number, e: unknown): ProcessError {
  const code = (e as NodeJS.ErrnoException).code;
  if (code === 'ENOENT' || code === 'ESRCH')
    return new ProcessError('no-such-process', pid, `process ${pid} does not exist (any more)`, { cause: e });
  if (code === 'EACCES' || code === 'EPERM')
    return new ProcessError(
      'process-not-permitted',
      pid,
      `the memory map of process ${pid} may not be read (${code}): it belongs to another user, or gave up being ` +
        'inspected; run as that user or with CAP_SYS_PTRACE',
      { cause: e },
    );
  return new ProcessError('bad-maps', pid, `/proc/${pid}/maps: ${messageOf(e)}`, { cause: e });
}

/** The mapping that an address is in; they are in ascending order. */
export function mappingAt(mappings: readonly Mapping[], address: number): Mapping | undefined {
  let low = 0;
  let high = mappings.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (mappings[middle]!.end <= address) low = middle + 1;
    else high = middle;
  }
  const found = mappings[low];
  return found !== undefined && address >= found.start ? found : undefined;
}

/** Stats the file a path means; undefined where it means none. Replaceable, so that the rule can be tested. */
export type StatFile = (path: string) => { readonly dev: bigint; readonly ino: bigint } | undefined;

/**
 * Node hands the kernel's unsigned numbers out as signed ones: on overlayfs with xino inode numbers have their highest
 * bits set, and would not be those in maps.
 */
export const identityOf = ({ dev, ino }: { dev: bigint; ino: bigint }): { dev: bigint; ino: bigint } => ({
  dev: BigInt.asUintN(64, dev),
  ino: BigInt.asUintN(64, ino),
});

const statFile: StatFile = (path) => {
  try {
    return identityOf(statSync(path, { bigint: true }));
  } catch {
    return undefined;
  }
};

/**
 * The mappings of `file` among those of process `pid`, in ascending order.
 *
 * Maps prints the device of the filesystem's superblock; stat(2) may answer another one: btrfs gives each
 * subvolume its own, and on overlayfs maps shows the layer's file. So where only the inode agrees, the file
 * behind the mapping is asked itself.
 */
export function mappingsOf(
  file: FileIdentity,
  mappings: readonly Mapping[],
  pid: number,
  stat: StatFile = statFile,
): Mapping[] {
  const verdicts = new Map<string, boolean>();
  return mappings.filter((m) => {
    if (m.ino === 0n) return false;
    if (m.ino === file.ino && m.dev === file.dev) return true;
    if (m.ino !== file.ino && !sameName(m, file)) return false;
    const key = `${m.dev}:${m.ino}:${m.path}`;
    let same = verdicts.get(key);
    if (same === undefined) verdicts.set(key, (same = isBehind(file, m, pid, stat)));
    return same;
  });
}

// On overlayfs without xino even the inode number can differ (Documentation/filesystems/overlayfs.rst, "Inode
// properties"); the name is then what suggests to look closer. It decides nothing, and the directories before it may be
// other ones in the process's root than in ours.
const sameName = (m: Mapping, file: FileIdentity): boolean => baseName(m.path) === baseName(file.path);
const baseName = (path: string): string => path.slice(path.lastIndexOf('/') + 1);

/**
 * Does stat(2) say that the mapped file is `file`? /proc/PID/map_files names exactly the mapped inode but needs
 * CAP_CHECKPOINT_RESTORE (or CAP_SYS_ADMIN); the name will do for others, in the process's own root or (chroot) in
 * ours, unless it was given to a new file meanwhile, which `(deleted)` tells.
 */
function isBehind(file: FileIdentity, m: Mapping, pid: number, stat: StatFile): boolean {
  const range = `${m.start.toString(16)}-${m.end.toString(16)}`;
  const behind =
    stat(`/proc/${pid}/map_files/${range}`) ??
    (m.deleted ? undefined : (stat(`/proc/${pid}/root${m.path}`) ?? stat(m.path)));
  return behind !== undefined && behind.dev === file.dev && behind.ino === file.ino;
}
