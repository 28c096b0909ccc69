// relay PORT TO: listens on 127.0.0.1:PORT and copies both ways to 127.0.0.1:TO.
//
// The least that a process on the way does: one thread, epoll, one buffer, read and write. Two of
// them are the floor that scripts/bench holds a broker and a server against.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PIECE = 256 << 10, EVENTS = 256 };

// One end of a joined pair; what it has read and its peer cannot take yet waits in `held`.
struct end {
  int fd;
  struct end *peer;
  char *held;
  size_t from, to;
  int finished, closed;
};

static int epoll_fd;
static char piece[PIECE];

static void die(const char *what) { perror(what); exit(1); }

// Reading waits for room, writing for something to write.
static void watch(struct end *end) {
  struct epoll_event event = { .data.ptr = end };
  if (!end->held && !end->finished) event.events |= EPOLLIN;
  if (end->peer->held) event.events |= EPOLLOUT;
  epoll_ctl(epoll_fd, EPOLL_CTL_MOD, end->fd, &event);
}

static struct end *joined(int fd, int inner) {
  struct end *pair = calloc(2, sizeof *pair);
  pair[0].fd = fd, pair[1].fd = inner;
  pair[0].peer = &pair[1], pair[1].peer = &pair[0];
  for (int k = 0; k < 2; k++) {
    int yes = 1;
    setsockopt(pair[k].fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    struct epoll_event event = { .events = EPOLLIN, .data.ptr = &pair[k] };
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, pair[k].fd, &event)) die("epoll_ctl");
  }
  return pair;
}

static void end_pair(struct end *end) {
  if (end->closed) return;
  for (int k = 0; k < 2; k++, end = end->peer) {
    close(end->fd);
    free(end->held);
    end->held = NULL;
    end->closed = 1;
  }
  // Both ends stay allocated: an event of this round may still name one. 64 bytes a connection.
}

// Writes to `end` what waits for it. False: the pair is over.
static int flush(struct end *end, char *bytes, size_t count) {
  ssize_t done = send(end->fd, bytes, count, MSG_NOSIGNAL);
  if (done < 0 && errno != EAGAIN) return 0;
  size_t sent = done < 0 ? 0 : (size_t)done;
  struct end *from = end->peer;
  if (from->held) {
    from->from += sent;
    if (from->from == from->to) free(from->held), from->held = NULL;
  } else if (sent < count) {
    from->held = malloc(count - sent);
    memcpy(from->held, bytes + sent, count - sent);
    from->from = 0, from->to = count - sent;
  }
  if (!from->held && from->finished) shutdown(end->fd, SHUT_WR);
  return 1;
}

static int read_from(struct end *end) {
  ssize_t got = recv(end->fd, piece, PIECE, 0);
  if (got < 0) return errno == EAGAIN;
  if (got == 0) {
    end->finished = 1;
    shutdown(end->peer->fd, SHUT_WR);
    return !end->peer->finished;
  }
  return flush(end->peer, piece, (size_t)got);
}

static void serve(struct end *end, uint32_t events) {
  if (end->closed) return;
  int good = !(events & EPOLLERR);
  if (good && (events & EPOLLOUT) && end->peer->held)
    good = flush(end, end->peer->held + end->peer->from, end->peer->to - end->peer->from);
  if (good && (events & (EPOLLIN | EPOLLHUP)) && !end->held && !end->finished)
    good = read_from(end);
  else if (good && (events & EPOLLHUP) && end->finished) good = 0;
  if (!good) { end_pair(end); return; }
  watch(end);
  watch(end->peer);
}

static struct sockaddr_in at(const char *port) {
  struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

int main(int argc, char **argv) {
  if (argc != 3) { fprintf(stderr, "usage: relay PORT TO\n"); return 2; }
  signal(SIGPIPE, SIG_IGN);
  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  struct sockaddr_in here = at(argv[1]), to = at(argv[2]);
  int yes = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (bind(listener, (struct sockaddr *)&here, sizeof here)) die("bind");
  if (listen(listener, 4096)) die("listen");
  epoll_fd = epoll_create1(0);
  struct epoll_event accepting = { .events = EPOLLIN, .data.ptr = NULL };
  epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &accepting);
  for (;;) {
    struct epoll_event events[EVENTS];
    int count = epoll_wait(epoll_fd, events, EVENTS, -1);
    for (int k = 0; k < count; k++) {
      if (events[k].data.ptr) { serve(events[k].data.ptr, events[k].events); continue; }
      int fd;
      while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        int inner = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        // Over loopback this is done at once, or is refused.
        int failed = connect(inner, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS;
        if (failed) {
          close(fd);
          if (inner >= 0) close(inner);
          continue;
        }
        joined(fd, inner);
      }
    }
  }
}
