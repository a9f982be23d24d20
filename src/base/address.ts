/**
 * Two kinds of number that must never mix: where a thing is in memory, and where it is in a file.
 * Both are plain numbers at run time. User addresses on x86-64 are below 2^47 (2^56 with five-level
 * paging, for programs that ask for it), so a double holds every one of them exactly.
 */
declare const virtualAddress: unique symbol;
declare const fileOffset: unique symbol;

/** An address in some process, or a link-time address of an ELF image, in bytes. */
export type VirtualAddress = number & { readonly [virtualAddress]: true };
/** A position in a file, in bytes. */
export type FileOffset = number & { readonly [fileOffset]: true };

export const asAddress = (n: number): VirtualAddress => n as VirtualAddress;
export const asOffset = (n: number): FileOffset => n as FileOffset;

/** `0x`-prefixed lower-case hexadecimal, as nm and objdump users expect to paste it. */
export const hex = (n: number | bigint): string => `0x${n.toString(16)}`;
