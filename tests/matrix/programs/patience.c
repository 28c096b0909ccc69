/* Gets the bytes of halting.py: `patience thread|alarm HOST PORT`. With `thread` one thread reads
 * without a time-out, and the other one waits 3 s by CLOCK_MONOTONIC for each piece; with `alarm` a
 * read is interrupted by an alarm of 3 s, which is its time-out. */
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE_S = 3, WANTED = 40000 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t more;
static long count;
static int peer;

static void fail(const char *what) {
    fprintf(stderr, "%s after %ld bytes\n", what, count);
    exit(1);
}

static void *reads(void *unused) {
    char bytes[4096];
    ssize_t got;
    (void)unused;
    while ((got = read(peer, bytes, sizeof bytes)) > 0) {
        pthread_mutex_lock(&mutex);
        count += got;
        pthread_cond_signal(&more);
        pthread_mutex_unlock(&mutex);
    }
    return 0;
}

static void by_thread(void) {
    pthread_condattr_t attribute;
    pthread_t thread;
    pthread_condattr_init(&attribute);
    pthread_condattr_setclock(&attribute, CLOCK_MONOTONIC);
    pthread_cond_init(&more, &attribute);
    pthread_create(&thread, 0, reads, 0);
    pthread_mutex_lock(&mutex);
    while (count < WANTED) {
        long before = count;
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += PATIENCE_S;
        while (count == before)
            if (pthread_cond_timedwait(&more, &mutex, &until) == ETIMEDOUT && count == before)
                fail("timed out");
    }
}

static void nothing(int number) { (void)number; }

static void by_alarm(void) {
    char bytes[4096];
    struct sigaction action = { .sa_handler = nothing };
    sigaction(SIGALRM, &action, 0);
    while (count < WANTED) {
        alarm(PATIENCE_S);
        ssize_t got = recv(peer, bytes, sizeof bytes, 0);
        if (got <= 0) fail(errno == EINTR ? "timed out" : "ended");
        count += got;
    }
    alarm(0);
}

int main(int number, char **words) {
    const char *request = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    struct addrinfo wanted = { .ai_socktype = SOCK_STREAM }, *found;
    if (number != 4 || getaddrinfo(words[2], words[3], &wanted, &found)) return 2;
    peer = socket(found->ai_family, SOCK_STREAM, 0);
    if (connect(peer, found->ai_addr, found->ai_addrlen)) fail("connect");
    if (write(peer, request, strlen(request)) < 0) fail("write");
    if (!strcmp(words[1], "alarm")) by_alarm();
    else by_thread();
    printf("got %ld\n", count);
    return 0;
}
