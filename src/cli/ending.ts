/** The one end of a run: whatever comes first decides, what comes later changes nothing. */

export type Reason =
  /** The probed processes have ended. */
  | { readonly why: 'ended' }
  | { readonly why: 'signal'; readonly signal: NodeJS.Signals }
  /** As many lines as wanted, or as much time. */
  | { readonly why: 'enough' }
  /** Our output takes no more. */
  | { readonly why: 'output'; readonly error: NodeJS.ErrnoException }
  /** The probes were taken from us. */
  | { readonly why: 'failed'; readonly error: Error };

/**
 * SIGQUIT too: its default would end us with breakpoints still in the targets. They stay caught until the process
 * exits, so that an impatient second Ctrl-C does not interrupt the removal of the probes.
 */
const SIGNALS: readonly NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'];

export class Ending {
  readonly #abort = new AbortController();
  #reason: Reason | undefined;
  #outputError: NodeJS.ErrnoException | undefined;
  #resolve!: (reason: Reason) => void;
  readonly promise = new Promise<Reason>((resolve) => {
    this.#resolve = resolve;
  });

  /** Aborted at the end: for work that would otherwise be waited for. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  get reason(): Reason | undefined {
    return this.#reason;
  }

  /** Output fails also when the last of it is written, after the end: that is the only news which still counts. */
  get outputError(): NodeJS.ErrnoException | undefined {
    return this.#outputError;
  }

  end(reason: Reason): void {
    if (reason.why === 'output') this.#outputError ??= reason.error;
    if (this.#reason !== undefined) return;
    this.#reason = reason;
    this.#resolve(reason);
    this.#abort.abort();
  }

  catchSignals(): void {
    for (const signal of SIGNALS) process.on(signal, () => this.end({ why: 'signal', signal }));
  }
}
