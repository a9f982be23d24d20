/* compile-flags: -O2 */
/*
 * The least that a program in C does to probe with the kernel's uprobes: bpf_loader MODE PATH OFFSETS
 * MODE is count, histogram, event, return or session; OFFSETS a file of file offsets, one a line. Attaches one uprobe_multi link, prints
 * "ready", goes on until its input ends, detaches, and prints {"attach_ns","detach_ns","hits","lost"}.
 *
 * count: one addition to a word. histogram: of the first argument's logarithm, a column for each CPU. event: 32 bytes in a ring of
 * 4 MiB, read each millisecond. return: as count, at the return. session: a histogram of the time from entry to return.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct insn {
  uint8_t code;
  uint8_t dst : 4, src : 4;
  int16_t off;
  int32_t imm;
};

/* include/uapi/linux/bpf.h */
enum { MAP_CREATE = 0, MAP_LOOKUP = 1, PROG_LOAD = 5, LINK_CREATE = 28 };
enum { MAP_ARRAY = 2, MAP_RINGBUF = 27, F_MMAPABLE = 1 << 10, PROG_KPROBE = 2 };
enum { UPROBE_MULTI = 48, UPROBE_SESSION = 57, MULTI_RETURN = 1 };
enum { PSEUDO_MAP_FD = 1, PSEUDO_MAP_VALUE = 2, PSEUDO_KFUNC = 2 };
enum { KTIME = 5, SMP_ID = 8, PID_TGID = 14, RINGBUF_RESERVE = 131, RINGBUF_SUBMIT = 132, NO_WAKEUP = 1 };
enum { RING = 4 << 20, CPUS = 256, BUCKETS = 64 };
/* Offsets of registers in struct pt_regs. */
enum { CTX_SI = 104, CTX_DI = 112 };

#define DIE(what) (fprintf(stderr, "%s: %s\n", what, strerror(errno)), exit(1))

static long bpf(int command, void *attr, size_t size) { return syscall(321, command, attr, size); }

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000 + t.tv_nsec;
}

static int create_map(uint32_t type, uint32_t key, uint32_t value, uint32_t entries, uint32_t flags) {
  uint32_t attr[20] = {type, key, value, entries, flags};
  int fd = bpf(MAP_CREATE, attr, sizeof attr);
  if (fd < 0) DIE("map");
  return fd;
}

static struct insn code[512];
static int length;

static int emit(uint8_t op, int dst, int src, int off, int32_t imm) {
  code[length] = (struct insn){op, dst, src, off, imm};
  return length++;
}
#define MOV(d, s) emit(0xbf, d, s, 0, 0)
#define MOVI(d, i) emit(0xb7, d, 0, 0, i)
#define CALL(f) emit(0x85, 0, 0, 0, f)
#define EXIT() emit(0x95, 0, 0, 0, 0)
static void load64(int dst, int src, int32_t low, int32_t high) {
  emit(0x18, dst, src, 0, low);
  emit(0, 0, 0, 0, high);
}
static void leave(void) {
  MOVI(0, 0);
  EXIT();
}

/* r7: a value; adds to the column of this CPU, in the word of its logarithm. Destroys r0 to r5, r8. */
static void add_to_histogram(int map) {
  MOVI(8, 0);
  for (int bits = 32; bits; bits >>= 1) {
    MOV(1, 7);
    emit(0x77, 1, 0, 0, bits); /* r1 >>= bits */
    emit(0x15, 1, 0, 2, 0);    /* if zero, skip two */
    emit(0x07, 8, 0, 0, bits); /* r8 += bits */
    MOV(7, 1);
  }
  CALL(SMP_ID);
  emit(0x57, 0, 0, 0, CPUS - 1);
  emit(0x27, 0, 0, 0, BUCKETS); /* r0 *= BUCKETS */
  emit(0x57, 8, 0, 0, BUCKETS - 1);
  emit(0x0f, 0, 8, 0, 0);
  emit(0x67, 0, 0, 0, 3); /* words */
  load64(1, PSEUDO_MAP_VALUE, map, 0);
  emit(0x0f, 1, 0, 0, 0);
  MOVI(2, 1);
  emit(0xdb, 1, 2, 0, 0); /* lock add */
}

static void add_one(int map, int at) {
  load64(1, PSEUDO_MAP_VALUE, map, at);
  MOVI(2, 1);
  emit(0xdb, 1, 2, 0, 0);
}

/* BTF ids of functions: Documentation/bpf/btf.rst */
static int32_t kernel_function(const char *wanted) {
  static uint8_t *btf;
  int fd = open("/sys/kernel/btf/vmlinux", O_RDONLY);
  struct stat st;
  if (fd < 0 || fstat(fd, &st)) DIE("/sys/kernel/btf/vmlinux");
  if (!btf && !(btf = malloc(st.st_size))) DIE("malloc");
  for (long done = 0, n; (n = read(fd, btf + done, st.st_size - done)) > 0;) done += n;
  close(fd);
  uint32_t *header = (uint32_t *)btf; /* magic.., hdr_len, type_off, type_len, str_off */
  uint8_t *types = btf + header[1] + header[2], *end = types + header[3];
  const char *strings = (const char *)btf + header[1] + header[4];
  /* What follows each kind's twelve bytes, and that for each of its members. */
  static const uint8_t fixed[20] = {[1] = 4, [3] = 12, [14] = 4, [17] = 4}, each[20] = {[4] = 12, [5] = 12, [6] = 8, [13] = 8, [15] = 12, [19] = 12};
  for (int32_t id = 1; types < end; id++) {
    uint32_t *t = (uint32_t *)types, kind = t[1] >> 24 & 31, members = t[1] & 0xffff;
    if (kind == 12 && !strcmp(strings + t[0], wanted)) return id;
    types += 12 + fixed[kind] + each[kind] * members;
  }
  fprintf(stderr, "no kernel function %s\n", wanted);
  exit(1);
}

static void write_program(const char *mode, int words, int ring) {
  if (!strcmp(mode, "count") || !strcmp(mode, "return")) {
    add_one(words, 0);
  } else if (!strcmp(mode, "histogram")) {
    emit(0x79, 7, 1, CTX_DI, 0);
    add_to_histogram(words);
  } else if (!strcmp(mode, "event")) {
    MOV(6, 1);
    load64(1, PSEUDO_MAP_FD, ring, 0);
    MOVI(2, 32);
    MOVI(3, 0);
    CALL(RINGBUF_RESERVE);
    int full = emit(0x15, 0, 0, 0, 0);
    MOV(7, 0);
    CALL(KTIME);
    emit(0x7b, 7, 0, 0, 0);
    CALL(PID_TGID);
    emit(0x7b, 7, 0, 8, 0);
    emit(0x79, 1, 6, CTX_DI, 0);
    emit(0x7b, 7, 1, 16, 0);
    emit(0x79, 1, 6, CTX_SI, 0);
    emit(0x7b, 7, 1, 24, 0);
    MOV(1, 7);
    MOVI(2, NO_WAKEUP);
    CALL(RINGBUF_SUBMIT);
    leave();
    code[full].off = length - full - 1;
    add_one(words, 0);
  } else if (!strcmp(mode, "session")) {
    emit(0x85, 0, PSEUDO_KFUNC, 0, kernel_function("bpf_session_cookie"));
    MOV(6, 0);
    emit(0x85, 0, PSEUDO_KFUNC, 0, kernel_function("bpf_session_is_return"));
    int at_return = emit(0x55, 0, 0, 0, 0);
    CALL(KTIME);
    emit(0x7b, 6, 0, 0, 0);
    leave();
    code[at_return].off = length - at_return - 1;
    CALL(KTIME);
    MOV(7, 0);
    emit(0x79, 1, 6, 0, 0);
    emit(0x1f, 7, 1, 0, 0);
    add_to_histogram(words);
  } else {
    fprintf(stderr, "no mode %s\n", mode);
    exit(2);
  }
  leave();
}

static int load_program(uint32_t attach) {
  static char log[1 << 16];
  struct {
    uint32_t type, count;
    uint64_t insns, license;
    uint32_t log_level, log_size;
    uint64_t log_buf;
    uint32_t version, flags;
    char name[16];
    uint32_t ifindex, attach;
    uint8_t rest[64];
  } attr = {.type = PROG_KPROBE, .count = length, .insns = (uint64_t)code, .license = (uint64_t) "GPL", .attach = attach};
  int fd = bpf(PROG_LOAD, &attr, sizeof attr);
  if (fd >= 0) return fd;
  attr.log_level = 1, attr.log_size = sizeof log, attr.log_buf = (uint64_t)log;
  bpf(PROG_LOAD, &attr, sizeof attr);
  fprintf(stderr, "%s\n", log);
  DIE("program");
}

static int attach(int program, uint32_t type, const char *path, uint64_t *offsets, uint32_t count, uint32_t flags) {
  struct {
    uint32_t prog, target, type, flags;
    uint64_t path, offsets, counters, cookies;
    uint32_t count, multi_flags, pid, pad;
  } attr = {program, 0, type, 0, (uint64_t)path, (uint64_t)offsets, 0, 0, count, flags, 0, 0};
  int fd = bpf(LINK_CREATE, &attr, sizeof attr);
  if (fd < 0) DIE("link");
  return fd;
}

static uint64_t read_ring(uint8_t *consumer_page, uint8_t *producer_page) {
  uint8_t *data = producer_page + 4096;
  uint64_t at = *(uint64_t *)consumer_page, end = __atomic_load_n((uint64_t *)producer_page, __ATOMIC_ACQUIRE), records = 0;
  while (at < end) {
    uint32_t header = __atomic_load_n((uint32_t *)(data + (at & (RING - 1))), __ATOMIC_ACQUIRE);
    if (header >> 31) break;
    at += ((header & 0x3fffffff) + 8 + 7) & ~7ul;
    records++;
  }
  __atomic_store_n((uint64_t *)consumer_page, at, __ATOMIC_RELEASE);
  return records;
}

int main(int argc, char **argv) {
  if (argc < 4) return 2;
  const char *mode = argv[1], *path = argv[2];
  FILE *file = fopen(argv[3], "r");
  if (!file) DIE(argv[3]);
  static uint64_t offsets[1 << 17];
  uint32_t count = 0;
  while (count < 1 << 17 && fscanf(file, "%lu", &offsets[count]) == 1) count++;
  int isEvent = !strcmp(mode, "event"), isSession = !strcmp(mode, "session");
  int words = create_map(MAP_ARRAY, 4, CPUS * BUCKETS * 8, 1, F_MMAPABLE);
  uint64_t *values = mmap(NULL, CPUS * BUCKETS * 8, PROT_READ, MAP_SHARED, words, 0);
  int ring = isEvent ? create_map(MAP_RINGBUF, 0, 0, RING, 0) : -1;
  uint8_t *consumer = isEvent ? mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring, 0) : NULL;
  uint8_t *producer = isEvent ? mmap(NULL, 4096 + 2 * RING, PROT_READ, MAP_SHARED, ring, 4096) : NULL;
  if (values == MAP_FAILED || consumer == MAP_FAILED || producer == MAP_FAILED) DIE("mmap");
  write_program(mode, words, ring);
  uint32_t type = isSession ? UPROBE_SESSION : UPROBE_MULTI;
  int program = load_program(type);
  int64_t start = now();
  int link = attach(program, type, path, offsets, count, !strcmp(mode, "return") ? MULTI_RETURN : 0);
  int64_t attached = now() - start;
  printf("ready\n");
  fflush(stdout);
  struct pollfd input = {0, POLLIN, 0};
  uint64_t events = 0;
  while (poll(&input, 1, isEvent ? 1 : -1) == 0 || !(input.revents & POLLHUP)) {
    char ignored[64];
    if (isEvent) events += read_ring(consumer, producer);
    if ((input.revents & POLLIN) && read(0, ignored, sizeof ignored) <= 0) break;
  }
  start = now();
  close(link);
  int64_t detached = now() - start;
  if (isEvent) events += read_ring(consumer, producer);
  uint64_t sum = 0;
  for (int i = 0; i < CPUS * BUCKETS; i++) sum += values[i];
  printf("{\"attach_ns\":%ld,\"detach_ns\":%ld,\"hits\":%lu,\"lost\":%lu}\n", (long)attached, (long)detached, isEvent ? events : sum, isEvent ? sum : 0);
  return 0;
}
