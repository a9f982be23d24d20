/** Sets of signals as the kernel keeps and shows them: bit N-1 for signal N. */
import { SIG } from './numbers.js';
import { statusField } from './proc-status.js';

export const signalBit = (signal: number): bigint => 1n << BigInt(signal - 1);

export const TRAP_BIT = signalBit(SIG.trap);

/** A set in /proc/ID/status (proc_pid_status(5)) of a process or thread; empty when that is gone. */
export const signalSet = (id: number, field: 'SigPnd' | 'ShdPnd' | 'SigBlk' | 'SigIgn' | 'SigCgt'): bigint =>
  BigInt(`0x${statusField(id, field) ?? '0'}`);

export const isCaught = (id: number, signal: number): boolean =>
  (signalSet(id, 'SigCgt') & signalBit(signal)) !== 0n;

export const isIgnored = (id: number, signal: number): boolean =>
  (signalSet(id, 'SigIgn') & signalBit(signal)) !== 0n;
