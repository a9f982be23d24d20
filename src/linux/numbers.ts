/** System call numbers and constants of x86-64 Linux (arch/x86/entry/syscalls/syscall_64.tbl and the uapi headers). */
export const NR = {
  read: 0,
  write: 1,
  close: 3,
  poll: 7,
  mmap: 9,
  munmap: 11,
  rtSigaction: 13,
  rtSigprocmask: 14,
  rtSigreturn: 15,
  ioctl: 16,
  dup2: 33,
  socketpair: 53,
  clone: 56,
  execve: 59,
  wait4: 61,
  fcntl: 72,
  ftruncate: 77,
  chdir: 80,
  fork: 57,
  vfork: 58,
  ptrace: 101,
  setsid: 112,
  prctl: 157,
  gettid: 186,
  futex: 202,
  schedSetaffinity: 203,
  schedGetaffinity: 204,
  timerCreate: 222,
  timerSettime: 223,
  timerDelete: 226,
  exitGroup: 231,
  tgkill: 234,
  waitid: 247,
  eventfd2: 290,
  pipe2: 293,
  rtTgsigqueueinfo: 297,
  perfEventOpen: 298,
  kcmp: 312,
  memfdCreate: 319,
  bpf: 321,
  pidfdOpen: 434,
  clone3: 435,
  closeRange: 436,
} as const;

export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  ESRCH: 3,
  EINTR: 4,
  ENOEXEC: 8,
  EBADF: 9,
  ECHILD: 10,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  EEXIST: 17,
  ENODEV: 19,
  EINVAL: 22,
  EMFILE: 24,
} as const;

/** FUTEX_*: include/uapi/linux/futex.h. */
export const FUTEX = { wait: 0, wake: 1 } as const;
/** Options of wait4(2) and waitid(2): include/uapi/linux/wait.h. */
export const WAIT = {
  nohang: 1,
  stopped: 2,
  exited: 4,
  nowait: 0x0100_0000,
  nothread: 0x2000_0000,
  all: 0x4000_0000,
} as const;

export const PROT = { read: 1, write: 2, exec: 4 } as const;
export const MAP = { shared: 1, private: 2, fixed: 0x10, anonymous: 0x20, fixedNoreplace: 0x100000 } as const;

/** Signals by number (the same on every x86-64 Linux). */
export const SIG = {
  ill: 4,
  trap: 5,
  bus: 7,
  fpe: 8,
  kill: 9,
  segv: 11,
  chld: 17,
  stop: 19,
  tstp: 20,
  ttin: 21,
  ttou: 22,
  sys: 31,
} as const;
