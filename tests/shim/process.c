/* What a program sees that makes processes, threads and signals, runs out of descriptors, hands its
 * sockets on, or gives bad pointers. */
#include "probe.h"

static char buffer[1 << 16];

/* A child that says nothing but its exit code. */
static void reap(pid_t child) {
    int status = -1;
    waitpid(child, &status, 0);
    SAY("child %d", WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
}

static void heard(int server, int count) {
    memset(buffer, 0, sizeof buffer);
    ssize_t got = recv(server, buffer, count, MSG_WAITALL);
    SAY("heard %zd: %s", got, buffer);
}

static void forks(void) {
    int client, server;
    struct sockaddr_in a;
    socklen_t la = sizeof a;
    pair(&client, &server);
    pid_t child = fork();
    if (!child) {
        CALL(getsockname(client, (void *)&a, &la));
        SAY("family %d", a.sin_family);
        write(client, "from a child", 12);
        int own = tcp(), code = dial(own, &target);
        write(own, "own", 3);
        _exit(code ? 1 : 7);
    }
    reap(child);
    heard(server, 12);
    int second = accept(listener, 0, 0);
    heard(second, 3);
    write(client, "from the parent", 15);
    heard(server, 15);
    close(client); close(server); close(second);
}

static void vforks(void) {
    int client, server;
    pair(&client, &server);
    pid_t child = vfork();
    if (!child) {
        dup2(client, 1);
        execl("/bin/echo", "echo", "from vfork", NULL);
        _exit(9);
    }
    reap(child);
    close(client);
    heard(server, 100);
    close(server);
}

static void spawns(void) {
    int client, server;
    pid_t child;
    posix_spawn_file_actions_t actions;
    char *arguments[] = { "sh", "-c", "read line; echo got $line", NULL };
    pair(&client, &server);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, client, 0);
    posix_spawn_file_actions_adddup2(&actions, client, 1);
    posix_spawn_file_actions_addclose(&actions, client);
    write(server, "spawned\n", 8);
    CALL(posix_spawn(&child, "/bin/sh", &actions, 0, arguments, environ));
    close(client);
    heard(server, 100);
    reap(child);
    close(server);
    /* Close-on-exec is kept over the swap: after exec nobody holds the socket. */
    pair(&client, &server);
    if (!(child = fork())) {
        execl("/bin/true", "true", NULL);
        _exit(9);
    }
    close(client);
    CALL(recv(server, buffer, 1, 0));
    reap(child);
    close(server);
}

static void *many(void *unused) {
    long wrong = 0;
    (void)unused;
    for (int i = 0; i < 20; i++) {
        int fd = tcp(), word = random(), back = 0;
        if (dial(fd, &target)) wrong++;
        send(fd, &word, sizeof word, 0);
        if (recv(fd, &back, sizeof back, MSG_WAITALL) != sizeof back || back != word) wrong++;
        close(fd);
    }
    return (void *)wrong;
}

static void *echoes(void *count) {
    for (long i = 0; i < (long)count; i++) {
        int word, server = accept(listener, 0, 0);
        recv(server, &word, sizeof word, MSG_WAITALL);
        send(server, &word, sizeof word, 0);
        close(server);
    }
    return 0;
}

static void threads(void) {
    enum { COUNT = 8 };
    pthread_t server, client[COUNT];
    void *wrong;
    long sum = 0;
    pthread_create(&server, 0, echoes, (void *)(long)(COUNT * 20));
    for (int i = 0; i < COUNT; i++) pthread_create(&client[i], 0, many, 0);
    for (int i = 0; i < COUNT; i++) { pthread_join(client[i], &wrong); sum += (long)wrong; }
    pthread_join(server, 0);
    SAY("wrong %ld", sum);
}

static volatile sig_atomic_t rang;
static sigjmp_buf out;
static void ring(int signal) { (void)signal; rang++; }
static void leap(int signal) { (void)signal; siglongjmp(out, 1); }

static void ring_in(void (*handler)(int), int flags, int ms) {
    struct sigaction action = { .sa_handler = handler, .sa_flags = flags };
    struct itimerval soon = { { 0, 0 }, { 0, ms * 1000 } };
    sigaction(SIGALRM, &action, 0);
    setitimer(ITIMER_REAL, &soon, 0);
}

static void *late(void *fd) {
    nap(200);
    send(*(int *)fd, "late", 4, 0);
    return 0;
}

static void interrupts(void) {
    int client, server;
    pthread_t thread;
    struct pollfd p;
    sigset_t alarms;
    sigemptyset(&alarms);
    sigaddset(&alarms, SIGALRM);
    pair(&client, &server);
    ring_in(ring, 0, 50);
    CALL(recv(client, buffer, 10, 0));
    ring_in(ring, 0, 50);
    CALL(read(client, buffer, 10));
    p = (struct pollfd){ client, POLLIN, 0 };
    ring_in(ring, 0, 50);
    CALL(poll(&p, 1, 2000));
    SAY("rang %d", (int)rang);
    pthread_sigmask(SIG_BLOCK, &alarms, 0);
    pthread_create(&thread, 0, late, &server);
    pthread_sigmask(SIG_UNBLOCK, &alarms, 0);
    ring_in(ring, SA_RESTART, 50);
    CALL(recv(client, buffer, 10, 0));
    pthread_join(thread, 0);
    SAY("rang %d", (int)rang);
    if (!sigsetjmp(out, 1)) {
        ring_in(leap, 0, 50);
        recv(client, buffer, 10, 0);
        SAY("not reached");
    }
    send(server, "after", 5, 0);
    CALL(recv(client, buffer, 10, 0));
    long sent = 0, put;
    for (int quiet = 0; quiet < 5; quiet++) {
        while ((put = send(client, buffer, sizeof buffer, MSG_DONTWAIT)) > 0) {
            sent += put;
            quiet = 0;
        }
        nap(20);
    }
    ring_in(ring, 0, 150);
    CALL(send(client, buffer, sizeof buffer, 0) < (long)sizeof buffer);
    SAY("much %d", sent > 50000);
    close(client); close(server);
}

static void closings(void) {
    int client, server;
    pair(&client, &server);
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        /* As sshd does: the connection becomes 0, all else is closed. */
        dup2(client, 0);
        closefrom(3);
        struct sockaddr_in a;
        socklen_t la = sizeof a;
        CALL(getpeername(0, (void *)&a, &la));
        SAY("peer %d", a.sin_port == target.sin_port);
        write(0, "on zero", 7);
        close_range(3, ~0U, 0);
        int own = tcp();
        SAY("number %d", own);
        CALL(dial(own, &target));
        write(own, "new", 3);
        close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
        SAY("cloexec %d", fcntl(own, F_GETFD));
        _exit(0);
    }
    reap(child);
    heard(server, 7);
    int second = accept(listener, 0, 0);
    heard(second, 10);
    close(client); close(server); close(second);
}

static void passing(void) {
    int client, server, way[2];
    union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } control = {0};
    struct iovec v = { "f", 1 };
    struct msghdr m = { 0, 0, &v, 1, &control, sizeof control, 0 };
    pair(&client, &server);
    set(client, IPPROTO_TCP, TCP_KEEPIDLE, 77);
    socketpair(AF_UNIX, SOCK_STREAM, 0, way);
    pid_t child = fork();
    if (!child) {
        close(client); close(server);
        v.iov_base = buffer;
        recvmsg(way[1], &m, 0);
        int got = *(int *)CMSG_DATA(&control.head);
        struct sockaddr_in a;
        socklen_t la = sizeof a;
        CALL(getpeername(got, (void *)&a, &la));
        SAY("peer %d idle %d", a.sin_port == target.sin_port,
            number(got, IPPROTO_TCP, TCP_KEEPIDLE));
        write(got, "passed on", 9);
        recv(got, buffer, 4, MSG_WAITALL);
        SAY("end %zd", recv(got, buffer, 4, 0));
        _exit(0);
    }
    control.head = (struct cmsghdr){ CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
    memcpy(CMSG_DATA(&control.head), &client, sizeof client);
    sendmsg(way[0], &m, 0);
    close(client);
    heard(server, 9);
    write(server, "back", 4);
    close(server);
    reap(child);
    close(way[0]); close(way[1]);
}

static void over(void) {
    int client, server, other, second;
    struct sockaddr_in a;
    socklen_t la = sizeof a;
    pair(&client, &server);
    pair(&other, &second);
    CALL(dup2(other, client) == client);
    CALL(recv(server, buffer, 1, 0));
    write(client, "the other", 9);
    heard(second, 9);
    close(other);
    int file = open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(file, client);
    CALL(getpeername(client, (void *)&a, &la));
    CALL(recv(second, buffer, 1, 0));
    close(file); close(client); close(server); close(second);
}

static void *reader(void *fd) { return (void *)recv(*(int *)fd, buffer, 10, 0); }

static void shuts(void) {
    int client, server;
    pthread_t thread;
    void *got;
    struct sockaddr_in a;
    socklen_t la = sizeof a;
    pair(&client, &server);
    pthread_create(&thread, 0, reader, &client);
    nap(50);
    CALL(shutdown(client, SHUT_RD));
    pthread_join(thread, &got);
    SAY("reader %ld", (long)got);
    SAY("events %x", events_of(client, POLLIN | POLLOUT | POLLRDHUP, 1000));
    CALL(recv(client, buffer, 10, 0));
    CALL(send(server, "nobody reads", 12, MSG_NOSIGNAL));
    CALL(send(client, "but writes", 10, MSG_NOSIGNAL));
    heard(server, 10);
    CALL(send(server, "still", 5, MSG_NOSIGNAL));
    /* What comes after the shutdown is answered by a reset, by TCP as well. */
    nap(300);
    CALL(shutdown(client, SHUT_WR));
    CALL(recv(server, buffer, 10, 0));
    CALL(shutdown(client, SHUT_RDWR));
    CALL(getpeername(client, (void *)&a, &la));
    CALL(send(client, "x", 1, MSG_NOSIGNAL));
    close(client); close(server);
    pair(&client, &server);
    send(server, "before", 6, 0);
    events_of(client, POLLIN, 1000);
    CALL(shutdown(client, SHUT_RDWR));
    CALL(shutdown(client, SHUT_RDWR));
    CALL(recv(client, buffer, 10, 0));
    CALL(recv(client, buffer, 10, 0));
    CALL(getpeername(client, (void *)&a, &la));
    CALL(recv(server, buffer, 10, 0));
    close(client); close(server);
}

/* Several messages at once, of a socket that is not ours as well. */
static void several(void) {
    int client, server, pair_of[2];
    struct iovec v[2] = { { buffer, 3 }, { buffer + 3, 3 } };
    struct mmsghdr m[2] = { { { 0, 0, &v[0], 1 } }, { { 0, 0, &v[1], 1 } } };
    socketpair(AF_UNIX, SOCK_DGRAM, 0, pair_of);
    CALL(sendmmsg(pair_of[0], m, 2, 0));
    CALL(recvmmsg(pair_of[1], m, 2, 0, 0));
    pair(&client, &server);
    send(server, "abcdef", 6, 0);
    events_of(client, POLLIN, 1000);
    CALL(recvmmsg(client, m, 2, 0, 0));
    SAY("%.6s lengths %u %u", buffer, m[0].msg_len, m[1].msg_len);
    CALL(recvmmsg(client, m, 2, MSG_DONTWAIT, 0));
    close(client); close(server); close(pair_of[0]); close(pair_of[1]);
}

static void truncations(void) {
    int client, server;
    pair(&client, &server);
    send(server, "0123456789", 10, 0);
    events_of(client, POLLIN, 1000);
    CALL(recv(client, NULL, 3, MSG_TRUNC));
    CALL(recv(client, NULL, 4, MSG_TRUNC | MSG_PEEK));
    strcpy(buffer, "same");
    CALL(recv(client, buffer, 4, MSG_TRUNC));
    SAY("%s", buffer);
    struct sockaddr_in from;
    socklen_t lf = sizeof from;
    CALL(recvfrom(client, NULL, 100, MSG_TRUNC, (void *)&from, &lf));
    SAY("from %d", lf);
    CALL(recv(client, NULL, 1, MSG_TRUNC | MSG_DONTWAIT));
    shutdown(server, SHUT_WR);
    CALL(recv(client, NULL, 1, MSG_TRUNC));
    close(client); close(server);
}

#define BAD ((void *)64)
static void pointers(void) {
    int client, server, value = 1;
    struct sockaddr_in a;
    socklen_t la = sizeof a;
    struct iovec bad = { BAD, 4 };
    struct msghdr m = { 0, 0, &bad, 1, 0, 0, 0 };
    int fresh = tcp();
    CALL(connect(fresh, BAD, sizeof a));
    CALL(getsockname(fresh, (void *)&a, BAD));
    close(fresh);
    pair(&client, &server);
    CALL(getsockname(client, (void *)&a, BAD));
    CALL(getsockname(client, (void *)&a, (void *)1));
    CALL(getsockname(client, BAD, &la));
    la = 0;
    CALL(getsockname(client, NULL, &la));
    SAY("length %d", la);
    la = -1;
    CALL(getsockname(client, (void *)&a, &la));
    la = sizeof a;
    CALL(getpeername(client, (void *)&a, BAD));
    CALL(getpeername(client, BAD, &la));
    la = sizeof value;
    CALL(getsockopt(client, IPPROTO_TCP, TCP_NODELAY, &value, BAD));
    CALL(getsockopt(client, SOL_SOCKET, SO_ERROR, &value, BAD));
    CALL(getsockopt(client, SOL_SOCKET, SO_DOMAIN, &value, BAD));
    la = 0;
    CALL(getsockopt(client, SOL_SOCKET, SO_ERROR, NULL, &la));
    la = -1;
    CALL(getsockopt(client, IPPROTO_TCP, TCP_NODELAY, &value, &la));
    la = 2;
    CALL(getsockopt(client, IPPROTO_TCP, TCP_NODELAY, &value, &la));
    SAY("length %d", la);
    CALL(setsockopt(client, IPPROTO_TCP, TCP_NODELAY, BAD, sizeof value));
    CALL(setsockopt(client, SOL_SOCKET, SO_SNDBUF, BAD, sizeof value));
    CALL(setsockopt(client, SOL_SOCKET, SO_KEEPALIVE, NULL, sizeof value));
    CALL(setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &value, 0));
    CALL(ioctl(client, SIOCOUTQ, BAD));
    CALL(ioctl(client, SIOCOUTQNSD, BAD));
    CALL(ioctl(client, FIONREAD, BAD));
    CALL(send(client, BAD, 4, 0));
    CALL(sendmsg(client, BAD, 0));
    CALL(sendmsg(client, BAD, MSG_FASTOPEN));
    CALL(sendmsg(client, &m, 0));
    send(server, "unread", 6, 0);
    events_of(client, POLLIN, 1000);
    CALL(recv(client, BAD, 4, 0));
    CALL(recvmsg(client, BAD, 0));
    CALL(recvmsg(client, &m, 0));
    CALL(recvfrom(client, buffer, 2, 0, NULL, BAD));
    CALL(recv(client, buffer, 10, 0));
    CALL(shutdown(client, 77));
    close(client); close(server);
}

static void full(void) {
    struct rlimit limit, before;
    getrlimit(RLIMIT_NOFILE, &before);
    for (int spare = 0; spare < 3; spare++) {
        int client = tcp(), next = dup(client);
        close(next);
        limit = (struct rlimit){ next + spare, before.rlim_max };
        setrlimit(RLIMIT_NOFILE, &limit);
        set(client, IPPROTO_TCP, TCP_KEEPIDLE, 99);
        CALL(dial(client, &target));
        setrlimit(RLIMIT_NOFILE, &before);
        int server = accept(listener, 0, 0);
        SAY("idle %d", number(client, IPPROTO_TCP, TCP_KEEPIDLE));
        write(client, "full", 4);
        heard(server, 4);
        close(client); close(server);
    }
}

/* As an FTP client does in active mode: the server connects to where the client says it is. */
static void active(void) {
    int client, server;
    struct sockaddr_in own, peer, seen;
    socklen_t length = sizeof own;
    pair(&client, &server);
    getsockname(client, (void *)&own, &length);
    own.sin_port = 0;
    int data = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CALL(bind(data, (void *)&own, sizeof own));
    CALL(listen(data, 1));
    getsockname(data, (void *)&own, &length);
    int back = tcp();
    CALL(dial(back, &own));
    getsockname(back, (void *)&peer, &length);
    int got = accept(data, (void *)&seen, &length);
    SAY("seen %d", !memcmp(&peer, &seen, sizeof seen));
    write(got, "data", 4);
    heard(back, 4);
    close(client); close(server); close(data); close(back); close(got);
}

static void *fresh_socket(void *unused) { (void)unused; return (void *)(long)tcp(); }

/* A daemon: a grandchild without a terminal, in another directory, as another thread. */
static void daemons(void) {
    pid_t child = fork();
    if (!child) {
        if (fork()) _exit(0);
        setsid();
        chdir("/");
        closefrom(3);
        pthread_t thread;
        void *fd;
        pthread_create(&thread, 0, fresh_socket, 0);
        pthread_join(thread, &fd);
        dial((int)(long)fd, &target);
        write((int)(long)fd, "daemon", 6);
        _exit(0);
    }
    reap(child);
    int server = accept(listener, 0, 0);
    heard(server, 10);
    close(server);
}

/* A port of a virtual address that is not routed. Without the shim it goes nowhere, on loopback. */
static void elsewhere(void) {
    struct sockaddr_in to = target;
    inet_pton(AF_INET, "198.18.0.1", &to.sin_addr);
    to.sin_port = htons(1);
    int client = tcp();
    fcntl(client, F_SETFL, O_NONBLOCK);
    setsockopt(client, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3);
    dial(client, &to);
    close(client);
    SAY("went");
}

/* The functions of session.h, where they are there, of a socket that is no session. */
static void aware(void) {
    static const char *const names[] = {
        "session_status", "session_suspend", "session_resume", "session_abort"
    };
    uint64_t status[128];
    int datagram = socket(AF_INET, SOCK_DGRAM, 0), taken = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int (*act)(int, void *) = (int (*)(int, void *))dlsym(RTLD_DEFAULT, names[i]);
        if (act) taken += act(datagram, status) == 0;
    }
    int (*wait)(int, int, int, void *) =
        (int (*)(int, int, int, void *))dlsym(RTLD_DEFAULT, "session_wait");
    if (wait) taken += wait(datagram, 0, 1, status) == 0;
    static const char *const more[] = { "session_names", "session_events" };
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        int (*act)(int, void *) = (int (*)(int, void *))dlsym(RTLD_DEFAULT, more[i]);
        if (act) taken += act(datagram, status) >= 0;
    }
    int (*by_name)(const char *, int) =
        (int (*)(const char *, int))dlsym(RTLD_DEFAULT, "session_connect");
    if (by_name) taken += by_name("no name", 0) >= 0;
    SAY("taken %d", taken);
    close(datagram);
}

/* A name that is routed, used for what is no session; and waits that expire. */
static void strays(void) {
    int client, server, datagram = socket(AF_INET, SOCK_DGRAM, 0);
    char host[100] = "";
    struct hostent *found = gethostbyname("localhost");
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(9) };
    struct iovec v = { "x", 1 };
    struct msghdr m = { &to, sizeof to, &v, 1 };
    struct timeval most = { 0, 600000 };
    memcpy(&to.sin_addr, found->h_addr, sizeof to.sin_addr);
    SAY("named %d", getnameinfo((void *)&to, sizeof to, host, sizeof host, 0, 0, 0));
    sendto(datagram, "x", 1, MSG_DONTWAIT, (void *)&to, sizeof to);
    sendmsg(datagram, &m, MSG_DONTWAIT);
    pair(&client, &server);
    setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof most);
    CALL(recv(client, host, 1, 0));
    SAY("events %x", events_of(client, POLLIN, 600));
    close(client); close(server); close(datagram);
}

int main(int count, char **given) {
    static const struct topic topics[] = {
        { "forks", forks }, { "vforks", vforks }, { "spawns", spawns }, { "threads", threads },
        { "interrupts", interrupts }, { "closings", closings }, { "passing", passing },
        { "over", over }, { "shuts", shuts }, { "several", several },
        { "truncations", truncations },
        { "pointers", pointers }, { "full", full }, { "active", active }, { "daemons", daemons },
        { "elsewhere", elsewhere }, { "strays", strays }, { "aware", aware },
        { 0, 0 },
    };
    return run_topics(topics, count, given);
}
