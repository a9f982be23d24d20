/**
 * One line for one hit, as text or as JSON. A thread of the traced program waits while it is made, so what is the
 * same at every hit of a probe is made once.
 */
import { escapeText, jsonString, quote } from '../base/escape.js';
import { hex } from '../base/address.js';

/**
 * How a value is shown. `wide` integers can have more bits than JSON's readers keep (RFC 8259, section 6: 53), so
 * they are decimal strings in JSON, whatever their value; `narrow` ones (32 bits and fewer) are numbers.
 */
export type ValueKind = 'wide' | 'narrow' | 'real' | 'truth' | 'string' | 'verbatim';

/** An argument's name and kind, as the formats need them. */
export interface ShownArgument {
  readonly name: string;
  readonly kind: ValueKind;
  /** In place of a value that is not there. */
  readonly absent: string;
}

export type ShownValue = bigint | number | string | boolean | undefined;

/** A probed place, as the lines name it. */
export interface ShownProbe {
  /** What to give `uprobe` for just this place. */
  readonly probe: string;
  /** The short name: the file's last name and the place. */
  readonly label: string;
  readonly symbol: string | undefined;
  readonly offset: number;
  readonly kind: 'pre' | 'post' | 'return';
}

/** What is known of one hit. `values` go with the arguments the format was made for. */
export interface ShownHit {
  /** CLOCK_MONOTONIC, ns. */
  readonly time: bigint;
  readonly pid: number;
  readonly tid: number;
  readonly comm: string;
}

export type LineFormat = (hit: ShownHit, values: readonly ShownValue[]) => string;

/** Lines for people: seconds since the start (0 before there is one), process/thread, command, place, arguments. */
export function textFormat(
  probe: ShownProbe,
  args: readonly ShownArgument[],
  start: () => bigint | undefined,
): LineFormat {
  const label = escapeText(probe.label);
  const names = args.map((a) => `${escapeText(a.name)}=`);
  return (hit, values) => {
    let line = `${secondsSince(start(), hit.time)}  ${hit.pid}/${hit.tid}  ${escapeText(hit.comm)}  ${label}`;
    for (let i = 0; i < args.length; i++) {
      line += `${i === 0 ? '  ' : ' '}${names[i]}${textValue(args[i]!, values[i])}`;
    }
    return line;
  };
}

/** JSON lines; docs/json.md has the schema. */
export function jsonFormat(probe: ShownProbe, args: readonly ShownArgument[]): LineFormat {
  const symbol = probe.symbol === undefined ? 'null' : jsonString(probe.symbol);
  const place = `"probe":${jsonString(probe.probe)},"symbol":${symbol},"offset":${probe.offset},"kind":"${probe.kind}"`;
  const names = args.map((a, i) => `${i === 0 ? '' : ','}${jsonString(a.name)}:`);
  return (hit, values) => {
    const { time, pid, tid, comm } = hit;
    let line = `{"time":"${time}","pid":${pid},"tid":${tid},"comm":${jsonString(comm)},${place}`;
    if (args.length > 0) {
      line += ',"args":{';
      for (let i = 0; i < args.length; i++) line += names[i]! + jsonValue(args[i]!.kind, values[i]);
      line += '}';
    }
    return `${line}}`;
  };
}

/** Microseconds as `12.345678`, right-aligned. */
function secondsSince(start: bigint | undefined, time: bigint): string {
  const micros = start === undefined || time < start ? 0 : Math.floor(Number(time - start) / 1000);
  const seconds = Math.floor(micros / 1e6);
  return `${String(seconds).padStart(5)}.${String(micros - seconds * 1e6).padStart(6, '0')}`;
}

function textValue({ kind, absent }: ShownArgument, value: ShownValue): string {
  if (value === undefined) return absent;
  return kind === 'string' ? quote(value as string) : String(value);
}

function jsonValue(kind: ValueKind, value: ShownValue): string {
  if (value === undefined) return 'null';
  switch (kind) {
    case 'wide':
    case 'verbatim':
      return `"${value}"`;
    case 'string':
      return jsonString(value as string);
    case 'real':
      // JSON has no word for these: they are strings.
      return Number.isFinite(value) ? String(value) : `"${value}"`;
    default:
      return String(value);
  }
}

/** The name of a place in a file: `malloc`, `malloc+0x10`, `0x2a4f0`. */
export function placeName(
  symbol: string | undefined,
  symbolOffset: number | undefined,
  offset: number,
): string {
  if (symbol === undefined) return hex(offset);
  return symbolOffset === undefined || symbolOffset === 0 ? symbol : `${symbol}+${hex(symbolOffset)}`;
}
