/* compile-flags: -O2 */
/*
 * The floor: what a probe by int3 and ptrace costs when nothing but C is in the way.
 *
 *   ptrace_loop TARGET [--hits N] [--variant push|lea|nop] [--mode one|two|reinsert] [--cpus TRACER,TARGET]
 *
 *   one       one stop a hit: the thread goes on in a copy of the instruction that ends in a jump back
 *   two       two stops: the copy is single-stepped and the thread put back behind the original
 *   reinsert  two stops, as debuggers do it: original byte back, single step, int3 again
 *
 * Prints JSON: ns_per_hit is the target's own time with the probe minus without, by the number of hits.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum mode { ONE, TWO, REINSERT };
static const char *const mode_names[] = {"one", "two", "reinsert"};

struct site { uint64_t address, slot, original; int length; };

static const char *target, *variant = "push";
static long hits = 20000;
static int cpus[2] = {-1, -1};

static void fail(const char *what) {
  fprintf(stderr, "ptrace_loop: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void pin(int cpu) {
  cpu_set_t set;
  if (cpu < 0) return;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof set, &set)) fail("sched_setaffinity");
}

struct child { pid_t pid; int out, announcement; };

static struct child start(int traced) {
  int out[2], announcement[2];
  char count[32], fd[32];
  if (pipe(out) || pipe(announcement)) fail("pipe");
  pid_t pid = fork();
  if (pid < 0) fail("fork");
  if (!pid) {
    pin(cpus[1]);
    dup2(out[1], 1);
    snprintf(count, sizeof count, "%ld", hits);
    snprintf(fd, sizeof fd, "%d", announcement[1]);
    if (traced) setenv("UPROBE_BENCH_FD", fd, 1);
    else unsetenv("UPROBE_BENCH_FD");
    execl(target, target, count, variant, NULL);
    fail(target);
  }
  close(out[1]), close(announcement[1]);
  return (struct child){pid, out[0], announcement[0]};
}

/* The target's own figure; it has ended. */
static long elapsed(struct child *c) {
  char text[256];
  long calls, ns;
  ssize_t n = read(c->out, text, sizeof text - 1);
  if (n <= 0) fail("reading the target's figure");
  text[n] = 0;
  if (sscanf(text, "{\"calls\":%ld,\"ns\":%ld}", &calls, &ns) != 2 || calls != hits) errno = EPROTO, fail(text);
  close(c->out), close(c->announcement);
  return ns;
}

static void poke(pid_t pid, uint64_t at, const void *bytes, size_t length) {
  for (size_t i = 0; i < length; i += 8) {
    uint64_t word = ptrace(PTRACE_PEEKTEXT, pid, at + i, 0);
    memcpy(&word, (const char *)bytes + i, length - i < 8 ? length - i : 8);
    if (ptrace(PTRACE_POKETEXT, pid, at + i, word)) fail("PTRACE_POKETEXT");
  }
}

/* The copy: the instruction, then jmp *0(%rip) to the one behind the original. */
static struct site arm(struct child *c) {
  uint64_t words[2];
  if (read(c->announcement, words, sizeof words) != sizeof words) fail("the target's announcement");
  struct site s = {words[0], words[1], 0, !strcmp(variant, "push") ? 1 : 5};
  s.original = ptrace(PTRACE_PEEKTEXT, c->pid, s.address, 0);
  uint8_t code[32] = {0};
  uint64_t back = s.address + s.length;
  memcpy(code, &s.original, s.length);
  memcpy(code + s.length, "\xff\x25\0\0\0\0", 6);
  memcpy(code + s.length + 6, &back, 8);
  poke(c->pid, s.slot, code, s.length + 14);
  poke(c->pid, s.address, "\xcc", 1);
  return s;
}

/* Waits for a stop and says which signal and ptrace event it is; 0 when the target has ended. */
static int stopped(pid_t pid, int *signal, int *event) {
  int status;
  if (waitpid(pid, &status, __WALL) != pid) fail("waitpid");
  if (!WIFSTOPPED(status)) return 0;
  *signal = WSTOPSIG(status), *event = status >> 16;
  return 1;
}

static void step(pid_t pid) {
  int signal, event;
  if (ptrace(PTRACE_SINGLESTEP, pid, 0, 0)) fail("PTRACE_SINGLESTEP");
  if (!stopped(pid, &signal, &event) || signal != SIGTRAP) errno = EPROTO, fail("single step");
}

static void handle(pid_t pid, const struct site *s, enum mode mode) {
  struct user_regs_struct regs;
  if (ptrace(PTRACE_GETREGS, pid, 0, &regs)) fail("PTRACE_GETREGS");
  if (regs.rip != s->address + 1) errno = EPROTO, fail("a stop elsewhere");
  regs.rip = mode == REINSERT ? s->address : s->slot;
  if (mode == REINSERT) ptrace(PTRACE_POKETEXT, pid, s->address, s->original);
  if (ptrace(PTRACE_SETREGS, pid, 0, &regs)) fail("PTRACE_SETREGS");
  if (mode == ONE) return;
  step(pid);
  if (mode == REINSERT) {
    ptrace(PTRACE_POKETEXT, pid, s->address, (s->original & ~0xfful) | 0xcc);
    return;
  }
  ptrace(PTRACE_GETREGS, pid, 0, &regs);
  regs.rip = s->address + s->length;
  ptrace(PTRACE_SETREGS, pid, 0, &regs);
}

static long probed(enum mode mode) {
  struct child c = start(1);
  struct site s = {0};
  long seen = 0;
  int signal, event, armed = 0;
  if (ptrace(PTRACE_SEIZE, c.pid, 0, (long)PTRACE_O_EXITKILL)) fail("PTRACE_SEIZE");
  while (stopped(c.pid, &signal, &event)) {
    /* Its SIGSTOP on the way, or, when it was quicker than our seizing, the stop itself. */
    if (!armed && signal == SIGSTOP) s = arm(&c), armed = 1, signal = 0, kill(c.pid, SIGCONT);
    else if (event) signal = 0;
    else if (armed && signal == SIGTRAP) handle(c.pid, &s, mode), seen++, signal = 0;
    if (ptrace(PTRACE_CONT, c.pid, 0, (long)signal) && errno != ESRCH) fail("PTRACE_CONT");
  }
  if (seen != hits) {
    fprintf(stderr, "ptrace_loop: %ld hits, not %ld\n", seen, hits);
    exit(1);
  }
  return elapsed(&c);
}

static long unprobed(void) {
  struct child c = start(0);
  int status;
  if (waitpid(c.pid, &status, 0) != c.pid || status) errno = EPROTO, fail("the unprobed run");
  return elapsed(&c);
}

int main(int argc, char **argv) {
  enum mode mode = ONE;
  for (int i = 1; i < argc; i++) {
    const char *value = i + 1 < argc ? argv[i + 1] : "";
    if (argv[i][0] != '-') target = argv[i];
    else if (!strcmp(argv[i], "--hits")) hits = strtol(value, NULL, 0), i++;
    else if (!strcmp(argv[i], "--variant")) variant = value, i++;
    else if (!strcmp(argv[i], "--cpus") && sscanf(value, "%d,%d", &cpus[0], &cpus[1]) == 2) i++;
    else if (!strcmp(argv[i], "--mode")) mode = !strcmp(value, "two") ? TWO : !strcmp(value, "reinsert") ? REINSERT : ONE, i++;
    else errno = EINVAL, fail(argv[i]);
  }
  if (!target || hits < 1) {
    fputs("usage: ptrace_loop TARGET [--hits N] [--variant push|lea|nop] [--mode one|two|reinsert] [--cpus A,B]\n", stderr);
    return 2;
  }
  pin(cpus[0]);
  long without = unprobed(), with = probed(mode);
  printf("{\"mode\":\"%s\",\"variant\":\"%s\",\"cpus\":[%d,%d],\"hits\":%ld,\"unprobed_ns\":%ld,\"probed_ns\":%ld,"
         "\"ns_per_hit\":%.1f}\n",
         mode_names[mode], variant, cpus[0], cpus[1], hits, without, with, (double)(with - without) / (double)hits);
  return 0;
}
