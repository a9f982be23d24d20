/** uprobe: call a function of yours at any instruction of any running program. */
export {
  examineMachine,
  modules,
  openModule,
  registerUprobe,
  registerUprobes,
  spawnTarget,
  unregisterUprobe,
  uprobes,
} from './compose.js';
export { FileError, PlaceError, ProcessError, RefusedError, SpecError, UprobeError } from './base/errors.js';
export {
  counter,
  events,
  histogram,
  linearHistogram,
  stats,
  table,
  type LinearHistogramOptions,
} from './handler/aggregates/aggregates.js';
export { CompileError } from './handler/compile-error.js';
export type { Compiled } from './handler/compiled-handler.js';
export { i16, i32, i64, i8, u16, u32, u64, u8, type Conversion } from './handler/conversions.js';
export { string } from './handler/aggregates/fields.js';
export { ElfError } from './elf/source.js';
export { SyscallError } from './linux/syscall-error.js';
export type { Finding } from './linux/examine.js';
export { prepare } from './prepare.js';
export { probeModule } from './probe-modules/define.js';
export { compiled, type CompiledOptions, type Scope } from './probe/compiled.js';
export { processesOf, type FileProcesses } from './probe/processes-of.js';
export { cgroupPaths } from './process/cgroup.js';
export type { MappingProcess } from './process/mappers.js';
export { PtRegs, REGISTER_NAMES, type RegisterName } from './probe/regs.js';
export { Target } from './probe/target.js';
export { Uprobe, UprobeModule } from './probe/uprobe.js';
export { UprobeGroup } from './probe/uprobe-group.js';
export { version } from './probe/version.js';
export type { Counter, Histogram, LinearHistogram, Stats } from './handler/aggregates/cells.js';
export type { EventInput, EventOf, EventSchema, Events, EventsOptions } from './handler/aggregates/events.js';
export type { FieldInput, FieldValue } from './handler/aggregates/fields.js';
export type { Integer } from './handler/aggregates/integer.js';
export type {
  CellView,
  KeyInput,
  KeyType,
  KeyValue,
  Table,
  TableCell,
  TableEntry,
  TableOptions,
} from './handler/aggregates/table.js';
export type {
  Bucket,
  CounterView,
  HistogramView,
  LinearHistogramView,
  StatsView,
} from './handler/aggregates/views.js';
export type { FieldType, StringType } from './handler/shapes.js';
export type {
  EnginePlan,
  FunctionInfo,
  InstructionInfo,
  ModuleView,
  OpenModuleOptions,
  PlacePlan,
  PlanOptions,
} from './probe/inspect.js';
export type {
  AnyParameters,
  Load,
  Parameter,
  ParameterValues,
  Parameters,
  ProbeContext,
  ProbeModule,
  Unload,
} from './probe-modules/types.js';
export type { IfuncChoice } from './probe/place.js';
export type {
  ArmState,
  EngineName,
  ExitStatus,
  Fault,
  FaultHit,
  Handler,
  HandlerError,
  Hit,
  Place,
  PostHit,
  PreHit,
  Processes,
  Refusal,
  ReturnHit,
  ScalarType,
  SpawnTargetOptions,
  TargetStdio,
  UprobeOptions,
  UprobeSpec,
} from './probe/types.js';
