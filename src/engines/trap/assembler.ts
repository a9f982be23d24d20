/** As much of an assembler as a page of machine code needs: bytes, labels, and operands relative to rip. */
export class Assembler {
  readonly #bytes: number[] = [];
  readonly #labels = new Map<string, number>();
  readonly #fixups: { readonly at: number; readonly label: string; readonly end: number }[] = [];

  /** `offset`: where the code will lie, in the same terms as the labels given to `define`. */
  constructor(private readonly offset: number) {}

  get here(): number {
    return this.offset + this.#bytes.length;
  }

  code(...bytes: readonly number[]): this {
    this.#bytes.push(...bytes);
    return this;
  }

  label(name: string): this {
    return this.define(name, this.here);
  }

  /** A label somewhere else, such as data. */
  define(name: string, at: number): this {
    this.#labels.set(name, at);
    return this;
  }

  /** An instruction that ends in a 32-bit distance to a label, and `rest` bytes of an immediate behind it. */
  rel(label: string, bytes: readonly number[], rest: readonly number[] = []): this {
    this.code(...bytes);
    this.#fixups.push({ at: this.#bytes.length, label, end: this.here + 4 + rest.length });
    return this.code(0, 0, 0, 0, ...rest);
  }

  offsetOf(label: string): number {
    const at = this.#labels.get(label);
    if (at === undefined) throw new Error(`no label ${label}`);
    return at;
  }

  finish(): Uint8Array {
    const result = Uint8Array.from(this.#bytes);
    const view = new DataView(result.buffer);
    for (const { at, label, end } of this.#fixups) view.setInt32(at, this.offsetOf(label) - end, true);
    return result;
  }
}
