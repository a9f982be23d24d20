/** The form of a probe module: a file that `uprobe run` loads. The comments are the documentation users see. */

/**
 * A value that can be given behind the file, as to `insmod`: `uprobe run FILE nth=3`. One without a `default` must be given,
 * unless it is `optional`.
 */
export type Parameter = {
  /** What it is for, in a few words; `uprobe run FILE --help` shows it. */
  readonly description?: string;
  /** May be left out, and is undefined then. */
  readonly optional?: boolean;
} & (
  | { readonly type: 'string'; readonly default?: string }
  /** As JavaScript writes it: `3`, `0.5`, `0x10`. */
  | { readonly type: 'number'; readonly default?: number }
  /** A whole number of any size: an address, a register. */
  | { readonly type: 'bigint'; readonly default?: bigint }
  /** `NAME=1`, `y`, `yes`, `true`, `on`, or the opposite. */
  | { readonly type: 'boolean'; readonly default?: boolean }
);

export type Parameters = Readonly<Record<string, Parameter>>;

/** What a module that declares no parameters gets: whatever was given, as text. */
export type AnyParameters = Readonly<Record<string, { readonly type: 'string' }>>;

interface ParameterTypes {
  string: string;
  number: number;
  bigint: bigint;
  boolean: boolean;
}

type ValueOf<P extends Parameter> =
  ParameterTypes[P['type']] | (P extends { readonly optional: true } ? undefined : never);

/** The values of declared parameters, by their names. */
export type ParameterValues<P extends Parameters> = { readonly [K in keyof P]: ValueOf<P[K]> };

/** What a module is given when it is loaded. */
export interface ProbeContext<P extends Parameters = AnyParameters> {
  /** The processes named on the command line, to be put into specs as they are. A command stands before its first instruction. */
  readonly processes: readonly number[] | { readonly tree: number };
  /** The command behind `--` with its arguments; undefined where the processes run already. */
  readonly command: readonly string[] | undefined;
  /** What was given behind the file. */
  readonly parameters: ParameterValues<P>;
  /** Aborted when the module is unloaded, before its uprobes are taken out. */
  readonly signal: AbortSignal;
  /**
   * A line to the output (stdout; stderr beside a command; what `-o` says), with the values formatted as by
   * `console.log`. In order and without loss: a slow reader is waited for. Control characters but line ends and
   * tabs are escaped: what a program says must not steer a terminal.
   */
  readonly print: (...values: readonly unknown[]) => void;
  /** This module has done its work: it is unloaded. When all modules are, the run ends. */
  readonly end: () => void;
}

/** Called when the module is unloaded: its uprobes are gone, and `print` still prints. */
export type Unload = () => void | Promise<void>;

/**
 * Registers what there is to register. A command goes on when all modules have been loaded; one that throws, or whose
 * promise rejects, undoes all that was loaded before it.
 */
export type Load<P extends Parameters = AnyParameters> = (
  context: ProbeContext<P>,
) => void | Unload | Promise<void | Unload>;

/**
 * A module's default export: this, or just its `load` function. Whatever is registered by `registerUprobe` and
 * `registerUprobes` belongs to the module and is unregistered when it is unloaded.
 */
export interface ProbeModule<P extends Parameters = AnyParameters> {
  /** What it does, in a line; `uprobe run FILE --help` shows it. */
  readonly description?: string;
  /** What may be given behind the file. Undeclared: anything, as text. */
  readonly parameters?: P;
  readonly load: Load<P>;
}
