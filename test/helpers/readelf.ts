/** What binutils say of an ELF file, in a form that can be compared with what our reader says. */
import { spawnSync } from 'node:child_process';

/** The lines printed. The exit status says nothing: readelf fails for any oddity, e.g. a frame it finds unusual. */
function run(command: string, ...args: string[]): string[] {
  const { stdout, error } = spawnSync(command, args, {
    encoding: 'utf8',
    maxBuffer: 2 ** 30,
    env: { ...process.env, LC_ALL: 'C' },
  });
  if (error) throw error;
  return stdout.split('\n');
}

export interface ReadelfSymbol {
  readonly table: string;
  readonly address: number;
  readonly size: number;
  readonly type: string;
  readonly binding: string;
  readonly section: string;
  /** With `@VERSION` or `@@VERSION`. */
  readonly name: string;
}

export function readelfSymbols(path: string): ReadelfSymbol[] {
  const symbols: ReadelfSymbol[] = [];
  let table = '';
  for (const line of run('readelf', '-W', '-s', path)) {
    table = /^Symbol table '(.*)' contains/.exec(line)?.[1] ?? table;
    const fields = /^\s*\d+: ([0-9a-f]+)\s+(\S+) (\S+)\s+(\S+)\s+\S+\s+(\S+) (.+)$/.exec(line);
    if (!fields) continue;
    const [, address = '', size = '', type = '', binding = '', section = '', name = ''] = fields;
    const bare = name.replace(/ \(\d+\)$/, '');
    symbols.push({
      table,
      address: parseInt(address, 16),
      size: Number(size),
      type,
      binding,
      section,
      name: bare,
    });
  }
  return symbols;
}

export interface ReadelfSegment {
  readonly offset: number;
  readonly vaddr: number;
  readonly filesz: number;
  readonly memsz: number;
  readonly flags: string;
}

export function readelfLoads(path: string): ReadelfSegment[] {
  return run('readelf', '-W', '-l', path).flatMap((line) => {
    const fields = /^\s*LOAD\s+(0x\w+) (0x\w+) 0x\w+ (0x\w+) (0x\w+) ([RWE ]{3})/.exec(line);
    if (!fields) return [];
    const [offset = 0, vaddr = 0, filesz = 0, memsz = 0] = fields.slice(1, 5).map(Number);
    return [{ offset, vaddr, filesz, memsz, flags: (fields[5] ?? '').replaceAll(' ', '') }];
  });
}

export function readelfSections(
  path: string,
): { name: string; address: number; offset: number; size: number }[] {
  return run('readelf', '-W', '-S', path).flatMap((line) => {
    const fields = /^\s*\[\s*\d+\] (\S*)\s+[A-Z_0-9]+\s+([0-9a-f]{16}) ([0-9a-f]{6,}) ([0-9a-f]{6,}) /.exec(
      line,
    );
    if (!fields) return [];
    const [address = 0, offset = 0, size = 0] = fields.slice(2, 5).map((n) => parseInt(n, 16));
    return [{ name: fields[1] ?? '', address, offset, size }];
  });
}

/** The values of one kind of entry in the dynamic section, e.g. `NEEDED`. */
export function readelfDynamic(path: string, tag: string): string[] {
  const pattern = new RegExp(`\\(${tag}\\).*\\[(.*)\\]`);
  return run('readelf', '-W', '-d', path).flatMap((line) => pattern.exec(line)?.[1] ?? []);
}

export function readelfBuildId(path: string): string | undefined {
  return run('readelf', '-W', '-n', path)
    .map((line) => /Build ID: ([0-9a-f]+)/.exec(line)?.[1])
    .find((id) => id !== undefined);
}

export function readelfInterpreter(path: string): string | undefined {
  return run('readelf', '-W', '-l', path)
    .map((line) => /program interpreter: (.*)\]/.exec(line)?.[1])
    .find((name) => name !== undefined);
}

export function readelfEntry(path: string): number {
  const line = run('readelf', '-W', '-h', path).find((l) => l.includes('Entry point'));
  return Number(/0x[0-9a-f]+/.exec(line ?? '')?.[0]);
}

/** Ranges of the FDEs in .eh_frame. */
export function readelfFrames(path: string): { start: number; end: number }[] {
  const ranges: { start: number; end: number }[] = [];
  let inEhFrame = false;
  for (const line of run('readelf', '--debug-dump=frames', path)) {
    if (line.startsWith('Contents of the ')) inEhFrame = line.includes(' .eh_frame section');
    const range = inEhFrame ? / FDE .*pc=([0-9a-f]+)\.\.([0-9a-f]+)/.exec(line) : undefined;
    if (range) ranges.push({ start: parseInt(range[1] ?? '', 16), end: parseInt(range[2] ?? '', 16) });
  }
  return ranges;
}

export interface NmSymbol {
  readonly address: number;
  readonly letter: string;
  /** As nm prints it, versions included. */
  readonly name: string;
}

/** `nm` with its options, e.g. `-D`; undefined symbols left out. */
export function nm(path: string, ...options: string[]): NmSymbol[] {
  return run('nm', '--defined-only', ...options, path).flatMap((line) => {
    const fields = /^([0-9a-f]+) (\S) (.+)$/.exec(line);
    return fields
      ? [{ address: parseInt(fields[1] ?? '', 16), letter: fields[2] ?? '', name: fields[3] ?? '' }]
      : [];
  });
}

export interface ReadelfRelocation {
  readonly at: number;
  readonly type: string;
  /** With its version. */
  readonly symbol: string | undefined;
  readonly addend: number;
}

export function readelfRelocations(path: string): ReadelfRelocation[] {
  return run('readelf', '-W', '-r', path).flatMap((line) => {
    const fields =
      /^([0-9a-f]{16}) {2}[0-9a-f]{16} (R_X86_64_\S+) +(?:[0-9a-f]{16} (\S+) \+ )?([0-9a-f]*)$/.exec(line);
    if (!fields) return [];
    const [, at = '', type = '', symbol, addend = ''] = fields;
    return [{ at: parseInt(at, 16), type, symbol, addend: addend === '' ? 0 : parseInt(addend, 16) }];
  });
}
