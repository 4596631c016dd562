/* floor: what fan-out and an echo cost at least with one send(2) for each delivery: floor PORT.
 *
 * One thread, epoll, and just enough of WebSocket and of Phoenix's version 2 for the load client. No safety and no
 * features: a limit to measure against, never a server. */
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
#include <unistd.h>

enum { MOST = 100000 };
struct client { int fd, upgraded; size_t size; uint8_t in[2048]; };

static int epoll, count;
static struct client *members[MOST];

static const char UPGRADE[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                              "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
static const char JOINED[] = "[\"1\",\"1\",\"room:0\",\"phx_reply\",{\"status\":\"ok\",\"response\":{}}]";

static size_t frame(uint8_t *into, const char *text, size_t n) {
  size_t head = n < 126 ? 2 : 4;
  into[0] = 0x81;
  into[1] = n < 126 ? n : 126;
  if (n >= 126) into[2] = n >> 8, into[3] = n;
  memcpy(into + head, text, n);
  return head + n;
}

static void answer(struct client *c, char *text, size_t n) {
  uint8_t out[4096];
  if (memmem(text, n, "phx_join", 8)) {
    if (count < MOST) members[count++] = c;
    send(c->fd, out, frame(out, JOINED, sizeof JOINED - 1), MSG_NOSIGNAL);
    return;
  }
  size_t size = frame(out, text, n);
  if (!memmem(text, n, "new_msg", 7)) send(c->fd, out, size, MSG_NOSIGNAL);
  else for (int i = 0; i < count; i++) send(members[i]->fd, out, size, MSG_NOSIGNAL);
}

static void take_frames(struct client *c) {
  size_t from = 0;
  while (c->size - from >= 6) {
    uint8_t *p = c->in + from;
    size_t n = p[1] & 127, head = 6;
    if (n == 126) n = p[2] << 8 | p[3], head = 8;
    if (c->size - from < head + n) break;
    for (size_t i = 0; i < n; i++) p[head + i] ^= p[head - 4 + (i & 3)];
    answer(c, (char *)p + head, n);
    from += head + n;
  }
  memmove(c->in, c->in + from, c->size - from);
  c->size -= from;
}

static void leave(struct client *c) {
  for (int i = 0; i < count; i++) if (members[i] == c) members[i--] = members[--count];
  close(c->fd);
  free(c);
}

static void on_read(struct client *c) {
  ssize_t k = recv(c->fd, c->in + c->size, sizeof c->in - c->size, 0);
  if (k < 0 && errno == EAGAIN) return;
  if (k <= 0) return leave(c);
  c->size += k;
  if (c->upgraded) return take_frames(c);
  if (!memmem(c->in, c->size, "\r\n\r\n", 4)) return;
  c->size = 0;
  c->upgraded = 1;
  send(c->fd, UPGRADE, sizeof UPGRADE - 1, 0);
}

static void on_connect(int listener) {
  int one = 1;
  struct client *c = calloc(1, sizeof *c);
  c->fd = accept4(listener, 0, 0, SOCK_NONBLOCK);
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
  epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
}

int main(int argc, char **argv) {
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (bind(listener, (void *)&here, sizeof here) || listen(listener, 4096)) return perror("listen"), 1;
  epoll = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = 0}, events[256];
  epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
  for (;;) {
    int k = epoll_wait(epoll, events, 256, -1);
    for (int i = 0; i < k; i++) {
      if (events[i].data.ptr) on_read(events[i].data.ptr);
      else on_connect(listener);
    }
  }
}
