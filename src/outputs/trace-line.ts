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
  /** Where a function has returned. */
  readonly returnValue?: bigint;
  readonly duration?: bigint;
}

export type LineFormat = (hit: ShownHit, values: readonly ShownValue[]) => string;

/** Lines for people: seconds since the start (0 before there is one), process/thread, command, place, arguments. */
export function textFormat(
  probe: ShownProbe,
  args: readonly ShownArgument[],
  start: () => bigint | undefined,
): LineFormat {
  const label = escapeText(probe.label);
  const isReturn = probe.kind === 'return';
  const names = args.map((a) => `${escapeText(a.name)}=`);
  return (hit, values) => {
    let line = `${secondsSince(start(), hit.time)}  ${hit.pid}/${hit.tid}  ${escapeText(hit.comm)}  ${label}`;
    if (isReturn) line += `  = ${returnedText(hit.returnValue!)}  ${durationText(hit.duration!)}`;
    for (let i = 0; i < args.length; i++) {
      line += `${i === 0 ? '  ' : ' '}${names[i]}${textValue(args[i]!, values[i])}`;
    }
    return line;
  };
}

/** JSON lines; docs/json.md has the schema. */
export function jsonFormat(probe: ShownProbe, args: readonly ShownArgument[]): LineFormat {
  const symbol = probe.symbol === undefined ? 'null' : jsonString(probe.symbol);
  const isReturn = probe.kind === 'return';
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
    if (isReturn) line += `,"returnValue":"${hit.returnValue!}","durationNs":"${hit.duration!}"`;
    return `${line}}`;
  };
}

/**
 * A value whose type nobody has said: small ones as C's signed numbers, what can only be a pointer or a set of bits in
 * hexadecimal.
 */
export function returnedText(value: bigint): string {
  const signed = BigInt.asIntN(64, value);
  // -4095 is the last of the kernel's error numbers (include/linux/err.h)
  return signed >= -4095n && signed < 0x8000_0000n ? String(signed) : `0x${value.toString(16)}`;
}

const UNITS = ['ns', 'µs', 'ms', 's'];

/** Three digits that matter: `850 ns`, `12.3 µs`, `1.40 ms`, `75.0 s`. */
export function durationText(ns: bigint): string {
  let value = Number(ns);
  let unit = 0;
  // 999.5 would be shown as 1000
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit++;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
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
