import type { Parameters, ProbeModule } from './types.js';

/** The module as it is: lets TypeScript find the types of its parameters' values. */
export const probeModule = <const P extends Parameters>(module: ProbeModule<P>): ProbeModule<P> => module;
