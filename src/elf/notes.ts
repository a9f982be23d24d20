/** ELF notes: only the build-id is wanted. gABI chapter 5, "Note Section"; the GNU build-id is type 3 of owner "GNU". */

const NT_GNU_BUILD_ID = 3;
/** SHA-1 makes 20 bytes; ld's --build-id=0x… lets anyone choose, but a path is made of it. */
const LONGEST_BUILD_ID = 64;

/** The build-id in a block of notes, in lower-case hexadecimal. `align`: 4, or 8 where the segment says so. */
export function buildIdIn(notes: Buffer, align: number): string | undefined {
  const step = align === 8 ? 8 : 4;
  const up = (n: number): number => Math.ceil(n / step) * step;
  for (let at = 0; at + 12 <= notes.length;) {
    const nameSize = notes.readUInt32LE(at);
    const descSize = notes.readUInt32LE(at + 4);
    const desc = up(at + 12 + nameSize);
    if (desc + descSize > notes.length) return undefined;
    const isGnu = nameSize === 4 && notes.toString('latin1', at + 12, at + 16) === 'GNU\0';
    if (
      isGnu &&
      notes.readUInt32LE(at + 8) === NT_GNU_BUILD_ID &&
      descSize >= 2 &&
      descSize <= LONGEST_BUILD_ID
    )
      return notes.toString('hex', desc, desc + descSize);
    at = up(desc + descSize);
  }
  return undefined;
}
