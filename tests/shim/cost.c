/* What a connect costs, for scripts/bench: nanoseconds of one that does little by itself (of a
 * datagram socket) and of a TCP connection that is made and closed, the best of many rounds. With
 * an argument: nanoseconds of starting this program. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
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

int main(int count, char **given) {
    if (count == 1) return 0;
    if (count == 2) { printf("%.0f\n", best(start, 40, 10)); return 0; }
    datagram = socket(AF_INET, SOCK_DGRAM, 0);
    inet_pton(AF_INET, given[1], &to.sin_addr);
    to.sin_port = htons(atoi(given[2]));
    double small = best(connect_datagram, 100, 2000);
    printf("%.0f %.0f\n", small, best(connect_tcp, 40, 100));
    return 0;
}
