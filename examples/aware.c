/*
 * A program that knows of its session: it looks at it, suspends and resumes it, and ends it.
 *
 *   cc aware.c -o aware -lsession     (a folder without session.h and libsession.so: -I, -L)
 *   session run -- ./aware echo.example.org 7
 */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <session.h>

static void must(const char *what, int result) {
    if (result < 0) {
        fprintf(stderr, "%s: %s\n", what, strerror(-result));
        exit(1);
    }
}

static int connected(const char *host, const char *port) {
    struct addrinfo wanted = {.ai_socktype = SOCK_STREAM}, *found;
    int fd;
    if (getaddrinfo(host, port, &wanted, &found) != 0) exit(1);
    fd = socket(found->ai_family, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, found->ai_addr, found->ai_addrlen) != 0) {
        perror(host);
        exit(1);
    }
    freeaddrinfo(found);
    return fd;
}

static void echo(int fd, const char *word) {
    char back[64] = "";
    size_t length = strlen(word);
    if (write(fd, word, length) != (ssize_t)length) exit(1);
    if (recv(fd, back, length, MSG_WAITALL) != (ssize_t)length || strcmp(back, word)) exit(1);
}

int main(int count, char **words) {
    struct session_status now;
    char byte;
    int fd;
    if (count != 3) return 2;
    fd = connected(words[1], words[2]);
    echo(fd, "hello");
    must("status", session_status(fd, &now));
    printf("at %s, state %d\n", now.server, now.state);
    must("suspend", session_suspend(fd));
    must("wait", session_wait(fd, SESSION_ACTIVE, 5000, &now));
    printf("suspended, state %d\n", now.state);
    must("resume", session_resume(fd));
    while (now.state != SESSION_ACTIVE) must("wait", session_wait(fd, now.state, 5000, &now));
    echo(fd, "again");
    printf("resumed, state %d\n", now.state);
    must("abort", session_abort(fd));
    if (recv(fd, &byte, 1, 0) != -1 || errno != ECONNRESET) return 1;
    printf("aborted\n");
    printf("a pipe: %s\n", strerror(-session_status(STDIN_FILENO, &now)));
    return 0;
}
