/** What wait4(2) says of a tracee (ptrace(2)): its end, or why it has stopped. */
import { SIG } from './numbers.js';
import { EVENT } from './ptrace.js';

export const exited = (status: number): boolean => (status & 0x7f) === 0;
export const killed = (status: number): boolean => (status & 0x7f) !== 0 && (status & 0xff) !== 0x7f;
export const stopSignal = (status: number): number => (status >>> 8) & 0xff;
export const stopEvent = (status: number): number => status >>> 16;
/** The stop before the delivery of a signal. */
export const signalStop = (signal: number): number => (signal << 8) | 0x7f;
/** A stop that means nothing but "go on": as after an interrupt. */
export const PLAIN_STOP = (EVENT.stop << 16) | (SIG.trap << 8) | 0x7f;
