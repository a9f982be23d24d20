/** The probe thread as the main thread sees it. */
import { Worker } from 'node:worker_threads';
import { onExit } from 'signal-exit';
import { closeEngineOf } from '../compose.js';
import type { ExitStatus } from '../index.js';
import {
  fromPlain,
  type Answer,
  type Command,
  type LoadRequest,
  type ModuleDescription,
  type ModuleRequest,
  type Request,
} from './protocol.js';

export interface ProbeThreadInit {
  /** Where modules print before they are loaded. */
  readonly fd: number;
  /** False: modules are only looked at. */
  readonly probes: boolean;
  /** One word: 1 when it has let go of its targets. */
  readonly closed: Int32Array;
}

export interface ProbeThreadEvents {
  /** All modules have done their work. */
  ended(): void;
  outputBroken(error: NodeJS.ErrnoException): void;
  /** Something failed that nobody waits for. */
  crashed(error: Error): void;
  note(text: string): void;
}

/** A command that the thread has started: it stops before its first instruction. */
export interface StartedCommand {
  readonly pid: number;
  readonly exited: Promise<ExitStatus>;
  resume(): Promise<void>;
  kill(signal: NodeJS.Signals | number): void;
}

interface Waiter {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

/** How long it may take to let go of its targets by itself, ms. */
const CLOSING_MS = 1000;
/** How long the thread may take to hear that it shall unload, ms. A handler that never ends keeps it from hearing. */
const HEARING_MS = 5000;

export class ProbeThread {
  readonly #worker: Worker;
  readonly #events: ProbeThreadEvents;
  readonly #waiters = new Map<number, Waiter>();
  readonly #exited: Promise<ExitStatus>;
  #resolveExited!: (status: ExitStatus) => void;
  #lastId = 0;
  #engine: number | undefined;
  #hasEnded = false;
  #commandHasEnded = false;
  #hearing: (() => void) | undefined;

  /** What a tree has left to be hit. */
  #nothingIsLeft = false;
  readonly #closed = new Int32Array(new SharedArrayBuffer(4));

  constructor(init: Omit<ProbeThreadInit, 'closed'>, events: ProbeThreadEvents) {
    this.#events = events;
    this.#exited = new Promise((resolve) => (this.#resolveExited = resolve));
    this.#worker = new Worker(new URL('./probe-thread.js', import.meta.url), {
      workerData: { ...init, closed: this.#closed } satisfies ProbeThreadInit,
      execArgv: [],
      trackUnmanagedFds: false, // pipes and the like are opened without Node here
      name: 'uprobe-probes',
    });
    this.#worker.on('message', (message: Answer) => this.#answered(message));
    this.#worker.on('error', (error) => this.#failed(error));
    this.#worker.on('exit', (code) => {
      this.#hasEnded = true;
      this.#failed(new Error(`a module has called process.exit(${code})`));
    });
    // A thread is ended with its process, without having its say: its probes would stay.
    onExit(() => this.closeNow(), { alwaysLast: true });
  }

  async import(modules: readonly ModuleRequest[], check: boolean): Promise<readonly ModuleDescription[]> {
    return (await this.#ask({ kind: 'import', modules, check })) as ModuleDescription[];
  }

  async spawn(command: string, args: readonly string[]): Promise<StartedCommand> {
    const pid = (await this.#ask({ kind: 'spawn', command, args })) as number;
    return {
      pid,
      exited: this.#exited,
      resume: async () => void (await this.#ask({ kind: 'resume' })),
      // now, and not when the other thread has its turn: it may be let go before that
      kill: (signal) => {
        if (!this.#commandHasEnded) process.kill(pid, signal);
      },
    };
  }

  async load(request: LoadRequest): Promise<void> {
    await this.#ask({ kind: 'load', ...request });
  }

  /** Every module ends, in reverse order, and its probes are taken out. Never rejects. */
  async unload(): Promise<void> {
    if (this.#hasEnded) return;
    const timer = setTimeout(() => this.#giveUp(), HEARING_MS);
    this.#hearing = () => clearTimeout(timer);
    await this.#ask({ kind: 'unload' }).catch(() => undefined);
    clearTimeout(timer);
  }

  /** Of a tree: whether every uprobe is gone. */
  get nothingIsLeft(): boolean {
    return this.#nothingIsLeft;
  }

  /** Take the probes out without the event loop, also where the thread is busy for ever. */
  closeNow(): void {
    if (this.#engine !== undefined && !this.#hasEnded) {
      this.#worker.postMessage({ id: 0, kind: 'close' } satisfies Command);
      Atomics.wait(this.#closed, 0, 0, CLOSING_MS);
      if (Atomics.load(this.#closed, 0) === 0) closeEngineOf(this.#engine);
    }
    this.#engine = undefined;
  }

  #giveUp(): void {
    this.#events.note('a handler or a module keeps its thread busy: its probes are taken out without it');
    this.closeNow();
    this.#failed(new Error('a module did not end'));
  }

  #ask(request: Request): Promise<unknown> {
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      this.#waiters.set(id, { resolve, reject });
      this.#worker.postMessage({ ...request, id });
    });
  }

  #answered(message: Answer): void {
    switch (message.kind) {
      case 'ready':
        this.#engine = message.engine;
        break;
      case 'done':
        this.#take(message.id)?.resolve(message.value);
        break;
      case 'failed':
        this.#take(message.id)?.reject(fromPlain(message.error));
        break;
      case 'exited':
        this.#commandHasEnded = true;
        this.#resolveExited(message.status);
        break;
      case 'ended':
        this.#events.ended();
        break;
      case 'output-broken': {
        const { code } = message;
        this.#events.outputBroken(Object.assign(new Error(message.message), code !== undefined && { code }));
        break;
      }
      case 'crashed':
        this.#events.crashed(new Error(message.message));
        break;
      case 'note':
        this.#events.note(message.text);
        break;
      case 'nothing-left':
        this.#nothingIsLeft = message.isSo;
        break;
      case 'unloading':
        this.#hearing?.();
        break;
    }
  }

  #take(id: number): Waiter | undefined {
    const waiter = this.#waiters.get(id);
    this.#waiters.delete(id);
    return waiter;
  }

  #failed(error: Error): void {
    for (const waiter of this.#waiters.values()) waiter.reject(error);
    this.#waiters.clear();
    this.#events.crashed(error);
  }
}
