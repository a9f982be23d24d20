/** Signals by name, as Node has them. */
import { constants } from 'node:os';

/** The first of the names of one signal is the one in use: SIGABRT, not SIGIOT. */
const names = new Map<number, NodeJS.Signals>(
  Object.entries(constants.signals)
    .reverse()
    .map(([name, number]) => [number, name as NodeJS.Signals]),
);

/** `SIGSEGV`; `SIG34` for those without a name (real-time signals). */
export const signalName = (signal: number): NodeJS.Signals =>
  names.get(signal) ?? (`SIG${signal}` as NodeJS.Signals);
