/* What a program sees of urgent data: as sender and as receiver, out of line and in line. Nothing
 * is said of whether a socket with an urgent byte alone is readable: there a Unix socket
 * differs. */
#include "probe.h"

/* Waits for the mark; says whether it came. */
static int urgent(int fd) { return !!(events_of(fd, POLLPRI, 10000) & POLLPRI); }

static int at_mark(int fd) {
    int answer = -1;
    return ioctl(fd, SIOCATMARK, &answer) ? -errno : answer;
}

/* Reads so many bytes, up to a mark; says what came. */
static void heard(int fd, int count) {
    char bytes[100] = {0};
    ssize_t got = recv(fd, bytes, count, MSG_WAITALL);
    SAY("heard %zd: %s %s", got, bytes, got < 0 ? strerrorname_np(errno) : "");
}

/* The urgent byte out of line. */
static void taken(int fd) {
    char bytes[100] = {0};
    ssize_t got = recv(fd, bytes, sizeof bytes, MSG_OOB);
    SAY("urgent %zd: %s %s", got, bytes, got < 0 ? strerrorname_np(errno) : "");
}

/* The middle of what goes from one to the other. */
static void middle(int from, int to) {
    CALL(send(from, "abc", 3, 0));
    CALL(send(from, "!", 1, MSG_OOB));
    CALL(send(from, "def", 3, 0));
    SAY("mark came %d", urgent(to));
    taken(to);
    heard(to, 3);
    SAY("at mark %d, still urgent %d", at_mark(to), !!(events_of(to, POLLPRI, 0) & POLLPRI));
    taken(to);
    heard(to, 3);
    SAY("at mark %d", at_mark(to));
}

/* Of many bytes sent as urgent the last is. */
static void many(int from, int to) {
    CALL(send(from, "hello", 5, MSG_OOB));
    SAY("mark came %d", urgent(to));
    heard(to, 100);
    SAY("at mark %d", at_mark(to));
    taken(to);
    CALL(send(from, "more", 4, 0));
    heard(to, 4);
}

/* Unread it is left out. */
static void unread(int from, int to) {
    CALL(send(from, "ab!", 3, MSG_OOB));
    SAY("mark came %d", urgent(to));
    CALL(send(from, "cd", 2, 0));
    heard(to, 2);
    heard(to, 2);
    taken(to);
}

static void in_line(int from, int to) {
    set(to, SOL_SOCKET, SO_OOBINLINE, 1);
    CALL(send(from, "ab!", 3, MSG_OOB));
    SAY("mark came %d", urgent(to));
    CALL(send(from, "cd", 2, 0));
    taken(to);
    heard(to, 100);
    SAY("at mark %d, urgent %d", at_mark(to), !!(events_of(to, POLLPRI, 0) & POLLPRI));
    heard(to, 3);
    SAY("at mark %d, urgent %d", at_mark(to), !!(events_of(to, POLLPRI, 0) & POLLPRI));
    /* One behind the other, and the newer one counts. */
    CALL(send(from, "1", 1, MSG_OOB));
    SAY("mark came %d", urgent(to));
    heard(to, 1);
    CALL(send(from, "2", 1, MSG_OOB));
    SAY("mark came %d", urgent(to));
    SAY("at mark %d", at_mark(to));
    heard(to, 1);
    set(to, SOL_SOCKET, SO_OOBINLINE, 0);
}

/* Two in a row, each taken before the next. */
static void two(int from, int to) {
    for (int i = 0; i < 2; i++) {
        CALL(send(from, i ? "y" : "x", 1, MSG_OOB));
        SAY("mark came %d", urgent(to));
        taken(to);
    }
    CALL(send(from, "and on", 6, 0));
    heard(to, 6);
}

/* As the last byte of a stream; the sender's other direction goes on. */
static void last(int from, int to) {
    CALL(send(from, "bye", 3, MSG_OOB));
    CALL(shutdown(from, SHUT_WR));
    SAY("mark came %d", urgent(to));
    taken(to);
    heard(to, 100);
    heard(to, 100);
    CALL(send(to, "answer!", 7, MSG_OOB));
    SAY("mark came %d", urgent(from));
    heard(from, 100);
    taken(from);
    CALL(shutdown(to, SHUT_WR));
    heard(from, 100);
}

static void everything(int from, int to) {
    middle(from, to);
    many(from, to);
    unread(from, to);
    two(from, to);
    in_line(from, to);
    last(from, to);
    close(from); close(to);
}

static void out(void) {
    int client, server;
    pair(&client, &server);
    everything(client, server);
}

static void in(void) {
    int client, server;
    pair(&client, &server);
    everything(server, client);
}

static volatile sig_atomic_t rang, held, took;
static int ringing;

static void ring(int signal) {
    char byte = 0;
    (void)signal;
    if (recv(ringing, &byte, 1, MSG_OOB) == 1) took = byte;
    rang++;
}

/* SIGURG goes to the owner, who may be told before the connect or after, and interrupts a read. */
static void signals(void) {
    struct sigaction action = { .sa_handler = ring };
    char bytes[9] = {0};
    int client = tcp();
    sigaction(SIGURG, &action, 0);
    for (int late = 0; late < 2; late++) {
        if (late) client = tcp();
        ringing = client;
        rang = took = 0;
        if (!late) CALL(fcntl(client, F_SETOWN, getpid()));
        CALL(dial(client, &target));
        int server = accept(listener, 0, 0);
        if (late) CALL(fcntl(client, F_SETOWN, getpid()));
        SAY("owner is this process %d", fcntl(client, F_GETOWN) == getpid());
        pid_t child = fork();
        if (!child) {
            nap(200);
            send(server, "u", 1, MSG_OOB);
            _exit(0);
        }
        CALL(recv(client, bytes, 9, 0));
        SAY("rang %d took %c", rang > 0, took);
        waitpid(child, 0, 0);
        CALL(send(server, "on", 2, 0));
        heard(client, 2);
        close(client); close(server);
    }
}

/* The mark ends a wait in select and in epoll. */
static void waits(void) {
    int client, server, poll = epoll_create1(0);
    struct epoll_event event = { EPOLLPRI, { 0 } };
    pair(&client, &server);
    CALL(epoll_ctl(poll, EPOLL_CTL_ADD, client, &event));
    CALL(epoll_wait(poll, &event, 1, 0));
    CALL(send(server, "s", 1, MSG_OOB));
    CALL(epoll_wait(poll, &event, 1, 10000));
    SAY("events %x", event.events & EPOLLPRI);
    taken(client);
    CALL(epoll_wait(poll, &event, 1, 0));
    fd_set set;
    struct timeval time = { 10, 0 };
    FD_ZERO(&set);
    FD_SET(client, &set);
    CALL(send(server, "t", 1, MSG_OOB));
    CALL(select(client + 1, 0, 0, &set, &time));
    SAY("set %d", !!FD_ISSET(client, &set));
    taken(client);
    close(client); close(server); close(poll);
}

/* What a server says first, and nothing else, while the connect may still be under way. */
static void first(void) {
    for (int i = 0; i < 20; i++) {
        int client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        dial(client, &target);
        int server = accept(listener, 0, 0);
        CALL(send(server, "!", 1, MSG_OOB));
        SAY("mark came %d", urgent(client));
        taken(client);
        close(client); close(server);
    }
}

/* Much before it and much behind it: it stays at its place. */
static void bulk(void) {
    enum { COUNT = 300000 };
    static char bytes[COUNT];
    int client, server;
    pair(&client, &server);
    for (int way = 0; way < 2; way++) {
        int from = way ? server : client, to = way ? client : server;
        set(to, SOL_SOCKET, SO_OOBINLINE, 1);
        pid_t child = fork();
        if (!child) {
            for (int i = 0; i < COUNT; i++) bytes[i] = i * 7 + i / 1000;
            for (int sent = 0; sent < COUNT / 2;) {
                ssize_t now = send(from, bytes + sent, COUNT / 2 - sent, 0);
                if (now > 0) sent += now;
            }
            while (send(from, bytes + COUNT / 2, 1, MSG_OOB) != 1);
            for (int sent = COUNT / 2 + 1; sent < COUNT;) {
                ssize_t now = send(from, bytes + sent, COUNT - sent, 0);
                if (now > 0) sent += now;
            }
            _exit(0);
        }
        int got = 0, wrong = 0, mark = -1;
        while (got < COUNT) {
            /* What is asked holds for a byte that is there. */
            if (recv(to, bytes, 1, MSG_PEEK) != 1) break;
            int marked = at_mark(to);
            ssize_t now = recv(to, bytes, marked ? 1 : sizeof bytes, 0);
            if (now <= 0) break;
            if (marked) mark = got;
            for (int i = 0; i < now; i++)
                wrong += bytes[i] != (char)((got + i) * 7 + (got + i) / 1000);
            got += now;
        }
        waitpid(child, 0, 0);
        SAY("got %d wrong %d mark at %d", got, wrong, mark);
    }
    close(client); close(server);
}

int main(int count, char **given) {
    const struct topic topics[] = {
        { "out", out }, { "in", in }, { "first", first },
        { "signals", signals }, { "waits", waits }, { "bulk", bulk },
        { 0 },
    };
    return run_topics(topics, count, given);
}
