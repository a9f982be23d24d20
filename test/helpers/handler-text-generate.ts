/**
 * Random handlers, as text. Most of them compile; those that do not (a range that cannot be proven) are for the caller to throw away.
 * They use the aggregates of `generatedScope`, and nothing else from outside.
 */
import { counter, events, histogram, linearHistogram, stats, string, table } from 'uprobe';
import type { Random } from './random.js';

/** What the texts call by these names: fresh ones. */
export const generatedScope = (): ReturnType<typeof makeScope> => makeScope();
const makeScope = () => ({
  count: counter(),
  sizes: histogram(),
  steps: linearHistogram({ min: 0, max: 1000, step: 100 }),
  all: stats(),
  byNumber: table({ key: 'u64', value: counter, capacity: 1000 }),
  byName: table({ key: ['i32', string(16), 'bool'], value: stats, capacity: 1000 }),
  seen: events({ a: 'u64', b: 'i32', text: string(24), flag: 'bool' }),
  limit: 100n,
  few: 5,
  word: 'redis',
  on: true,
});

export interface GenerateOptions {
  readonly moment: 'pre' | 'return';
  /** Expressions for addresses that are worth reading: bigints. */
  readonly addresses: readonly string[];
  /** Whether handlers write registers and give verdicts. */
  readonly acts: boolean;
  /** Registers to read; arguments are read besides. */
  readonly registers?: readonly string[];
  /** Whether handlers read what differs from hit to hit in ways that a test cannot know: time, cpu, duration. Default: yes. */
  readonly volatile?: boolean;
  /** Whether arguments on the stack are read, which may not be there. Default: no. */
  readonly stack?: boolean;
  /** The most statements of a block. Default 5. */
  readonly statements?: number;
}

type Kind = 'bigint' | 'number' | 'string' | 'boolean';
interface Variable {
  readonly name: string;
  readonly kind: Kind;
  readonly mutable: boolean;
  /** It may be undefined. */
  optional: boolean;
}

const TYPES = ['u8', 'u16', 'u32', 'u64', 'i8', 'i16', 'i32', 'i64'] as const;
const LITERALS = [
  '0n', '1n', '2n', '3n', '7n', '10n', '63n', '64n', '100n', '255n', '256n', '0x7fff_ffffn', '0x8000_0000n', '0xffff_ffffn',
  '0x7fff_ffff_ffff_ffffn', '0x8000_0000_0000_0000n', '0xffff_ffff_ffff_ffffn', '-1n', '-2n', '-100n', '-0x8000_0000n',
]; // prettier-ignore
const WORDS = ['"redis"', '"redis-server"', "''", '`x`', '"a"', '"größer"'];

export function generateHandler(random: Random, options: GenerateOptions): string {
  return new Generator(random, options).whole();
}

class Generator {
  readonly #random: Random;
  readonly #options: GenerateOptions;
  readonly #variables: Variable[] = [];
  #names = 0;
  #loops = 0;

  constructor(random: Random, options: GenerateOptions) {
    this.#random = random;
    this.#options = options;
  }

  whole(): string {
    const names = 'count, sizes, steps, all, byNumber, byName, seen, limit, few, word, on';
    return `(hit, { ${names} }) => {\n${this.#block(3, '  ')}}`;
  }

  // Statements

  #block(depth: number, indent: string): string {
    const known = this.#variables.length;
    const count = 1 + this.#random.below(this.#options.statements ?? 5);
    let body = '';
    for (let i = 0; i < count; i++) body += this.#statement(depth, indent);
    this.#variables.length = known;
    return body;
  }

  #statement(depth: number, indent: string): string {
    const { acts, moment } = this.#options;
    const choice = this.#random.below(24);
    if (choice < 4) return this.#declaration(indent);
    if (choice < 6) return this.#assignment(indent);
    if (choice < 9 && depth > 0) return this.#if(depth, indent);
    if (choice < 11 && depth > 0 && this.#loops < 2) return this.#for(depth, indent);
    if (choice === 11 && this.#random.once(4)) return this.#leave(indent);
    if (choice === 12 && this.#loops > 0) {
      return `${indent}if (${this.#boolean(2)}) ${this.#random.pick(['break', 'continue'])};\n`;
    }
    if (choice === 13 && moment === 'pre') return `${indent}hit.call = u64(${this.#bigint(2)});\n`;
    if (choice === 14 && acts) return this.#register(indent);
    return `${indent}${this.#write()};\n`;
  }

  #write(): string {
    switch (this.#random.below(8)) {
      case 0:
        return this.#random.once(2) ? 'count.add()' : `count.add(${this.#whole(3)})`;
      case 1:
        return `sizes.add(${this.#whole(3)})`;
      case 2:
        return `steps.add(${this.#whole(2)})`;
      case 3:
        return `all.add(${this.#whole(3)})`;
      case 4:
        return `byNumber.at(u64(${this.#bigint(2)})).add(${this.#whole(2)})`;
      case 5:
        return `byName.at(${this.#random.pick(['few', `i32(${this.#bigint(2)})`])}, ${this.#string(2)}, ${this.#boolean(1)}).add(${this.#whole(2)})`;
      default:
        return `seen.emit({ a: ${this.#maybe('u64')}, flag: ${this.#boolean(1)}, b: ${this.#maybe('i32')}, text: ${this.#maybeText()} })`;
    }
  }

  #maybe(type: string): string {
    if (this.#random.once(3)) return `hit.read(${this.#address(1)}, '${type}')`;
    return `${type}(${this.#bigint(2)})`;
  }
  #maybeText(): string {
    const text = `hit.readString(${this.#address(1)}, ${this.#random.pick(['24', '5', 'few'])})`;
    return this.#random.once(2) ? text : this.#string(2);
  }

  #declaration(indent: string): string {
    const name = `v${this.#names++}`;
    const mutable = this.#random.once(2);
    const word = mutable ? 'let' : 'const';
    const kind = this.#random.pick<Kind | 'optional'>([
      'bigint', 'bigint', 'bigint', 'number', 'string', 'boolean', 'optional', 'optional',
    ]); // prettier-ignore
    if (kind !== 'optional') {
      const line = `${indent}${word} ${name} = ${this.#of(kind, 3)};\n`;
      this.#variables.push({ name, kind, mutable, optional: false });
      return line;
    }
    const isText = this.#random.once(3);
    const value = isText
      ? `hit.readString(${this.#address(1)}, ${this.#random.pick(['16', 'few', '300'])})`
      : `hit.read(${this.#address(1)}, '${this.#random.pick(TYPES)}')`;
    const variable = {
      name,
      kind: isText ? ('string' as const) : ('bigint' as const),
      mutable,
      optional: true,
    };
    let text = `${indent}${word} ${name} = ${value};\n`;
    this.#variables.push(variable);
    // From here on it is known to be there; in places that the text reaches.
    switch (this.#random.below(4)) {
      case 0:
        text += `${indent}if (${name} === undefined) ${this.#loops > 0 ? 'continue' : 'return'};\n`;
        variable.optional = false;
        break;
      case 1:
        variable.optional = false;
        text += `${indent}if (${name} !== undefined) {\n${this.#block(1, `${indent}  `)}${indent}}\n`;
        variable.optional = true;
        break;
      default:
    }
    return text;
  }

  #assignment(indent: string): string {
    const targets = this.#variables.filter((v) => v.mutable && !v.optional);
    if (targets.length === 0) return `${indent}${this.#write()};\n`;
    const { name, kind } = this.#random.pick(targets);
    if (kind === 'bigint') {
      if (this.#random.once(3)) {
        const operator = this.#random.pick(['+', '-', '*', '&', '|', '^', '>>', '<<']);
        const by = operator.length === 2 ? `${this.#bigint(1)} & 7n` : this.#bigint(1);
        return `${indent}${name} ${operator}= ${by};\n`;
      }
      if (this.#random.once(3)) return `${indent}${name}${this.#random.pick(['++', '--'])};\n`;
    }
    return `${indent}${name} = ${this.#of(kind, 3)};\n`;
  }

  #if(depth: number, indent: string): string {
    const yes = `${indent}if (${this.#boolean(3)}) {\n${this.#block(depth - 1, `${indent}  `)}${indent}}`;
    if (this.#random.once(2)) return `${yes}\n`;
    return `${yes} else {\n${this.#block(depth - 1, `${indent}  `)}${indent}}\n`;
  }

  #for(depth: number, indent: string): string {
    const name = `i${this.#names++}`;
    const isBig = this.#random.once(2);
    const n = isBig ? 'n' : '';
    const from = `${this.#random.below(3)}${n}`;
    const end = this.#random.pick([
      `${this.#random.below(9)}${n}`,
      isBig ? `u8(${this.#bigint(1)}) >> 5n` : 'few',
      isBig ? `${this.#bigint(1)} & 7n` : `Number(${this.#bigint(1)} & 7n)`,
    ]);
    const step = this.#random.pick([`${name}++`, `${name} += ${1 + this.#random.below(3)}${n}`]);
    const known = this.#variables.length;
    this.#variables.push({ name, kind: isBig ? 'bigint' : 'number', mutable: false, optional: false });
    this.#loops++;
    const body = this.#block(depth - 1, `${indent}  `);
    this.#loops--;
    this.#variables.length = known;
    return `${indent}for (let ${name} = ${from}; ${name} ${this.#random.pick(['<', '<='])} ${end}; ${step}) {\n${body}${indent}}\n`;
  }

  #leave(indent: string): string {
    const { acts, moment } = this.#options;
    const verdicts = acts ? (moment === 'pre' ? [" 'skip'", " 'remove'", ''] : [" 'remove'", '']) : [''];
    return `${indent}if (${this.#boolean(2)}) return${this.#random.pick(verdicts)};\n`;
  }

  #register(indent: string): string {
    const register = this.#random.pick(['ax', 'di', 'si', 'r11']);
    if (this.#options.moment === 'return' && this.#random.once(2))
      return `${indent}hit.returnValue = ${this.#bigint(2)};\n`;
    return `${indent}hit.regs.${register} ${this.#random.pick(['=', '+=', '^='])} ${this.#bigint(2)};\n`;
  }

  // Expressions

  #of(kind: Kind, depth: number): string {
    switch (kind) {
      case 'bigint':
        return this.#bigint(depth);
      case 'number':
        return this.#number(depth);
      case 'string':
        return this.#string(depth);
      case 'boolean':
        return this.#boolean(depth);
    }
  }

  #whole(depth: number): string {
    return this.#random.once(4) ? this.#number(depth) : this.#bigint(depth);
  }

  #variable(kind: Kind): string | undefined {
    const some = this.#variables.filter((v) => v.kind === kind && !v.optional);
    return some.length === 0 ? undefined : this.#random.pick(some).name;
  }

  #bigint(depth: number): string {
    if (depth <= 0 || this.#random.once(4)) return this.#bigintLeaf();
    const a = this.#bigint(depth - 1);
    const b = this.#bigint(depth - 1);
    const type = this.#random.pick(TYPES);
    switch (this.#random.below(12)) {
      case 0:
      case 1:
      case 2:
        return `${type}(${a} ${this.#random.pick(['+', '-', '*', '&', '|', '^'])} ${b})`;
      case 3:
        return `(${a} ${this.#random.pick(['+', '-', '*', '&', '|', '^'])} ${b})`;
      case 4:
        return `${this.#random.pick(TYPES)}(${a})`;
      case 5:
        return `(${a} ${this.#random.pick(['/', '%'])} (u32(${b}) | 1n))`;
      case 6:
        return `(i64(${a}) ${this.#random.pick(['/', '%'])} ${this.#random.pick(['3n', '-7n', '1000n', '-1n'])})`;
      case 7:
        return `(${a} >> (${b} & 63n))`;
      case 8:
        return `${type}(${a} << (${b} & 63n))`;
      case 9:
        return `(${this.#boolean(depth - 1)} ? ${a} : ${b})`;
      case 10:
        return this.#random.pick([
          `BigInt(${this.#number(depth - 1)})`,
          `u64(-${a})`,
          `i64(~${a})`,
          `(~${type}(${a}))`,
        ]);
      default:
        return `(hit.read(${this.#address(depth - 1)}, '${type}') ?? ${this.#random.pick(LITERALS.slice(0, 8))})`;
    }
  }

  #bigintLeaf(): string {
    const { moment, registers = ['ax', 'bx', 'sp', 'r11'], volatile = true } = this.#options;
    const variable = this.#variable('bigint');
    if (variable !== undefined && this.#random.once(2)) return variable;
    const choice = this.#random.below(8);
    if (choice < 3) return this.#random.pick(LITERALS);
    if (choice === 3) return 'limit';
    if (choice === 4 && registers.length > 0) return `hit.regs.${this.#random.pick(registers)}`;
    if (choice === 5 && volatile)
      return this.#random.pick(['hit.time', 'hit.cgroup', ...(moment === 'return' ? ['hit.duration'] : [])]);
    if (moment === 'pre')
      return `hit.arg(${this.#random.below(this.#options.stack === true && this.#random.once(4) ? 10 : 6)})`;
    return this.#random.pick([
      'hit.returnValue',
      `hit.entryArgs[${this.#random.below(6)}]`,
      '(hit.call ?? 5n)',
    ]);
  }

  #address(depth: number): string {
    const address = this.#random.pick(this.#options.addresses);
    if (this.#random.once(8)) return this.#bigint(depth);
    return this.#random.once(2) ? address : `${address} + (${this.#bigint(depth)} & 63n)`;
  }

  #number(depth: number): string {
    if (depth <= 0 || this.#random.once(3)) {
      const variable = this.#variable('number');
      if (variable !== undefined && this.#random.once(2)) return variable;
      return this.#random.pick([
        '0', '1', '2', '5', '100', '-1', '-3', 'few', 'hit.pid', 'hit.tid', ...(this.#options.volatile === false ? [] : ['hit.cpu']),
      ]); // prettier-ignore
    }
    const a = this.#number(depth - 1);
    const b = this.#number(depth - 1);
    switch (this.#random.below(7)) {
      case 0:
        return `(${a} ${this.#random.pick(['+', '-', '*'])} ${b})`;
      case 1:
        return `(${a} ${this.#random.pick(['&', '|', '^'])} ${b})`;
      case 2:
        return `(${a} % ${this.#random.pick(['3', '-7', '16'])})`;
      case 3:
        return `Math.trunc(${a} / ${this.#random.pick(['3', '-7', '1000'])})`;
      case 4:
        return `(${this.#boolean(depth - 1)} ? ${a} : ${b})`;
      case 5:
        return this.#random.pick([`(${a} >> 2)`, `(-${a})`, `(~${a})`, `((${a} & 255) << 3)`]);
      default:
        return `Number(${this.#random.pick(['u8', 'i8', 'u16', 'i32', 'u32'])}(${this.#bigint(depth - 1)}))`;
    }
  }

  #string(depth: number): string {
    const variable = this.#variable('string');
    if (variable !== undefined && this.#random.once(2)) return variable;
    switch (this.#random.below(5)) {
      case 0:
        return 'hit.comm';
      case 1:
        return 'word';
      case 2:
        return `(hit.readString(${this.#address(1)}, ${this.#random.pick(['16', 'few', 'Number(u8(hit.regs.ax)) & 15'])}) ?? ${this.#random.pick(WORDS)})`;
      case 3:
        return depth > 0
          ? `(${this.#boolean(1)} ? ${this.#string(depth - 1)} : ${this.#string(depth - 1)})`
          : 'word';
      default:
        return this.#random.pick(WORDS);
    }
  }

  #boolean(depth: number): string {
    const variable = this.#variable('boolean');
    if (variable !== undefined && this.#random.once(4)) return variable;
    const optional = this.#variables.filter((v) => v.optional);
    if (optional.length > 0 && this.#random.once(3)) {
      const v = this.#random.pick(optional);
      if (this.#random.once(2)) return `${v.name} ${this.#random.pick(['===', '!=='])} undefined`;
      v.optional = false;
      const text = `(${v.name} !== undefined && ${this.#boolean(depth - 1)})`;
      v.optional = true;
      return text;
    }
    const order = this.#random.pick(['<', '<=', '>', '>=']);
    const equality = this.#random.pick(['===', '!==']);
    switch (this.#random.below(depth <= 0 ? 4 : 8)) {
      case 0:
        return `${this.#bigint(depth - 1)} ${this.#random.once(2) ? order : equality} ${this.#bigint(depth - 1)}`;
      case 1:
        return `${this.#number(depth - 1)} ${this.#random.once(2) ? order : equality} ${this.#number(depth - 1)}`;
      case 2:
        return `${this.#whole(depth - 1)} ${order} ${this.#whole(depth - 1)}`;
      case 3:
        return this.#random.once(2)
          ? `${this.#string(0)} ${equality} ${this.#string(0)}`
          : `hit.read(${this.#address(0)}, 'u8') ${equality} ${this.#bigint(0)}`;
      case 4:
        return `!(${this.#boolean(depth - 1)})`;
      case 5:
        return `(${this.#boolean(depth - 1)} && ${this.#boolean(depth - 1)})`;
      case 6:
        return `(${this.#boolean(depth - 1)} || ${this.#boolean(depth - 1)})`;
      default:
        return this.#random.pick(['on', `(${this.#boolean(depth - 1)}) === (${this.#boolean(0)})`]);
    }
  }
}
