/** `NAME=VALUE` words to values, by what a module declares. Everything wrong is said before anything is loaded. */
import { SpecError } from '../base/errors.js';
import { nearest } from '../base/nearest.js';
import type { Parameter, Parameters } from './types.js';

/** What was given, in order; the last of a name counts. */
export type GivenParameters = readonly (readonly [name: string, value: string])[];
export type Value = string | number | bigint | boolean | undefined;

const TYPES = ['string', 'number', 'bigint', 'boolean'];
const TRUE = ['1', 'y', 'yes', 'true', 'on'];
const FALSE = ['0', 'n', 'no', 'false', 'off'];

const wrong = (message: string): SpecError => new SpecError('bad-parameter', message);

/** Check what a module says of its parameters. `what` names the module in messages. */
export function checkDeclared(declared: unknown, what: string): Parameters | undefined {
  if (declared === undefined) return undefined;
  if (typeof declared !== 'object' || declared === null || Array.isArray(declared))
    throw wrong(`${what}: parameters must be an object, as in { nth: { type: 'number', default: 1 } }`);
  for (const [name, parameter] of Object.entries(declared)) checkOne(name, parameter, what);
  return declared as Parameters;
}

function checkOne(name: string, parameter: unknown, what: string): void {
  const about = `${what}: parameter ${JSON.stringify(name)}`;
  if (!/^[A-Za-z_]\w*$/.test(name))
    throw wrong(`${about}: a name is made of letters, digits and underscores`);
  const { type, default: value } = (parameter ?? {}) as { type?: unknown; default?: unknown };
  if (typeof type !== 'string' || !TYPES.includes(type))
    throw wrong(`${about} must say its type: ${TYPES.map((t) => `'${t}'`).join(', ')}`);
  if (value !== undefined && typeof value !== type)
    throw wrong(`${about} is a ${type}, and its default is a ${typeof value}`);
}

/** The values a module is loaded with. */
export function valuesOf(
  declared: Parameters | undefined,
  given: GivenParameters,
  what: string,
): Readonly<Record<string, Value>> {
  if (declared === undefined) return Object.fromEntries(given);
  const words = new Map(given);
  for (const name of words.keys()) if (!Object.hasOwn(declared, name)) throw unknown(name, declared, what);
  const values: Record<string, Value> = {};
  for (const [name, parameter] of Object.entries(declared)) {
    const word = words.get(name);
    if (word !== undefined) values[name] = valueOf(name, parameter, word, what);
    else if (parameter.default !== undefined || parameter.optional === true) values[name] = parameter.default;
    else throw wrong(`${what} needs ${name}=…${about(parameter)}`);
  }
  return values;
}

function unknown(name: string, declared: Parameters, what: string): SpecError {
  const names = Object.keys(declared);
  if (names.length === 0) return wrong(`${what} has no parameters, and ${name}=… was given`);
  const [near] = nearest(name, names, 1);
  return wrong(
    `${what} has no parameter ${name}: ${near === undefined ? `it has ${names.join(', ')}` : `did you mean ${near}?`}`,
  );
}

const about = ({ type, description }: Parameter): string =>
  ` (${type === 'bigint' ? 'a whole number' : `a ${type}`}${description === undefined ? '' : `: ${description}`})`;

function valueOf(name: string, parameter: Parameter, word: string, what: string): Value {
  const value = parse(parameter.type, word.trim(), word);
  if (value === undefined) throw wrong(`${what}: ${name}=${word} is wrong${about(parameter)}`);
  return value;
}

function parse(type: Parameter['type'], trimmed: string, word: string): Value {
  switch (type) {
    case 'string':
      return word;
    case 'number': {
      const value = trimmed === '' ? NaN : Number(trimmed);
      return Number.isNaN(value) ? undefined : value;
    }
    case 'bigint':
      return /^-?(?:0x[0-9a-f]+|\d+)n?$/i.test(trimmed) ? bigintOf(trimmed.replace(/n$/, '')) : undefined;
    case 'boolean':
      if (TRUE.includes(trimmed.toLowerCase())) return true;
      return FALSE.includes(trimmed.toLowerCase()) ? false : undefined;
  }
}

/** BigInt() takes no sign before 0x. */
const bigintOf = (word: string): bigint => (word.startsWith('-') ? -BigInt(word.slice(1)) : BigInt(word));

/** One line for each parameter, as `modinfo` has them. */
export function describeParameters(parameters: Parameters): { word: string; text: string }[] {
  return Object.entries(parameters).map(([name, { type, description, default: value, optional }]) => {
    const end = value !== undefined ? `default ${value}` : optional === true ? 'optional' : 'must be given';
    return { word: `${name}=${type.toUpperCase()}`, text: `${description ?? ''} (${end})`.trimStart() };
  });
}
