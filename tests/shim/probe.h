/* What the probes have in common: they say what a program sees, one line per answer. Run bare and
 * with the shim in front of every loopback connection, the lines have to be the same. Ports and
 * times do not appear. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <linux/sockios.h>
#include <sys/resource.h>
#include <sys/mman.h>
#include <setjmp.h>
#include <spawn.h>
#include <unistd.h>

static const char *topic;
static int listener;
static struct sockaddr_in target;

#define SAY(...) \
    do { printf("%s: ", topic); printf(__VA_ARGS__); putchar('\n'); fflush(stdout); } while (0)
#define CALL(expression) do { errno = 0; long r_ = (long)(expression); int e_ = errno; \
    SAY("%s = %ld %s", #expression, r_, r_ == -1 ? strerrorname_np(e_) : ""); } while (0)

static void nap(int ms) { usleep(ms * 1000); }

static int events_of(int fd, int events, int wait_ms) {
    struct pollfd p = { fd, events, 0 };
    poll(&p, 1, wait_ms);
    return p.revents;
}

static int tcp(void) { return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); }

static int listen_on_loopback(int backlog, struct sockaddr_in *at) {
    socklen_t length = sizeof *at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    memset(at, 0, sizeof *at);
    at->sin_family = AF_INET;
    at->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    bind(fd, (void *)at, sizeof *at);
    listen(fd, backlog);
    getsockname(fd, (void *)at, &length);
    return fd;
}

static int dial(int fd, struct sockaddr_in *to) { return connect(fd, (void *)to, sizeof *to); }

static void pair(int *client, int *server) {
    *client = tcp();
    if (dial(*client, &target)) SAY("pair failed: %s", strerrorname_np(errno));
    *server = accept4(listener, 0, 0, SOCK_CLOEXEC);
}

static int number(int fd, int level, int name) {
    int value = -77;
    socklen_t length = sizeof value;
    if (getsockopt(fd, level, name, &value, &length)) return -errno;
    return value;
}

static void set(int fd, int level, int name, int value) {
    if (setsockopt(fd, level, name, &value, sizeof value))
        SAY("set %d %d: %s", level, name, strerrorname_np(errno));
}

struct topic { const char *name; void (*run)(void); };

/* Runs the topic that was asked for, or all; at most so many seconds. */
static int run_topics(const struct topic *topics, int count, char **given) {
    setvbuf(stdout, 0, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    alarm(count > 2 ? atoi(given[2]) : 60);
    listener = listen_on_loopback(50, &target);
    for (; topics->name; topics++) {
        topic = topics->name;
        if (count == 1 || !strcmp(given[1], topic)) topics->run();
    }
    return 0;
}
