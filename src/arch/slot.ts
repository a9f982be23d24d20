/**
 * Binding a slot template to its place. Pure and without a decoder, because the tracer thread does it.
 */
import type { VirtualAddress } from '../base/address.js';
import type { SlotStop, SlotTemplate } from './arch.js';

const INT32_MIN = -0x8000_0000;
const INT32_MAX = 0x7fff_ffff;

/** The code to write at `slot` for the site at `site`; undefined where a pc-relative field does not reach. */
export function bindSlot(
  template: SlotTemplate,
  site: VirtualAddress,
  slot: VirtualAddress,
): Uint8Array | undefined {
  const code = Uint8Array.from(template.code);
  const view = new DataView(code.buffer);
  for (const { at, end, delta } of template.rel32) {
    const distance = site + delta - (slot + end);
    if (distance < INT32_MIN || distance > INT32_MAX) return undefined;
    view.setInt32(at, distance, true);
  }
  for (const { at, delta } of template.abs64) view.setBigInt64(at, BigInt(site + delta), true);
  return code;
}

/**
 * What a thread stopped `slotOffset` bytes into its slot is doing; undefined for an offset at which no thread can
 * be stopped: inside an instruction, or in the template's data.
 */
export function stopAt(template: SlotTemplate, slotOffset: number): SlotStop | undefined {
  return template.stops.find((stop) => stop.at === slotOffset);
}

/** The last stop up to an offset: what a thread that faulted there was doing. */
export function stopBefore(template: SlotTemplate, slotOffset: number): SlotStop | undefined {
  return template.stops.findLast((stop) => stop.at <= slotOffset);
}

/** How an instruction of this length is stepped in its own place. */
export const inPlace = (length: number): SlotTemplate => ({
  length,
  code: new Uint8Array(),
  rel32: [],
  abs64: [],
  stops: [{ at: 0, resume: 0, undoSp: 0 }],
  pushesFlags: false,
  inPlace: true,
});
