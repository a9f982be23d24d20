/* compile-flags: -O2 */
/*
 * A program with 100,000 places of the same four instructions, 8 bytes apart, of which it runs one: many N [WARMUP=0]
 * Prints {"calls","ns"} as target.c does. The function that is called is the last of them.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

__asm__(".text\n.p2align 4\n.globl many\n.type many, @function\nmany:\n"
        ".rept 99999\n\tpush %rbp\n\tmov %rsp, %rbp\n\tpop %rbp\n\tret\n\t.p2align 3\n.endr\n"
        ".globl last\nlast:\n\tpush %rbp\n\tmov %rsp, %rbp\n\tpop %rbp\n\tret\n"
        ".size many, .-many\n");
extern void last(long);

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000 + t.tv_nsec;
}

int main(int argc, char **argv) {
  long n = argc > 1 ? strtol(argv[1], NULL, 0) : 1000000, warmup = argc > 2 ? strtol(argv[2], NULL, 0) : 0;
  for (long i = 0; i < warmup; i++) last(i);
  int64_t start = now();
  for (long i = 0; i < n; i++) last(i);
  printf("{\"calls\":%ld,\"ns\":%ld}\n", n, (long)(now() - start));
  return 0;
}
