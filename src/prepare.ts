/** Loading what the first probe needs before it is needed. Apart from the rest, so that it can come before the rest. */
export { prepareTracer as prepare } from './engines/trap/tracer-worker.js';
export { prepareDrain } from './events/drain-worker.js';
