/** BPF instructions as text, in the syntax of LLVM's assembler. */
import {
  ALU,
  ATOMIC,
  CALL,
  CLASS,
  EXIT,
  HELPER,
  INSTRUCTION_BYTES,
  JUMP,
  JUMP_ALWAYS,
  MODE,
  PSEUDO,
  SIZE,
  SOURCE_REGISTER,
} from './opcodes.js';

const nameIn = (table: Readonly<Record<string, number>>, code: number): string =>
  Object.keys(table).find((name) => table[name] === code) ?? `?${code}`;

const SYMBOLS: Readonly<Record<string, string>> = {
  ...{ add: '+=', sub: '-=', mul: '*=', div: '/=', mod: '%=', or: '|=', and: '&=', xor: '^=' },
  ...{ lsh: '<<=', rsh: '>>=', arsh: 's>>=', mov: '=' },
  ...{ eq: '==', ne: '!=', gt: '>', ge: '>=', lt: '<', le: '<=', set: '&' },
  ...{ sgt: 's>', sge: 's>=', slt: 's<', sle: 's<=' },
};

interface Decoded {
  readonly opcode: number;
  readonly destination: number;
  readonly source: number;
  readonly offset: number;
  readonly imm: number;
  /** The upper half of a 16-byte load's immediate. */
  readonly next: number;
}

/** One line for each instruction; a 16-byte load has two, the second of them empty. */
export function disassemble(code: Uint8Array): string[] {
  const view = new DataView(code.buffer, code.byteOffset, code.byteLength);
  const lines: string[] = [];
  for (let at = 0; at < code.length; at += INSTRUCTION_BYTES) {
    const registers = view.getUint8(at + 1);
    const opcode = view.getUint8(at);
    const isWide = opcode === (CLASS.ld | SIZE[8]);
    const decoded = {
      opcode,
      destination: registers & 15,
      source: registers >> 4,
      offset: view.getInt16(at + 2, true),
      imm: view.getInt32(at + 4, true),
      next: isWide ? view.getInt32(at + 12, true) : 0,
    };
    lines.push(textOf(decoded));
    if (!isWide) continue;
    lines.push('');
    at += INSTRUCTION_BYTES;
  }
  return lines;
}

function textOf(i: Decoded): string {
  switch (i.opcode & 7) {
    case CLASS.alu32:
    case CLASS.alu64:
      return arithmetic(i, (i.opcode & 7) === CLASS.alu64 ? 'r' : 'w');
    case CLASS.jmp:
    case CLASS.jmp32:
      return jump(i);
    default:
      return memory(i);
  }
}

function arithmetic({ opcode, destination, source, imm }: Decoded, letter: string): string {
  const operation = opcode & 0xf0;
  const to = `${letter}${destination}`;
  if (operation === ALU.neg) return `${to} = -${to}`;
  const by = opcode & SOURCE_REGISTER ? `${letter}${source}` : String(imm);
  return `${to} ${SYMBOLS[nameIn(ALU, operation)] ?? '?'} ${by}`;
}

function jump({ opcode, destination, source, offset, imm }: Decoded): string {
  const operation = opcode & 0xf0;
  if (operation === EXIT) return 'exit';
  if (operation === CALL)
    return source === PSEUDO.kfunc ? `call kernel:${imm}` : `call ${nameIn(HELPER, imm)}`;
  const to = `goto ${offset < 0 ? '' : '+'}${offset}`;
  if (operation === JUMP_ALWAYS) return to;
  const letter = (opcode & 7) === CLASS.jmp ? 'r' : 'w';
  const right = opcode & SOURCE_REGISTER ? `${letter}${source}` : String(imm);
  return `if ${letter}${destination} ${SYMBOLS[nameIn(JUMP, operation)] ?? '?'} ${right} ${to}`;
}

function atomic(operation: number, at: string, base: number, source: number, offset: number): string {
  if (operation === ATOMIC.add) return `lock ${at} += r${source}`;
  const to = `r${base} ${offset < 0 ? '-' : '+'} ${Math.abs(offset)}`;
  return operation === ATOMIC.xchg
    ? `r${source} = xchg_64(${to}, r${source})`
    : `r0 = cmpxchg_64(${to}, r0, r${source})`;
}

function memory({ opcode, destination, source, offset, imm, next }: Decoded): string {
  const bits = Number(nameIn(SIZE, opcode & 0x18)) * 8;
  const at = (base: number): string =>
    `*(u${bits} *)(r${base} ${offset < 0 ? '-' : '+'} ${Math.abs(offset)})`;
  switch (opcode & 7) {
    case CLASS.ldx:
      return `r${destination} = ${at(source)}`;
    case CLASS.st:
      return `${at(destination)} = ${imm}`;
    case CLASS.stx:
      if ((opcode & 0xe0) !== MODE.atomic) return `${at(destination)} = r${source}`;
      return atomic(imm, at(destination), destination, source, offset);
    default: {
      if (source === PSEUDO.mapFd) return `r${destination} = map ${imm}`;
      if (source === PSEUDO.mapValue) return `r${destination} = map ${imm} + ${next}`;
      return `r${destination} = ${(BigInt(next) << 32n) | BigInt.asUintN(32, BigInt(imm))} ll`;
    }
  }
}
