// Work for a test guest, steered from the kernel command line; also run on the host as
// `guest-work --generate SEED MIB` to make the same kind of content for disk images.
//
// Command line (all optional):
//   evac.role=idle|writer|disk   idle: memory only verified; writer: rewrites pages; disk: also records
//   evac.ws_mib=N  evac.rate_mib=N    working set, and how much of it is rewritten per second
//   evac.fill_mib=N evac.zero_pct=N evac.shared_pct=N   static memory: zero, shared by all guests, own
//   evac.seed=N evac.shared_seed=N    content; the shared part depends on shared_seed alone
//   evac.disk_kib=N                   disk role: KiB of records a second
//   evac.work=1                       spare time is spent on work that is counted, see WRK
//
// What it prints, one line per write(2):
//   HB <n> <monotonic ms>            every 100 ms; n grows by exactly one
//   CHK <n> ok|BAD <sum> <ms>        after each pass over the working set (about 1 s)
//   FIL <n> ok|BAD <sum> <ms>        after each pass over the static memory (about 5 s)
//   BADPAGE <index> phys=<hex> version=<found>/<expected>   the first few wrong pages
//   ACK <n>                          record n was written and fsync'ed (disk role)
//   WRK <n> <monotonic ms>           every 100 ms: units of counted work done so far
//   READY <role>                     set-up is complete
//
// How the check works: each page of the working set carries its index and version, and a Fletcher
// sum of its 512 words is kept in a table outside it. A running total of the table is kept
// incrementally and compared with the table itself once a pass. A lost write shows as a page whose
// sum is not the table's; a page stale together with its table entry shows in the total.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { kPageWords = 512, kPageBytes = 4096, kHeartbeatMs = 100, kMaxBadLines = 8 };
enum { kRecordBytes = 65536, kRecordSlots = 2048, kRecordHeaderBytes = 64, kMarkFiles = 16 };

typedef struct {
  uint64_t s1, s2;
} Sum;

typedef struct {
  char role[16];
  uint64_t ws_mib, rate_mib, fill_mib, zero_pct, shared_pct, seed, shared_seed, disk_kib, work;
} Options;

static uint64_t mix(uint64_t x) {  // splitmix64's finaliser
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

static uint64_t next(uint64_t* state) { return mix(*state += 0x9e3779b97f4a7c15ull); }

// A fifth of the words is random, the rest comes from a small dictionary: zstd level 1 gets about
// 3:1 in 64 KiB batches and 2:1 on a page alone, like memory full of program text.
static uint64_t dictionary[256];

static void make_dictionary(void) {
  uint64_t state = 0xd1c710;
  for (int i = 0; i < 256; i++) dictionary[i] = next(&state);
}

static void fill_page(uint64_t* p, uint64_t key) {
  uint64_t state = key;
  const uint64_t* words = dictionary + (mix(key) & 3) * 64;  // each page uses a quarter of it
  for (int i = 0; i < kPageWords; i += 8) {
    const uint64_t r = next(&state);
    p[i] = r;
    for (int k = 1; k < 8; k++) p[i + k] = words[(r >> (3 + 6 * k)) & 63];
    if ((r & 4) == 0) p[i + 4] = mix(r);
  }
}

static Sum sum_page(const uint64_t* p) {
  Sum s = {1, 0};
  for (int i = 0; i < kPageWords; i += 4) {
    s.s1 += p[i], s.s2 += s.s1;
    s.s1 += p[i + 1], s.s2 += s.s1;
    s.s1 += p[i + 2], s.s2 += s.s1;
    s.s1 += p[i + 3], s.s2 += s.s1;
  }
  return s;
}

static uint64_t fold(Sum s, uint64_t page) { return mix(s.s1 ^ mix(s.s2 + page)); }

static uint64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void sleep_until_ms(uint64_t at) {
  struct timespec t = {(time_t)(at / 1000), (long)(at % 1000) * 1000000};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {
  }
}

__attribute__((format(printf, 1, 2))) static void say(const char* format, ...) {
  char line[256];
  va_list args;
  va_start(args, format);
  const int n = vsnprintf(line, sizeof line - 1, format, args);
  va_end(args);
  if (n < 0) return;
  size_t length = (size_t)n < sizeof line - 1 ? (size_t)n : sizeof line - 2;
  line[length++] = '\n';
  for (size_t done = 0; done < length;) {
    const ssize_t w = write(1, line + done, length - done);
    if (w > 0) done += (size_t)w;
    else if (w < 0 && errno != EINTR && errno != EAGAIN) return;
  }
}

static void die(const char* what) {
  say("FAILED %s: %s", what, strerror(errno));
  for (;;) pause();
}

static void* reserve(uint64_t bytes) {
  void* p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) die("mmap");
  return p;
}

static uint64_t physical(const void* address) {
  uint64_t entry = 0;
  const int fd = open("/proc/self/pagemap", O_RDONLY);
  if (fd < 0) return 0;
  const off_t at = (off_t)((uintptr_t)address / kPageBytes * sizeof entry);
  if (pread(fd, &entry, sizeof entry, at) != (ssize_t)sizeof entry) entry = 0;
  close(fd);
  return (entry & ((1ull << 55) - 1)) * kPageBytes;
}

// ------------------------------------------------------------------------------ working set

typedef struct {
  uint64_t* words;
  Sum* table;          // expected sum of each page
  uint32_t* versions;  // expected version of each page
  uint64_t pages, total, seed, draw;
  uint64_t cursor, passes, bad_pages, bad_lines;
  bool pass_bad;
} WorkingSet;

static void ws_write(WorkingSet* w, uint64_t page) {
  uint64_t* p = w->words + page * kPageWords;
  w->total -= fold(w->table[page], page);
  const uint32_t version = ++w->versions[page];
  fill_page(p, mix(w->seed + page) + version);
  p[0] = page;
  p[1] = version;
  w->table[page] = sum_page(p);
  w->total += fold(w->table[page], page);
}

static void ws_init(WorkingSet* w, const Options* o) {
  memset(w, 0, sizeof *w);
  w->pages = o->ws_mib * 256;
  w->seed = mix(o->seed);
  w->draw = mix(o->seed + 1);
  w->words = reserve(w->pages * kPageBytes + kPageBytes);
  w->table = calloc(w->pages + 1, sizeof *w->table);
  w->versions = calloc(w->pages + 1, sizeof *w->versions);
  if (!w->table || !w->versions) die("calloc");
  for (uint64_t page = 0; page < w->pages; page++) w->total += fold(w->table[page], page);
  for (uint64_t page = 0; page < w->pages; page++) ws_write(w, page);
}

static void ws_verify(WorkingSet* w, uint64_t quota) {
  while (quota-- > 0 && w->pages > 0) {
    const uint64_t page = w->cursor;
    const uint64_t* p = w->words + page * kPageWords;
    const Sum s = sum_page(p), expected = w->table[page];
    if (s.s1 != expected.s1 || s.s2 != expected.s2 || p[0] != page || p[1] != w->versions[page]) {
      w->pass_bad = true;
      w->bad_pages++;
      if (w->bad_lines++ < kMaxBadLines)
        say("BADPAGE %llu phys=%llx version=%llu/%u", (unsigned long long)page,
            (unsigned long long)physical(p), (unsigned long long)p[1], w->versions[page]);
    }
    if (++w->cursor < w->pages) continue;
    uint64_t total = 0;
    for (uint64_t i = 0; i < w->pages; i++) total += fold(w->table[i], i);
    const bool ok = !w->pass_bad && total == w->total;
    say("CHK %llu %s %016llx %llu", (unsigned long long)++w->passes, ok ? "ok" : "BAD",
        (unsigned long long)w->total, (unsigned long long)now_ms());
    w->cursor = 0;
    w->pass_bad = false;
  }
}

// ---------------------------------------------------------------------------- static memory

typedef struct {
  const uint64_t* words;
  uint64_t pages, expected, running, cursor, passes;
} Fill;

static void fill_init(Fill* f, const Options* o) {
  memset(f, 0, sizeof *f);
  f->pages = o->fill_mib * 256;
  uint64_t* words = reserve(f->pages * kPageBytes + kPageBytes);
  const uint64_t zero = f->pages * o->zero_pct / 100;
  const uint64_t shared = f->pages * o->shared_pct / 100;
  for (uint64_t page = 0; page < f->pages; page++) {
    uint64_t* p = words + page * kPageWords;
    if (page < zero) memset(p, 0, kPageBytes);  // touched: the guest owns a page of zeroes
    else if (page < zero + shared) fill_page(p, mix(o->shared_seed) + page - zero);
    else fill_page(p, mix(o->seed + 2) + page);
    f->expected += fold(sum_page(p), page);
  }
  f->words = words;
}

static void fill_verify(Fill* f, uint64_t quota) {
  while (quota-- > 0 && f->pages > 0) {
    f->running += fold(sum_page(f->words + f->cursor * kPageWords), f->cursor);
    if (++f->cursor < f->pages) continue;
    say("FIL %llu %s %016llx %llu", (unsigned long long)++f->passes,
        f->running == f->expected ? "ok" : "BAD", (unsigned long long)f->running,
        (unsigned long long)now_ms());
    f->cursor = f->running = 0;
  }
}

// -------------------------------------------------------------------------------- the disk

// Record n lives in slot n % kRecordSlots of /mnt/records.dat. Header, little-endian:
//   char magic[8] "EVACREC1"; u64 n; u64 seed; u32 crc32 of the payload; u32 payload bytes; zero up to 64
static uint32_t crc_table[256];

static void make_crc_table(void) {
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t c = i;
    for (int k = 0; k < 8; k++) c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
    crc_table[i] = c;
  }
}

static uint32_t crc32_of(const uint8_t* p, size_t n) {
  uint32_t c = 0xffffffffu;
  while (n-- > 0) c = crc_table[(c ^ *p++) & 255] ^ (c >> 8);
  return c ^ 0xffffffffu;
}

static void write_record(int fd, uint8_t* record, uint64_t n, uint64_t seed) {
  for (size_t at = 0; at < kRecordBytes; at += kPageBytes)
    fill_page((uint64_t*)(void*)(record + at), mix(seed + n) + at);
  uint8_t* payload = record + kRecordHeaderBytes;
  const uint32_t length = kRecordBytes - kRecordHeaderBytes;
  const uint32_t crc = crc32_of(payload, length);
  memset(record, 0, kRecordHeaderBytes);
  memcpy(record, "EVACREC1", 8);
  memcpy(record + 8, &n, 8);
  memcpy(record + 16, &seed, 8);
  memcpy(record + 24, &crc, 4);
  memcpy(record + 28, &length, 4);
  const off_t at = (off_t)(n % kRecordSlots) * kRecordBytes;
  for (size_t done = 0; done < kRecordBytes;) {
    const ssize_t w = pwrite(fd, record + done, kRecordBytes - done, at + (off_t)done);
    if (w <= 0) die("write record");
    done += (size_t)w;
  }
  if (fsync(fd) != 0) die("fsync");
}

// Creates, renames and unlinks small files, so that the journal has metadata to protect.
static void touch_metadata(uint64_t n) {
  char from[64], to[64];
  snprintf(from, sizeof from, "/mnt/marks/new.%llu", (unsigned long long)n);
  snprintf(to, sizeof to, "/mnt/marks/mark.%llu", (unsigned long long)(n % kMarkFiles));
  const int fd = open(from, O_CREAT | O_WRONLY | O_TRUNC, 0644);
  if (fd < 0) die("mark");
  if (write(fd, from, strlen(from)) < 0) die("mark");
  close(fd);
  if (rename(from, to) != 0) die("rename");
}

static void read_base_file(void) {  // into the page cache: RAM that equals blocks of the disk
  uint8_t* buffer = malloc(kRecordBytes);
  const int fd = open("/mnt/base.dat", O_RDONLY);
  if (fd < 0 || !buffer) return;
  while (read(fd, buffer, kRecordBytes) > 0) {
  }
  close(fd);
  free(buffer);
}

static void* disk_work(void* argument) {
  const Options* o = argument;
  uint8_t* record = aligned_alloc(kPageBytes, kRecordBytes);
  mkdir("/mnt/marks", 0755);
  const int fd = open("/mnt/records.dat", O_CREAT | O_RDWR, 0644);
  if (fd < 0 || !record) die("open /mnt/records.dat");
  const uint64_t period_ms = kRecordBytes / 1024 * 1000 / (o->disk_kib ? o->disk_kib : 1024);
  for (uint64_t n = 1, due = now_ms();; n++) {
    write_record(fd, record, n, o->seed);
    say("ACK %llu", (unsigned long long)n);
    if (n % 32 == 0) touch_metadata(n);
    due += period_ms;
    if (due < now_ms()) due = now_ms();  // never catch up in a burst
    sleep_until_ms(due);
  }
  return NULL;
}

// ------------------------------------------------------------------------------------ main

static void parse_options(Options* o) {
  *o = (Options){.role = "idle", .ws_mib = 8, .zero_pct = 20, .shared_pct = 30, .seed = 1,
                 .shared_seed = 77, .disk_kib = 1024};
  char line[4096] = "";
  const int fd = open("/proc/cmdline", O_RDONLY);
  if (fd < 0 || read(fd, line, sizeof line - 1) < 0) die("/proc/cmdline");
  close(fd);
  const struct {
    const char* key;
    uint64_t* value;
  } numbers[] = {{"ws_mib", &o->ws_mib},         {"rate_mib", &o->rate_mib},
                 {"fill_mib", &o->fill_mib},     {"zero_pct", &o->zero_pct},
                 {"shared_pct", &o->shared_pct}, {"seed", &o->seed},
                 {"shared_seed", &o->shared_seed}, {"disk_kib", &o->disk_kib},
                 {"work", &o->work}};
  for (char* word = strtok(line, " \n"); word; word = strtok(NULL, " \n")) {
    if (strncmp(word, "evac.", 5) != 0) continue;
    char* value = strchr(word, '=');
    if (!value) continue;
    *value++ = 0;
    if (strcmp(word + 5, "role") == 0) snprintf(o->role, sizeof o->role, "%s", value);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
      if (strcmp(word + 5, numbers[i].key) == 0) *numbers[i].value = strtoull(value, NULL, 10);
  }
}

// Computes until `until_ms` and returns the units done: a saturated virtual CPU, whose rate shows what
// anything on the host takes away from it. A unit reads eight pages and writes one.
static uint64_t count_work(const Fill* fill, uint64_t until_ms) {
  enum { kUnitPages = 8, kScratchPages = 64 };
  static uint64_t scratch[kScratchPages * kPageWords];
  static uint64_t units, sink;
  const uint64_t before = units;
  while (fill->pages > 0 && now_ms() < until_ms) {
    for (int i = 0; i < kUnitPages; i++)
      sink += sum_page(fill->words + (units * kUnitPages + (uint64_t)i) % fill->pages * kPageWords).s2;
    fill_page(scratch + units % kScratchPages * kPageWords, sink);
    units++;
  }
  return units - before;
}

static void run(const Options* o, WorkingSet* ws, Fill* fill) {
  const uint64_t slice_ms = o->rate_mib > 0 ? 20 : 50;
  const uint64_t ws_quota = ws->pages * slice_ms / 1000 + 1;
  const uint64_t fill_quota = fill->pages * slice_ms / 5000 + 1;
  uint64_t due = now_ms(), heartbeat_due = due, beats = 0, wrote_at = due, credit_bytes = 0, worked = 0;
  for (;;) {
    const uint64_t now = now_ms();
    if (now >= heartbeat_due) {
      say("HB %llu %llu", (unsigned long long)++beats, (unsigned long long)now);
      if (o->work) say("WRK %llu %llu", (unsigned long long)worked, (unsigned long long)now);
      heartbeat_due += kHeartbeatMs;
      if (heartbeat_due <= now) heartbeat_due = now + kHeartbeatMs;
    }
    uint64_t elapsed = now - wrote_at;
    wrote_at = now;
    if (elapsed > 5 * slice_ms) elapsed = 5 * slice_ms;  // never catch up in a burst
    for (credit_bytes += elapsed * o->rate_mib * 1048576 / 1000; credit_bytes >= kPageBytes && ws->pages;
         credit_bytes -= kPageBytes)
      ws_write(ws, next(&ws->draw) % ws->pages);
    ws_verify(ws, ws_quota);
    fill_verify(fill, fill_quota);
    due += slice_ms;
    if (due < now_ms()) due = now_ms() + 1;
    if (o->work) worked += count_work(fill, due);
    else sleep_until_ms(due);
  }
}

static int generate(uint64_t seed, uint64_t mib) {
  uint64_t page[kPageWords];
  for (uint64_t i = 0; i < mib * 256; i++) {
    fill_page(page, mix(seed) + i);
    if (fwrite(page, sizeof page, 1, stdout) != 1) return 1;
  }
  return fflush(stdout) == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
  make_dictionary();
  make_crc_table();
  if (argc == 4 && strcmp(argv[1], "--generate") == 0)
    return generate(strtoull(argv[2], NULL, 10), strtoull(argv[3], NULL, 10));
  static Options options;
  parse_options(&options);
  static WorkingSet ws;
  static Fill fill;
  fill_init(&fill, &options);
  ws_init(&ws, &options);
  if (strcmp(options.role, "disk") == 0) {
    read_base_file();
    pthread_t thread;
    if (pthread_create(&thread, NULL, disk_work, &options) != 0) die("pthread_create");
  }
  say("READY %s", options.role);
  run(&options, &ws, &fill);
}
