/* compile-flags: -O2 */
/*
 * What the benches probe: target N [push|lea|nop] [WARMUP=0]
 * Calls a function that begins with that instruction N times and prints {"calls","ns"}: the loop's own time, without
 * that of WARMUP calls that come first.
 *
 * With UPROBE_BENCH_FD in the environment it first writes there, as two 64-bit words, the function's address and that
 * of a page for displaced instructions, and stops (SIGSTOP) until it is let go on.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define FUNCTION(name, ...)                                                                                  \
  __asm__(".text\n.p2align 4\n.globl " #name "\n.type " #name ", @function\n" #name ":\n\t" __VA_ARGS__      \
          "\n\tret\n.size " #name ", .-" #name "\n");                                                        \
  extern void name(long)

FUNCTION(probe_me_push, "push %rbp\n\tmov %rsp, %rbp\n\tpop %rbp");
FUNCTION(probe_me_lea, "lea 8(%rdi,%rdi), %rax\n\tadd %rdi, %rax");
/* The five-byte nop that compilers leave for patching. */
FUNCTION(probe_me_nop, ".byte 0x0f, 0x1f, 0x44, 0, 0\n\tmov %rdi, %rax");

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000 + t.tv_nsec;
}

static void announce(int fd, void (*function)(long)) {
  void *slot = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  uint64_t words[2] = {(uint64_t)function, (uint64_t)slot};
  if (slot == MAP_FAILED || write(fd, words, sizeof words) != sizeof words) _exit(125);
  raise(SIGSTOP);
}

int main(int argc, char **argv) {
  long n = argc > 1 ? strtol(argv[1], NULL, 0) : 1000000;
  const char *variant = argc > 2 ? argv[2] : "push", *fd = getenv("UPROBE_BENCH_FD");
  void (*function)(long) = !strcmp(variant, "lea") ? probe_me_lea : !strcmp(variant, "nop") ? probe_me_nop : probe_me_push;
  if (fd) announce(atoi(fd), function);
  long warmup = argc > 3 ? strtol(argv[3], NULL, 0) : 0;
  for (long i = 0; i < warmup; i++) function(i);
  int64_t start = now();
  for (long i = 0; i < n; i++) function(i);
  int64_t ns = now() - start;
  printf("{\"calls\":%ld,\"ns\":%ld}\n", n, (long)ns);
  return 0;
}
