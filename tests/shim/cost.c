/* What a connect costs, for scripts/bench: nanoseconds of one that does little by itself (of a
 * datagram socket) and of a TCP connection that is made and closed, the best of many rounds. With
 * `start`: nanoseconds of starting this program. With `hooks`: nanoseconds of each call that is
 * hooked for the sake of time-outs, one a line. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;
static struct sockaddr_in to = { .sin_family = AF_INET };
static int datagram;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static void connect_datagram(void) { connect(datagram, (void *)&to, sizeof to); }

static void connect_tcp(void) {
    struct linger hard = { 1, 0 };
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (void *)&to, sizeof to)) { perror("connect"); exit(1); }
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(fd);
}

static void start(void) {
    pid_t child;
    char *arguments[] = { "/proc/self/exe", NULL };
    char path[4096];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    path[length] = 0;
    if (posix_spawn(&child, path, 0, 0, arguments, environ)) exit(1);
    waitpid(child, 0, 0);
}

static double best(void (*what)(void), int rounds, int count) {
    double least = 1e18;
    for (int round = 0; round < rounds; round++) {
        double begin = now();
        for (int i = 0; i < count; i++) what();
        double each = (now() - begin) / count;
        if (each < least) least = each;
    }
    return least;
}

/* A socket with a byte in it, an epoll instance with that socket, and a TCP socket. */
static int full[2], epoll, tcp;

static void call_poll(void) {
    struct pollfd one = { full[0], POLLIN, 0 };
    poll(&one, 1, 1000);
}

static void call_poll_expired(void) {
    struct pollfd one = { full[1], POLLIN, 0 };
    poll(&one, 1, 0);
}

static void call_select(void) {
    fd_set set;
    struct timeval second = { 1, 0 };
    FD_ZERO(&set);
    FD_SET(full[0], &set);
    select(full[0] + 1, &set, 0, 0, &second);
}

static void call_epoll_wait(void) {
    struct epoll_event event;
    epoll_wait(epoll, &event, 1, 1000);
}

static void call_clock_gettime(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
}

static void call_setsockopt(void) {
    int one = 1;
    setsockopt(tcp, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static void call_recv(void) {
    char byte;
    recv(full[0], &byte, 1, MSG_PEEK);
}

static void call_recv_empty(void) {
    char byte;
    recv(full[1], &byte, 1, MSG_DONTWAIT);
}

static int hooks(void) {
    static const struct { const char *name; void (*call)(void); } calls[] = {
        { "poll, ready", call_poll }, { "poll, 0 ms, not ready", call_poll_expired },
        { "select, ready", call_select }, { "epoll_wait, ready", call_epoll_wait },
        { "clock_gettime", call_clock_gettime }, { "setsockopt", call_setsockopt },
        { "recv, a byte", call_recv }, { "recv, nothing there", call_recv_empty },
    };
    struct epoll_event event = { .events = EPOLLIN };
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, full) || write(full[1], "x", 1) != 1) return 1;
    epoll = epoll_create1(0);
    tcp = socket(AF_INET, SOCK_STREAM, 0);
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, full[0], &event)) return 1;
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        printf("%s\t%.1f\n", calls[i].name, best(calls[i].call, 100, 1000));
    return 0;
}

int main(int count, char **given) {
    if (count == 1) return 0;
    if (count == 2 && !strcmp(given[1], "hooks")) return hooks();
    if (count == 2) { printf("%.0f\n", best(start, 40, 10)); return 0; }
    datagram = socket(AF_INET, SOCK_DGRAM, 0);
    inet_pton(AF_INET, given[1], &to.sin_addr);
    to.sin_port = htons(atoi(given[2]));
    double small = best(connect_datagram, 100, 2000);
    printf("%.0f %.0f\n", small, best(connect_tcp, 40, 100));
    return 0;
}
