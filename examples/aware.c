/*
 * A program that knows of its session: it looks at it, suspends and resumes it, sees its state
 * change in a poll() of its own, and ends it.
 *
 *   cc aware.c -o aware -lsession     (a folder without session.h and libsession.so: -I, -L)
 *   session run -- ./aware echo.example.org 7
 *   session run -- ./aware echo.mirror@example.org          (by the name of the service)
 */
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <session.h>

static int must(const char *what, int result) {
    if (result < 0) {
        fprintf(stderr, "%s: %s\n", what, strerror(-result));
        exit(1);
    }
    return result;
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

/* Waits in poll() until the session is in this state, and no longer than 5 s for a change. */
static void until(int events, char state) {
    char states[16];
    do {
        struct pollfd polled = {.fd = events, .events = POLLIN};
        ssize_t count;
        if (poll(&polled, 1, 5000) != 1) exit(1);
        count = read(events, states, sizeof states);
        if (count <= 0) exit(1);
        /* The last one is the state that it has now. */
        states[0] = states[count - 1];
    } while (states[0] != state);
}

int main(int count, char **words) {
    struct session_names names;
    struct session_status now;
    char byte;
    int fd, events;
    if (count != 2 && count != 3) return 2;
    fd = count == 2 ? must(words[1], session_connect(words[1], SOCK_CLOEXEC))
                    : connected(words[1], words[2]);
    echo(fd, "hello");
    events = must("events", session_events(fd));
    must("names", session_names(fd, &names));
    printf("%s at %s, endpoint \"%s\"\n", names.service, names.server, names.endpoint);
    must("status", session_status(fd, &now));
    printf("at %s, state %d\n", now.server, now.state);
    must("suspend", session_suspend(fd));
    must("wait", session_wait(fd, SESSION_ACTIVE, 5000, &now));
    printf("suspended, state %d\n", now.state);
    until(events, SESSION_SUSPENDED);
    must("resume", session_resume(fd));
    until(events, SESSION_ACTIVE);
    echo(fd, "again");
    must("status", session_status(fd, &now));
    printf("resumed, state %d\n", now.state);
    must("abort", session_abort(fd));
    until(events, SESSION_CLOSED);
    if (recv(fd, &byte, 1, 0) != -1 || errno != ECONNRESET) return 1;
    printf("aborted\n");
    printf("a pipe: %s\n", strerror(-session_status(STDIN_FILENO, &now)));
    return 0;
}
