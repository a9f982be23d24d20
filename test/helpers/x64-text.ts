/** The executable sections of an ELF file, as objdump would disassemble them. */
export interface Text {
  readonly code: Buffer;
  readonly address: number;
}

/** Reads the section headers by hand (elf(5)): the reader under test elsewhere is no witness here. */
export function sectionsOf(file: Buffer): (Text & { readonly name: string })[] {
  const at = Number(file.readBigUInt64LE(0x28));
  const [size, count, names] = [file.readUInt16LE(0x3a), file.readUInt16LE(0x3c), file.readUInt16LE(0x3e)];
  const field = (section: number, offset: number): number =>
    Number(file.readBigUInt64LE(at + section * size + offset));
  const nameOf = (section: number): string => {
    const start = field(names, 0x18) + file.readUInt32LE(at + section * size);
    return file.toString('latin1', start, file.indexOf(0, start));
  };
  return Array.from({ length: count }, (_, section) => ({
    name: nameOf(section),
    address: field(section, 0x10),
    code: file.subarray(field(section, 0x18), field(section, 0x18) + field(section, 0x20)),
    isCode: (field(section, 8) & 4) !== 0,
  })).filter((section) => section.isCode);
}

export function textOf(file: Buffer): Text {
  const text = sectionsOf(file).find((section) => section.name === '.text');
  if (!text) throw new Error('no .text section');
  return text;
}
