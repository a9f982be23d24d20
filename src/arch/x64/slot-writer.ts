/** Writes one slot template, front to back. */
import { SLOT_SIZE, type Displaced, type SlotStop, type SlotTemplate } from '../arch.js';

type Mutable<T> = T extends readonly (infer E)[] ? E[] : never;

/** What else there is to know of an instruction. */
export type Traits = Partial<
  Pick<SlotTemplate, 'pushesFlags' | 'loadsFlags' | 'entersKernel' | 'raisesTrap' | 'calls'>
>;

export class SlotWriter {
  readonly #length: number;
  readonly #code = new Uint8Array(SLOT_SIZE);
  #size = 0;
  readonly #rel32: Mutable<SlotTemplate['rel32']> = [];
  readonly #abs64: Mutable<SlotTemplate['abs64']> = [];
  readonly #stops: Mutable<SlotTemplate['stops']> = [{ at: 0, resume: 0, undoSp: 0 }];
  /** Where `push [rip+…]` says how far away the return address is. */
  #returnAddressAt: number | undefined;

  /** For an original instruction of this length. */
  constructor(length: number) {
    this.#length = length;
  }

  emit(...bytes: readonly number[]): this {
    return this.copy(bytes, 0, bytes.length);
  }

  /** Bytes `from` up to, not including, `to`. */
  copy(bytes: ArrayLike<number>, from: number, to: number): this {
    if (this.#size + to - from > SLOT_SIZE) throw new RangeError('the template is larger than a slot');
    for (let i = from; i < to; i++) this.#code[this.#size++] = bytes[i] as number;
    return this;
  }

  /** A 32-bit field relative to the end of the instruction, which comes `after` more bytes. */
  relative(delta: number, after = 0): this {
    const at = this.#size;
    this.#rel32.push({ at, end: at + 4 + after, delta });
    return this.emit(0, 0, 0, 0);
  }

  /** `jmp rel32` to site + delta. */
  jumpTo(delta: number): this {
    return this.emit(0xe9).relative(delta);
  }

  /** A thread may be stopped here, and then `resume` is what the original instruction has done. */
  stop(resume: number | undefined, undoSp = 0, more: Pick<SlotStop, 'silent' | 'afterSyscall'> = {}): this {
    this.#stops.push({ at: this.#size, resume, undoSp, ...more });
    return this;
  }

  /** A 64-bit field: the address site + delta. */
  absolute(delta: number): this {
    this.#abs64.push({ at: this.#size, delta });
    return this.emit(0, 0, 0, 0, 0, 0, 0, 0);
  }

  /**
   * `push qword ptr [rip+n]`, with the address behind the original instruction as a quadword after the `n` bytes
   * of code that still follow. It needs no register and faults as the call's own push would.
   */
  pushReturnAddress(n: number): this {
    this.emit(0xff, 0x35, n, 0, 0, 0);
    this.#returnAddressAt = this.#size + n;
    return this.stop(undefined, 8);
  }

  finish({ pushesFlags = false, ...traits }: Traits = {}): Displaced {
    if (this.#returnAddressAt !== undefined) {
      if (this.#returnAddressAt !== this.#size)
        throw new Error('the return address is not where the push reads it');
      this.absolute(this.#length);
    }
    const template: SlotTemplate = {
      length: this.#length,
      code: this.#code.slice(0, this.#size),
      rel32: this.#rel32,
      abs64: this.#abs64,
      stops: this.#stops,
      pushesFlags,
      ...traits,
    };
    return { ok: true, template };
  }
}
