/* load: many WebSocket clients in one thread, so that the client never is what is slow. Loopback only.
 *
 * It knows no protocol: the conversation is given as templates. N connections are opened, each says --hello and
 * --join, and waits for --hello-ok and --join-ok. Connections stand in rooms of --room; then, by --mode:
 *
 *   rooms   in each room --window messages are underway: the next one is said when all members have heard one. With
 *           --rate so many messages a second are said instead, by the rooms in turn, --burst at a time.
 *   echo    each connection has one request underway.
 *   hold    the connections are held until the standard input ends.
 *
 * In templates %T is the time in ns, %N a number, %I the connection, %R its room, %J the join, %P the padding.
 * An answer carries the time behind --match, and the number behind "n":. Frames that are compressed are counted, not
 * read: the client never compresses.
 *
 * It prints one line of JSON: figures of --secs after --warm; for each of --pids the seconds of processor time and the
 * KiB of memory, before, after all have joined, and during the figures. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST_PROCESSES = 32, UNDERWAY = 1 << 16, CHUNK = 1 << 16, STEPS = 32 };
enum state { OPENING, UPGRADING, GREETING, JOINING, READY, DEAD };

struct bytes { uint8_t *at; size_t from, to, room; };
struct client { int fd, index, joins; enum state state; struct bytes in, out; uint64_t heard; };
struct message { uint32_t copies, room; };

static struct {
  const char *path, *hello, *hello_ok, *join, *join_ok, *send, *match, *mode, *header, *ping, *pong;
  int n, room, joins, window, pad, ramp, burst, patience;
  double secs, warm, rate;
} opt = {.path = "/", .mode = "rooms", .match = "\"ts\":", .header = "", .n = 100, .joins = 1, .window = 1, .secs = 3,
         .warm = 1, .pad = 32, .ramp = 200, .burst = 1, .patience = 60};
static int ports[MOST_PROCESSES], port_count, pids[MOST_PROCESSES], pid_count;

static int epoll, ready, errors, compressed, ended, speaking = 1;
static struct client *clients;
static char *padding, *text;
static struct message underway[UNDERWAY];
static uint32_t said;
static uint64_t *said_at; /* by room: when the last message was said, for those that cannot be read */
static uint64_t sent, deliveries, bytes_in, ages[64 * STEPS];

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* A histogram of ages in ns: 32 steps for each power of two. */
static void age(uint64_t ns) {
  int power = ns < STEPS ? 0 : 63 - __builtin_clzll(ns);
  ages[ns < STEPS ? ns : (uint64_t)(power - 4) * STEPS + ((ns >> (power - 5)) & (STEPS - 1))]++;
}

static double percentile(double share) {
  uint64_t all = 0, seen = 0;
  for (int i = 0; i < 64 * STEPS; i++) all += ages[i];
  for (int i = 0; i < 64 * STEPS; i++) {
    seen += ages[i];
    if (all && seen >= share * all) {
      int power = i / STEPS + 4;
      return (i < STEPS ? i : (double)((1ull << power) | ((uint64_t)(i % STEPS) << (power - 5)))) / 1e6;
    }
  }
  return 0;
}

static double processor(int pid) {
  clockid_t clock;
  struct timespec t;
  if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &t)) return 0;
  return t.tv_sec + t.tv_nsec / 1e9;
}

static long memory(int pid) {
  char name[64];
  long all, resident = 0;
  snprintf(name, sizeof name, "/proc/%d/statm", pid);
  FILE *file = fopen(name, "r");
  if (!file) return 0;
  if (fscanf(file, "%ld %ld", &all, &resident) != 2) resident = 0;
  fclose(file);
  return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

/* Buffers */

static void reserve(struct bytes *b, size_t n) {
  if (b->from == b->to) b->from = b->to = 0;
  if (b->to + n <= b->room) return;
  memmove(b->at, b->at + b->from, b->to - b->from);
  b->to -= b->from;
  b->from = 0;
  if (b->to + n <= b->room) return;
  b->room = (b->to + n) * 2;
  b->at = realloc(b->at, b->room);
}

static void release(struct bytes *b) {
  if (b->from < b->to) return;
  free(b->at);
  *b = (struct bytes){0};
}

static void put(struct bytes *b, const void *data, size_t n) {
  reserve(b, n);
  memcpy(b->at + b->to, data, n);
  b->to += n;
}

/* Sending */

static void die(struct client *c, const char *why) {
  if (c->state == DEAD) return;
  if (c->state == READY) ready--;
  c->state = DEAD;
  if (++errors <= 3) fprintf(stderr, "connection %d: %.80s\n", c->index, why);
  close(c->fd);
}

static void flush(struct client *c) {
  while (c->out.from < c->out.to) {
    ssize_t k = send(c->fd, c->out.at + c->out.from, c->out.to - c->out.from, MSG_NOSIGNAL);
    if (k < 0 && errno == EAGAIN) break;
    if (k < 0) return die(c, strerror(errno));
    c->out.from += k;
  }
  struct epoll_event event = {.events = EPOLLIN | (c->out.from < c->out.to ? EPOLLOUT : 0), .data.ptr = c};
  release(&c->out);
  epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
}

static void frame(struct client *c, int opcode, const char *data, size_t n) {
  static const uint8_t mask[4] = {0x37, 0xfa, 0x21, 0x3d};
  uint8_t head[14] = {0x80 | opcode};
  int size = n < 126 ? 0 : n < 65536 ? 2 : 8;
  head[1] = 0x80 | (size == 0 ? n : size == 2 ? 126 : 127);
  for (int i = 0; i < size; i++) head[2 + i] = (uint64_t)n >> (8 * (size - 1 - i));
  memcpy(head + 2 + size, mask, 4);
  put(&c->out, head, 6 + size);
  put(&c->out, data, n);
  for (size_t i = 0; i < n; i++) c->out.at[c->out.to - n + i] ^= mask[i & 3];
  flush(c);
}

static void say(struct client *c, const char *template, uint32_t number) {
  char *p = text;
  for (; *template; template++) {
    if (*template != '%') { *p++ = *template; continue; }
    switch (*++template) {
      case 'T': p += sprintf(p, "%llu", (unsigned long long)now()); break;
      case 'N': p += sprintf(p, "%u", number); break;
      case 'I': p += sprintf(p, "%d", c->index); break;
      case 'R': p += sprintf(p, "%d", c->index / opt.room); break;
      case 'J': p += sprintf(p, "%d", c->index * opt.joins + c->joins); break;
      case 'P': memcpy(p, padding, opt.pad); p += opt.pad; break;
    }
  }
  frame(c, 1, text, p - text);
}

static void speak(uint32_t room) {
  underway[said % UNDERWAY] = (struct message){0, room};
  said_at[room] = now();
  /* Speakers of different rooms are at different nodes. */
  say(&clients[room * opt.room + room % opt.room], opt.send, said++);
  sent++;
}

/* Receiving */

static void step(struct client *c) {
  if (c->state == UPGRADING) {
    c->state = GREETING;
    if (opt.hello) say(c, opt.hello, 0);
    if (opt.hello && opt.hello_ok) return;
  }
  if (c->state == GREETING) {
    c->state = JOINING;
    c->joins = -1;
  }
  if (opt.join && ++c->joins < opt.joins) return say(c, opt.join, c->joins + 1);
  c->state = READY;
  ready++;
}

static void heard(uint32_t number) {
  struct message *m = &underway[number % UNDERWAY];
  if (++m->copies == (uint32_t)opt.room && speaking && !opt.rate) speak(m->room);
}

static void on_text(struct client *c, const uint8_t *data, size_t n, int squeezed) {
  if (c->state == READY && squeezed) {
    c->heard++;
    deliveries++;
    age(now() - said_at[c->index / opt.room]);
    return heard(said - 1);
  }
  if (opt.ping && n == strlen(opt.ping) && !memcmp(data, opt.ping, n)) return frame(c, 1, opt.pong, strlen(opt.pong));
  const char *expected = c->state == GREETING ? opt.hello_ok : c->state == JOINING ? opt.join_ok : opt.match;
  const uint8_t *found = memmem(data, n, expected, strlen(expected));
  if (c->state != READY) {
    /* What answers a join may be compressed: it is the only thing that comes then. */
    if (found || squeezed) step(c);
    return;
  }
  if (!found) return;
  c->heard++;
  deliveries++;
  age(now() - strtoull((const char *)found + strlen(opt.match), 0, 10));
  if (*opt.mode == 'e') {
    if (speaking) say(c, opt.send, ++c->joins), sent++;
    return;
  }
  const uint8_t *number = memmem(data, n, "\"n\":", 4);
  if (number) heard(strtoul((const char *)number + 4, 0, 10));
}

/* Takes one frame; returns whether there was a whole one. */
static int take_frame(struct client *c) {
  uint8_t *p = c->in.at + c->in.from;
  size_t have = c->in.to - c->in.from, head = 2, n;
  if (have < 2) return 0;
  n = p[1] & 127;
  if (n >= 126) {
    size_t size = n == 126 ? 2 : 8;
    head += size;
    if (have < head) return 0;
    n = 0;
    for (size_t i = 0; i < size; i++) n = n << 8 | p[2 + i];
  }
  if (have < head + n) return 0;
  c->in.from += head + n;
  int opcode = p[0] & 15;
  if (opcode == 8) die(c, "closed by the server");
  else if (opcode == 9) frame(c, 10, (char *)p + head, n);
  else if (opcode < 3) on_text(c, p + head, n, p[0] & 0x40);
  return c->state != DEAD;
}

static int take_response(struct client *c) {
  uint8_t *p = c->in.at + c->in.from;
  size_t n = c->in.to - c->in.from;
  uint8_t *end = memmem(p, n, "\r\n\r\n", 4);
  if (!end) return 0;
  if (n < 12 || memcmp(p + 9, "101", 3)) {
    *end = 0;
    die(c, (char *)p);
    return 0;
  }
  if (memmem(p, end - p, "permessage-deflate", 18)) compressed = 1;
  c->in.from += end + 4 - p;
  step(c);
  return c->state != DEAD;
}

static void on_read(struct client *c) {
  for (;;) {
    reserve(&c->in, CHUNK);
    ssize_t k = recv(c->fd, c->in.at + c->in.to, CHUNK, 0);
    if (k < 0 && errno == EAGAIN) break;
    if (k <= 0) return die(c, k ? strerror(errno) : "ended by the server");
    c->in.to += k;
    bytes_in += k;
    if (c->state == UPGRADING && !take_response(c)) {
      if (c->state == DEAD) return;
      continue;
    }
    while (take_frame(c)) {}
    if (c->state == DEAD) return;
    if (k < CHUNK) break;
  }
  release(&c->in);
}

static void on_connected(struct client *c) {
  char request[2048];
  int n = snprintf(request, sizeof request,
                   "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                   "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s\r\n",
                   opt.path, ports[c->index % port_count], opt.header);
  c->state = UPGRADING;
  put(&c->out, request, n);
  flush(c);
}

static void open_one(int index) {
  struct client *c = &clients[index];
  *c = (struct client){.index = index, .fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)};
  int one = 1;
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  /* An address has some 28,000 ports for those who dial, and each is taken for a minute after its connection. */
  uint32_t address = 0x7f000002 + (getpid() % 1000 << 8) + index / 20000;
  struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(address)};
  bind(c->fd, (void *)&here, sizeof here);
  struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons(ports[index % port_count]),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (connect(c->fd, (void *)&there, sizeof there) && errno != EINPROGRESS) return die(c, strerror(errno));
  struct epoll_event event = {.events = EPOLLOUT | EPOLLIN, .data.ptr = c};
  epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
}

static void turn(int ms) {
  struct epoll_event events[512];
  int k = epoll_wait(epoll, events, 512, ms);
  for (int i = 0; i < k; i++) {
    struct client *c = events[i].data.ptr;
    if (!c) { ended = 1; continue; }
    if (c->state == DEAD) continue;
    if (c->state == OPENING) {
      if (events[i].events & (EPOLLERR | EPOLLHUP)) die(c, "cannot connect");
      else on_connected(c);
      continue;
    }
    if (events[i].events & EPOLLOUT) flush(c);
    if (c->state != DEAD && events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) on_read(c);
  }
}

/* The course of a run */

static void numbers(const char *list, int *into, int *count) {
  for (char *end; *list && *count < MOST_PROCESSES; list = *end ? end + 1 : end) into[(*count)++] = strtol(list, &end, 10);
}

static int read_options(int argc, char **argv) {
  for (int i = 1; i + 1 < argc; i += 2) {
    char *name = argv[i], *value = argv[i + 1];
    if (!strcmp(name, "--ports")) numbers(value, ports, &port_count);
    else if (!strcmp(name, "--pids")) numbers(value, pids, &pid_count);
#define TEXT(option, field) else if (!strcmp(name, option)) opt.field = value;
    TEXT("--path", path) TEXT("--hello", hello) TEXT("--hello-ok", hello_ok) TEXT("--join", join)
    TEXT("--join-ok", join_ok) TEXT("--send", send) TEXT("--match", match) TEXT("--mode", mode)
    TEXT("--header", header) TEXT("--ping", ping) TEXT("--pong", pong)
#define TIME(option, field) else if (!strcmp(name, option)) opt.field = atof(value);
    TIME("--secs", secs) TIME("--warm", warm) TIME("--rate", rate)
#define NUMBER(option, field) else if (!strcmp(name, option)) opt.field = atoi(value);
    NUMBER("--n", n) NUMBER("--room", room) NUMBER("--joins", joins) NUMBER("--window", window)
    NUMBER("--pad", pad) NUMBER("--ramp", ramp) NUMBER("--burst", burst)
    NUMBER("--patience", patience)
    else return fprintf(stderr, "there is no option %s\n", name), 2;
  }
  if (!opt.room) opt.room = opt.n;
  if (!port_count || opt.n % opt.room) return fprintf(stderr, "--ports is missing, or --room is no part of --n\n"), 2;
  return 0;
}

/* Text that can be compressed about as well as what people write. */
static void make_padding(void) {
  static const char *words[] = {"the", "tram", "comes", "late", "again", "today", "who", "knows", "lunch", "at", "one",
                                "window", "river", "seven", "yes", "no", "maybe", "then", "green", "paper", "because"};
  uint32_t random = 1;
  padding = malloc(opt.pad + 16);
  for (int k = 0; k < opt.pad;) {
    random = random * 1664525 + 1013904223;
    k += sprintf(padding + k, "%.*s%02x ", 7, words[(random >> 16) % 21], random >> 24);
  }
  text = malloc(opt.pad + 4096);
}

static void list(const char *name, double *values) {
  printf(",\"%s\":[", name);
  for (int i = 0; i < pid_count; i++) printf("%s%.6f", i ? "," : "", values[i]);
  printf("]");
}

static void look(double *cpu, double *kib) {
  for (int i = 0; i < pid_count; i++) {
    cpu[i] = processor(pids[i]);
    if (kib) kib[i] = memory(pids[i]);
  }
}

static void subtract(double *from, double *what) {
  for (int i = 0; i < pid_count; i++) from[i] -= what[i];
}

static void open_all(void) {
  uint64_t deadline = now() + opt.patience * 1000000000ull;
  for (int opened = 0; ready + errors < opt.n && now() < deadline;) {
    while (opened < opt.n && opened - ready - errors < opt.ramp) open_one(opened++);
    turn(100);
  }
}

static void begin(void) {
  if (*opt.mode == 'e') for (int i = 0; i < opt.n; i++) if (clients[i].state == READY) say(&clients[i], opt.send, 1);
  if (*opt.mode != 'r' || opt.rate) return;
  for (int room = 0; room < opt.n / opt.room; room++) for (int i = 0; i < opt.window; i++) speak(room);
}

/* Goes on for a while, and says what is due by the rate. */
static void go_on(double seconds, uint64_t *due) {
  uint64_t end = now() + (uint64_t)(seconds * 1e9), t;
  int rooms = opt.n / opt.room;
  while ((t = now()) < end) {
    if (!opt.rate || *opt.mode != 'r') { turn(10); continue; }
    for (; *due <= t; *due += (uint64_t)(1e9 / opt.rate * opt.burst))
      for (int i = 0; i < opt.burst; i++) speak(said % rooms);
    turn((*due - t) / 1000000 + 1);
  }
}

int main(int argc, char **argv) {
  double cpu0[MOST_PROCESSES], cpu1[MOST_PROCESSES], kib0[MOST_PROCESSES], kib1[MOST_PROCESSES];
  struct rlimit files;
  int wrong = read_options(argc, argv);
  if (wrong) return wrong;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  make_padding();
  clients = calloc(opt.n, sizeof *clients);
  said_at = calloc(opt.n, sizeof *said_at);
  epoll = epoll_create1(0);

  look(cpu0, kib0);
  uint64_t began = now();
  open_all();
  double took = (now() - began) / 1e9;
  look(cpu1, 0);
  usleep(300000); /* in which what is left over is given back */
  look(cpu1, kib1);
  subtract(cpu1, cpu0);
  subtract(kib1, kib0);
  printf("{\"ready\":%d,\"connect_seconds\":%.4f", ready, took);
  list("connect_cpu", cpu1);
  list("memory", kib1);

  if (*opt.mode == 'h') {
    printf(",\"errors\":%d}\n", errors);
    fflush(stdout);
    struct epoll_event event = {.events = EPOLLIN | EPOLLHUP, .data.ptr = 0};
    epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &event);
    uint64_t deadline = now() + 600000000000ull;
    while (!ended && now() < deadline) turn(1000);
    return 0;
  }

  uint64_t due = now();
  begin();
  go_on(opt.warm, &due);
  memset(ages, 0, sizeof ages);
  deliveries = bytes_in = 0;
  look(cpu0, 0);
  uint64_t start = now();
  go_on(opt.secs, &due);
  double seconds = (now() - start) / 1e9;
  look(cpu1, 0);
  subtract(cpu1, cpu0);
  uint64_t counted = deliveries, bytes = bytes_in;
  printf(",\"seconds\":%.4f,\"deliveries\":%llu,\"bytes\":%llu,\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"p999_ms\":%.3f",
         seconds, (unsigned long long)counted, (unsigned long long)bytes, percentile(.5), percentile(.99),
         percentile(.999));
  list("cpu", cpu1);

  speaking = 0;
  uint64_t expected = sent * opt.room, got = 0, deadline = now() + 2000000000ull;
  do {
    turn(50);
    got = 0;
    for (int i = 0; i < opt.n; i++) got += clients[i].heard;
  } while (*opt.mode == 'r' && got < expected && now() < deadline);
  printf(",\"lost\":%lld,\"compressed\":%d,\"errors\":%d}\n", *opt.mode == 'r' ? (long long)(expected - got) : 0,
         compressed, errors);
  return 0;
}
