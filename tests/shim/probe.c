/* What a program sees of its sockets. */
#include "probe.h"

static void names(void) {
    struct sockaddr_in a = {0}, b = {0}, c = {0};
    socklen_t la = sizeof a, lb = sizeof b, lc = sizeof c;
    int client = tcp();
    CALL(dial(client, &target));
    int server = accept(listener, (void *)&c, &lc);
    CALL(getsockname(client, (void *)&a, &la));
    CALL(getpeername(client, (void *)&b, &lb));
    SAY("lengths %d %d families %d %d", la, lb, a.sin_family, b.sin_family);
    SAY("peer is target %d", !memcmp(&b, &target, sizeof b));
    SAY("accept saw getsockname %d", !memcmp(&a, &c, sizeof a));
    lc = sizeof c;
    CALL(getpeername(server, (void *)&c, &lc));
    SAY("the server's peer is the client %d", !memcmp(&a, &c, sizeof a));
    char small[4];
    socklen_t ls = sizeof small;
    CALL(getsockname(client, (void *)small, &ls));
    SAY("small says %d", ls);
    ls = 2;
    CALL(getpeername(client, (void *)small, &ls));
    SAY("small says %d", ls);
    int unconnected = tcp();
    la = sizeof a;
    CALL(getpeername(unconnected, (void *)&a, &la));
    int un[2];
    struct sockaddr_un u;
    socklen_t lu = sizeof u;
    socketpair(AF_UNIX, SOCK_STREAM, 0, un);
    CALL(getpeername(un[0], (void *)&u, &lu));
    SAY("socketpair name %d %d", lu, u.sun_family);
    close(client); close(server); close(unconnected); close(un[0]); close(un[1]);
}

static void bound(void) {
    struct sockaddr_in a = {0}, c = {0};
    socklen_t la = sizeof a, lc = sizeof c;
    int client = tcp();
    a.sin_family = AF_INET;
    inet_pton(AF_INET, "127.0.0.9", &a.sin_addr);
    CALL(bind(client, (void *)&a, sizeof a));
    CALL(dial(client, &target));
    int server = accept(listener, (void *)&c, &lc);
    getsockname(client, (void *)&a, &la);
    SAY("source %s same %d", inet_ntoa(a.sin_addr), !memcmp(&a, &c, sizeof a));
    close(client); close(server);
}

static void basics(void) {
    int client, server;
    pair(&client, &server);
    SAY("type %d domain %d protocol %d error %d accepting %d", number(client, SOL_SOCKET, SO_TYPE),
        number(client, SOL_SOCKET, SO_DOMAIN), number(client, SOL_SOCKET, SO_PROTOCOL),
        number(client, SOL_SOCKET, SO_ERROR), number(client, SOL_SOCKET, SO_ACCEPTCONN));
    struct ucred who;
    socklen_t lw = sizeof who;
    CALL(getsockopt(client, SOL_SOCKET, SO_PEERCRED, &who, &lw));
    SAY("peer is %d %d", who.pid, (int)who.uid);
    struct tcp_info info;
    socklen_t li = sizeof info;
    CALL(getsockopt(client, IPPROTO_TCP, TCP_INFO, &info, &li));
    SAY("state %d", info.tcpi_state);
    CALL(dial(client, &target));
    CALL(dial(client, &target));
    struct sockaddr_in nowhere = target;
    inet_pton(AF_INET, "240.0.0.1", &nowhere.sin_addr);
    CALL(dial(client, &nowhere));
    char buffer[100];
    struct sockaddr_in from;
    socklen_t lf = sizeof from;
    send(server, "hello world", 11, 0);
    CALL(recvfrom(client, buffer, 5, 0, (void *)&from, &lf));
    SAY("from length %d", lf);
    struct iovec v = { buffer, 3 };
    struct msghdr m = { &from, sizeof from, &v, 1, 0, 0, 0 };
    CALL(recvmsg(client, &m, MSG_PEEK));
    SAY("name length %d flags %x", m.msg_namelen, m.msg_flags);
    int queued = -1;
    CALL(ioctl(client, FIONREAD, &queued));
    SAY("queued %d", queued);
    CALL(recv(client, buffer, 100, MSG_DONTWAIT));
    CALL(recv(client, buffer, 100, MSG_DONTWAIT));
    CALL(recv(client, buffer, 0, MSG_DONTWAIT));
    CALL(sendto(client, "abc", 3, 0, (void *)&nowhere, sizeof nowhere));
    v.iov_base = "defg"; v.iov_len = 4;
    m.msg_name = &nowhere; m.msg_namelen = sizeof nowhere;
    CALL(sendmsg(client, &m, 0));
    struct mmsghdr mm[2] = { { m, 0 }, { m, 0 } };
    int sent = sendmmsg(client, mm, 2, 0);
    SAY("sendmmsg %d", sent > 0);
    CALL(recv(server, buffer, 7 + 4 * sent, MSG_WAITALL) == 7 + 4 * sent);
    nap(50);
    CALL(ioctl(client, SIOCOUTQ, &queued));
    SAY("outq %d", queued);
    CALL(ioctl(client, SIOCATMARK, &queued));
    SAY("at mark %d", queued);
    CALL(setsockopt(client, SOL_SOCKET, 9999, &queued, sizeof queued));
    CALL(setsockopt(client, IPPROTO_TCP, 9999, &queued, sizeof queued));
    CALL(setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &queued, 1));
    close(client); close(server);
}

static void show_options(int fd, const char *when) {
    char congestion[16] = {0};
    socklen_t lc = sizeof congestion;
    struct linger linger;
    socklen_t ll = sizeof linger;
    struct timeval time;
    socklen_t lt = sizeof time;
    getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, congestion, &lc);
    getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &ll);
    getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, &lt);
    SAY("%s: nodelay %d idle %d intvl %d cnt %d user %d tos %d ttl %d cork %d quick %d", when,
        number(fd, IPPROTO_TCP, TCP_NODELAY) != 0, number(fd, IPPROTO_TCP, TCP_KEEPIDLE),
        number(fd, IPPROTO_TCP, TCP_KEEPINTVL), number(fd, IPPROTO_TCP, TCP_KEEPCNT),
        number(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), number(fd, IPPROTO_IP, IP_TOS),
        number(fd, IPPROTO_IP, IP_TTL), number(fd, IPPROTO_TCP, TCP_CORK),
        number(fd, IPPROTO_TCP, TCP_SYNCNT));
    SAY("%s: keepalive %d reuse %d oobinline %d rcvbuf %d sndbuf %d priority %d lowat %d", when,
        number(fd, SOL_SOCKET, SO_KEEPALIVE), number(fd, SOL_SOCKET, SO_REUSEADDR),
        number(fd, SOL_SOCKET, SO_OOBINLINE), number(fd, SOL_SOCKET, SO_RCVBUF),
        number(fd, SOL_SOCKET, SO_SNDBUF), number(fd, SOL_SOCKET, SO_PRIORITY),
        number(fd, SOL_SOCKET, SO_RCVLOWAT));
    SAY("%s: congestion %s linger %d %d time %ld.%06ld reuseport %d", when, congestion,
        linger.l_onoff, linger.l_linger, time.tv_sec, time.tv_usec,
        number(fd, SOL_SOCKET, SO_REUSEPORT));
}

static void options(void) {
    int client = tcp();
    struct linger linger = { 1, 7 };
    struct timeval time = { 3, 250000 };
    set(client, IPPROTO_TCP, TCP_NODELAY, 1);
    set(client, IPPROTO_TCP, TCP_KEEPIDLE, 61);
    set(client, IPPROTO_TCP, TCP_USER_TIMEOUT, 12345);
    set(client, IPPROTO_IP, IP_TOS, 0x10);
    set(client, SOL_SOCKET, SO_KEEPALIVE, 1);
    set(client, SOL_SOCKET, SO_RCVBUF, 50000);
    set(client, SOL_SOCKET, SO_SNDBUF, 30000);
    set(client, SOL_SOCKET, SO_PRIORITY, 3);
    setsockopt(client, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
    setsockopt(client, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
    show_options(client, "before connect");
    CALL(dial(client, &target));
    int server = accept(listener, 0, 0);
    show_options(client, "connected");
    set(client, IPPROTO_TCP, TCP_NODELAY, 0);
    set(client, IPPROTO_TCP, TCP_KEEPINTVL, 11);
    set(client, IPPROTO_TCP, TCP_KEEPCNT, 4);
    set(client, IPPROTO_TCP, TCP_KEEPCNT, 100000);
    set(client, IPPROTO_TCP, TCP_CORK, 1);
    set(client, IPPROTO_IP, IP_TTL, 33);
    set(client, SOL_SOCKET, SO_OOBINLINE, 1);
    set(client, SOL_SOCKET, SO_SNDBUF, 20000);
    set(client, SOL_SOCKET, SO_MARK, 5);
    int twin = dup(client);
    close(client);
    show_options(twin, "changed, by a twin");
    fcntl(twin, F_SETFD, 0);
    char text[16];
    snprintf(text, sizeof text, "%d", twin);
    pid_t child = fork();
    if (!child) {
        execl("/proc/self/exe", "probe", "--options", text, NULL);
        _exit(9);
    }
    waitpid(child, 0, 0);
    close(twin); close(server);
}

static void nonblocking(void) {
    struct sockaddr_in a;
    socklen_t la = sizeof a;
    int client = tcp();
    fcntl(client, F_SETFL, O_NONBLOCK);
    CALL(dial(client, &target));
    int server = accept(listener, 0, 0);
    SAY("events %x", events_of(client, POLLIN | POLLOUT, 2000));
    SAY("error %d", number(client, SOL_SOCKET, SO_ERROR));
    SAY("flags %x cloexec %d", fcntl(client, F_GETFL) & O_NONBLOCK, fcntl(client, F_GETFD));
    CALL(getpeername(client, (void *)&a, &la));
    CALL(dial(client, &target));
    CALL(dial(client, &target));
    char byte;
    CALL(read(client, &byte, 1));
    CALL(write(client, "x", 1));
    CALL(read(server, &byte, 1));
    close(client); close(server);
}

static void refused(void) {
    struct sockaddr_in dead, a;
    socklen_t la = sizeof a;
    close(listen_on_loopback(1, &dead));
    int client = tcp();
    CALL(dial(client, &dead));
    CALL(dial(client, &dead));
    SAY("error %d type %d", number(client, SOL_SOCKET, SO_ERROR),
        number(client, SOL_SOCKET, SO_TYPE));
    CALL(dial(client, &target));
    close(accept(listener, 0, 0));
    close(client);
    client = tcp();
    fcntl(client, F_SETFL, O_NONBLOCK);
    CALL(dial(client, &dead));
    int events = events_of(client, POLLIN | POLLOUT, 2000);
    SAY("out %d err %d hup %d", !!(events & POLLOUT), !!(events & POLLERR), !!(events & POLLHUP));
    CALL(getpeername(client, (void *)&a, &la));
    SAY("error %d", number(client, SOL_SOCKET, SO_ERROR));
    SAY("error %d", number(client, SOL_SOCKET, SO_ERROR));
    close(client);
    client = tcp();
    fcntl(client, F_SETFL, O_NONBLOCK);
    dial(client, &dead);
    events_of(client, POLLOUT, 2000);
    CALL(dial(client, &dead));
    close(client);
    client = tcp();
    fcntl(client, F_SETFL, O_NONBLOCK);
    dial(client, &dead);
    events_of(client, POLLOUT, 2000);
    char byte;
    CALL(recv(client, &byte, 1, 0));
    CALL(recv(client, &byte, 1, 0));
    close(client);
}

static void ends(void) {
    int client, server;
    char buffer[64];
    struct sockaddr_in a;
    socklen_t la = sizeof a;
    pair(&client, &server);
    CALL(shutdown(client, SHUT_WR));
    CALL(shutdown(client, SHUT_WR));
    CALL(recv(server, buffer, 1, 0));
    send(server, "late", 4, 0);
    CALL(recv(client, buffer, 64, 0));
    CALL(send(client, "x", 1, MSG_NOSIGNAL));
    CALL(getpeername(client, (void *)&a, &la));
    close(server);
    CALL(recv(client, buffer, 64, 0));
    nap(50);
    CALL(getpeername(client, (void *)&a, &la));
    CALL(shutdown(client, SHUT_WR));
    CALL(recv(client, buffer, 64, 0));
    close(client);

    pair(&client, &server);
    shutdown(server, SHUT_WR);
    nap(50);
    SAY("events %x", events_of(client, POLLIN | POLLOUT | POLLRDHUP, 2000));
    CALL(recv(client, buffer, 64, 0));
    CALL(recv(client, buffer, 64, 0));
    CALL(write(client, "still", 5));
    CALL(recv(server, buffer, 64, 0));
    CALL(shutdown(client, SHUT_RD));
    CALL(write(client, "still", 5));
    CALL(recv(server, buffer, 64, 0));
    close(client);
    CALL(recv(server, buffer, 64, 0));
    close(server);
}

static void aborts(void) {
    struct linger now = { 1, 0 };
    char buffer[64];
    int client, server;
    for (int spoken = 0; spoken < 2; spoken++) {
        pair(&client, &server);
        if (spoken) {
            send(client, "hello", 5, 0);
            recv(server, buffer, 5, MSG_WAITALL);
        }
        setsockopt(server, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        close(server);
        int events = events_of(client, POLLIN, 2000);
        SAY("in %d err %d hup %d", !!(events & POLLIN), !!(events & POLLERR), !!(events & POLLHUP));
        CALL(recv(client, buffer, 64, 0));
        CALL(recv(client, buffer, 64, 0));
        CALL(send(client, "x", 1, MSG_NOSIGNAL));
        close(client);

        pair(&client, &server);
        if (spoken) {
            send(client, "hello", 5, 0);
            recv(server, buffer, 5, MSG_WAITALL);
        }
        setsockopt(client, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        close(client);
        CALL(recv(server, buffer, 64, 0));
        close(server);
    }
    pair(&client, &server);
    send(server, "unread", 6, 0);
    events_of(client, POLLIN, 2000);
    close(client);
    CALL(recv(server, buffer, 64, 0));
    close(server);
}

static void epolls(void) {
    struct epoll_event e, got[4];
    for (int mode = 0; mode < 3; mode++) {
        int client = tcp(), ep = epoll_create1(EPOLL_CLOEXEC), other = epoll_create1(EPOLL_CLOEXEC);
        fcntl(client, F_SETFL, O_NONBLOCK);
        e.events = EPOLLOUT | EPOLLIN | (mode == 1 ? EPOLLET : mode == 2 ? EPOLLONESHOT : 0);
        e.data.u64 = 0xabcdef0123456789;
        epoll_ctl(ep, EPOLL_CTL_ADD, client, &e);
        e.data.u64 = 7;
        e.events = EPOLLIN;
        epoll_ctl(other, EPOLL_CTL_ADD, client, &e);
        if (mode == 1) epoll_wait(ep, got, 4, 0);
        if (mode == 2) {
            e.events = EPOLLOUT | EPOLLONESHOT;
            e.data.u64 = 9;
            epoll_ctl(ep, EPOLL_CTL_MOD, client, &e);
        }
        CALL(dial(client, &target));
        int server = accept(listener, 0, 0);
        int count = epoll_wait(ep, got, 4, 2000);
        SAY("mode %d count %d events %x data %llx", mode, count, got[0].events,
            (unsigned long long)got[0].data.u64);
        write(server, "x", 1);
        count = epoll_wait(other, got, 4, 2000);
        SAY("other count %d events %x data %llu", count, got[0].events,
            (unsigned long long)got[0].data.u64);
        e.events = EPOLLIN; e.data.u64 = 1;
        CALL(epoll_ctl(ep, EPOLL_CTL_MOD, client, &e));
        CALL(epoll_wait(ep, got, 4, 2000));
        CALL(epoll_ctl(ep, EPOLL_CTL_DEL, client, &e));
        close(client); close(server); close(ep); close(other);
    }
}

static void twins(void) {
    char buffer[8];
    int client = tcp();
    int twin = dup(client);
    fcntl(twin, F_SETFD, 0);
    CALL(dial(client, &target));
    int server = accept(listener, 0, 0);
    CALL(write(twin, "twin", 4));
    CALL(recv(server, buffer, 4, MSG_WAITALL));
    SAY("cloexec %d %d", fcntl(client, F_GETFD), fcntl(twin, F_GETFD));
    close(client);
    if (!fork()) {
        write(twin, "kid", 3);
        _exit(0);
    }
    wait(0);
    CALL(recv(server, buffer, 3, MSG_WAITALL));
    close(twin);
    CALL(recv(server, buffer, 3, MSG_WAITALL));
    close(server);
}

/* More epoll instances and more duplicates than any program has, most made by other calls. */
static void crowds(void) {
    enum { EPOLLS = 100, TWINS = 40 };
    int ep[EPOLLS], twin[TWINS], sum = 0, client = tcp();
    struct epoll_event e = { EPOLLOUT, { .u64 = 5 } };
    fcntl(client, F_SETFL, O_NONBLOCK);
    for (int i = 0; i < EPOLLS; i++) {
        ep[i] = i % 2 ? epoll_create1(EPOLL_CLOEXEC) : epoll_create(1);
        epoll_ctl(ep[i], EPOLL_CTL_ADD, client, &e);
    }
    for (int i = 0; i < TWINS; i++)
        twin[i] = i % 3 == 0 ? dup(client) : i % 3 == 1 ? fcntl(client, F_DUPFD_CLOEXEC, 500)
                                                        : dup3(client, 900 + i, O_CLOEXEC);
    CALL(dial(client, &target));
    int server = accept(listener, 0, 0);
    for (int i = 0; i < EPOLLS; i++) {
        struct epoll_event got = {0};
        if (epoll_wait(ep[i], &got, 1, 2000) == 1 && got.data.u64 == 5) sum++;
        close(ep[i]);
    }
    SAY("told %d", sum);
    for (int i = sum = 0; i < TWINS; i++) { sum += write(twin[i], "t", 1); close(twin[i]); }
    SAY("written %d", sum);
    close(client); close(server);
}

/* More than can be carried over: the program must not notice. */
static void excess(void) {
    enum { EPOLLS = 200 };
    int ep[EPOLLS], sum = 0, client = tcp();
    struct epoll_event e = { EPOLLOUT, { .u64 = 5 } };
    fcntl(client, F_SETFL, O_NONBLOCK);
    for (int i = 0; i < EPOLLS; i++) {
        ep[i] = epoll_create1(EPOLL_CLOEXEC);
        epoll_ctl(ep[i], EPOLL_CTL_ADD, client, &e);
    }
    CALL(dial(client, &target));
    int server = accept(listener, 0, 0);
    for (int i = 0; i < EPOLLS; i++) {
        struct epoll_event got = {0};
        if (epoll_wait(ep[i], &got, 1, 2000) == 1 && got.data.u64 == 5) sum++;
        close(ep[i]);
    }
    SAY("told %d", sum);
    close(client); close(server);
}

/* A socket that may use one interface only. */
static void devices(void) {
    int client = tcp();
    CALL(setsockopt(client, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3));
    CALL(dial(client, &target));
    int server = accept(listener, 0, 0);
    CALL(write(client, "lo", 2));
    close(client); close(server);
}

/* Options and the flags of a socket that another program has made. */
static void inherited(void) {
    int client = tcp(), server, way[2];
    char number[8], *arguments[] = { "probe", "inheritor", "60", number, 0 };
    set(client, IPPROTO_TCP, TCP_NODELAY, 1);
    set(client, SOL_SOCKET, SO_PRIORITY, 3);
    fcntl(client, F_SETFD, 0);
    sprintf(number, "%d", client);
    fflush(stdout);
    if (!fork()) {
        putenv("INHERITED=1");
        setenv("FD", number, 1);
        execv("/proc/self/exe", arguments);
        _exit(9);
    }
    wait(0);
    close(client);
}

static void inheritor(void) {
    if (!getenv("FD")) return;
    int client = atoi(getenv("FD")), server;
    CALL(dial(client, &target));
    server = accept(listener, 0, 0);
    SAY("nodelay %d priority %d", number(client, IPPROTO_TCP, TCP_NODELAY),
        number(client, SOL_SOCKET, SO_PRIORITY));
    CALL(write(client, "x", 1));
    close(client); close(server);
}

static void arguments(void) {
    int client = tcp();
    struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = target.sin_port };
    six.sin6_addr = in6addr_loopback;
    CALL(connect(client, (void *)1, sizeof target));
    CALL(connect(client, NULL, sizeof target));
    CALL(connect(client, (void *)&target, 4));
    CALL(connect(client, (void *)&target, sizeof(sa_family_t)));
    CALL(connect(client, (void *)&six, sizeof six));
    CALL(dial(-1, &target));
    CALL(dial(4000, &target));
    CALL(dial(0, &target));
    CALL(dial(listener, &target));
    int datagram = socket(AF_INET, SOCK_DGRAM, 0);
    CALL(dial(datagram, &target));
    SAY("type %d", number(datagram, SOL_SOCKET, SO_TYPE));
    close(client); close(datagram);
}

static void again(void) {
    struct sockaddr none = { .sa_family = AF_UNSPEC };
    struct sockaddr_in second, a;
    socklen_t la = sizeof a;
    int client, server, two = listen_on_loopback(5, &second);
    pair(&client, &server);
    CALL(connect(client, &none, sizeof none));
    CALL(getpeername(client, (void *)&a, &la));
    close(server);
    CALL(dial(client, &second));
    la = sizeof a;
    CALL(getpeername(client, (void *)&a, &la));
    SAY("second %d", a.sin_port == second.sin_port);
    close(client); close(two);
}

static volatile sig_atomic_t rang;
static void ring(int signal) { (void)signal; rang++; }

/* A listener whose queue is full never answers. */
static void waits(void) {
    struct sockaddr_in full;
    int held[3], fd = listen_on_loopback(0, &full);
    for (int i = 0; i < 3; i++) {
        held[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        dial(held[i], &full);
        nap(20);
    }
    struct sigaction action = { .sa_handler = ring };
    sigaction(SIGALRM, &action, 0);
    struct itimerval soon = { { 0, 0 }, { 0, 150000 } };
    int client = tcp();
    setitimer(ITIMER_REAL, &soon, 0);
    CALL(dial(client, &full));
    SAY("rang %d writable %d", (int)rang, events_of(client, POLLOUT, 0));
    fcntl(client, F_SETFL, O_NONBLOCK);
    CALL(dial(client, &full));
    struct sockaddr_in a;
    socklen_t la = sizeof a;
    CALL(getpeername(client, (void *)&a, &la));
    close(client);
    client = tcp();
    struct timeval brief = { 0, 100000 };
    setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &brief, sizeof brief);
    CALL(dial(client, &full));
    CALL(dial(client, &full));
    close(client);
    for (int i = 0; i < 3; i++) close(held[i]);
    close(fd);
    char byte;
    int server;
    pair(&client, &server);
    setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &brief, sizeof brief);
    CALL(recv(client, &byte, 1, 0));
    CALL(read(client, &byte, 1));
    close(client); close(server);
}

static void *blocked(void *fd) {
    char byte;
    recv(*(int *)fd, &byte, 1, 0);
    return 0;
}

static void *dialing(void *to) {
    int fd = tcp();
    dial(fd, to);
    return 0;
}

static void cancels(void) {
    pthread_t thread;
    void *result;
    int client, server;
    pair(&client, &server);
    pthread_create(&thread, 0, blocked, &client);
    nap(50);
    pthread_cancel(thread);
    pthread_join(thread, &result);
    SAY("recv cancelled %d", result == PTHREAD_CANCELED);
    close(client); close(server);
    struct sockaddr_in full;
    int held[3], fd = listen_on_loopback(0, &full);
    for (int i = 0; i < 3; i++) {
        held[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        dial(held[i], &full);
        nap(20);
    }
    pthread_create(&thread, 0, dialing, &full);
    nap(100);
    pthread_cancel(thread);
    pthread_join(thread, &result);
    SAY("connect cancelled %d", result == PTHREAD_CANCELED);
    for (int i = 0; i < 3; i++) close(held[i]);
    close(fd);
}

static unsigned long sum;
static void *drain(void *fd) {
    static unsigned char buffer[70000];
    ssize_t got;
    sum = 0;
    while ((got = recv(*(int *)fd, buffer, sizeof buffer, 0)) > 0)
        for (ssize_t i = 0; i < got; i++) sum = sum * 31 + buffer[i];
    return 0;
}

static void bulk(void) {
    enum { SIZE = 9 << 20 };
    unsigned char *data = malloc(SIZE);
    unsigned seed = 1;
    for (int i = 0; i < SIZE; i++) data[i] = (seed = seed * 1103515245 + 12345) >> 16;
    unsigned long expected = 0;
    for (int i = 0; i < SIZE; i++) expected = expected * 31 + data[i];
    FILE *file = tmpfile();
    fwrite(data, 1, SIZE, file);
    fflush(file);
    for (int way = 0; way < 4; way++) {
        int client, server;
        pthread_t thread;
        pair(&client, &server);
        int from = way % 2 ? server : client, to = way % 2 ? client : server;
        pthread_create(&thread, 0, drain, &to);
        off_t at = 0;
        ssize_t put;
        while (at < SIZE) {
            if (way < 2) {
                size_t half = (SIZE - at) / 2;
                struct iovec v[2] = { { data + at, half }, { data + at + half, SIZE - at - half } };
                if ((put = writev(from, v, 2)) < 0) break;
                at += put;
            } else if (sendfile(from, fileno(file), &at, SIZE - at) < 0) break;
        }
        shutdown(from, SHUT_WR);
        pthread_join(thread, 0);
        SAY("way %d all %d right %d", way, at == SIZE, sum == expected);
        close(client); close(server);
    }
    fclose(file);
    free(data);
}

static void fast_open(void) {
    char buffer[8];
    int client = tcp();
    CALL(sendto(client, "quick", 5, MSG_FASTOPEN, (void *)&target, sizeof target));
    int server = accept(listener, 0, 0);
    CALL(recv(server, buffer, 5, MSG_WAITALL));
    close(client); close(server);
}

static void six(void) {
    struct sockaddr_in6 to = { .sin6_family = AF_INET6, .sin6_port = target.sin_port }, a, b;
    socklen_t la = sizeof a, lb = sizeof b;
    char text[64];
    inet_pton(AF_INET6, "::ffff:127.0.0.1", &to.sin6_addr);
    int client = socket(AF_INET6, SOCK_STREAM, 0);
    CALL(connect(client, (void *)&to, sizeof to));
    int server = accept(listener, 0, 0);
    CALL(getsockname(client, (void *)&a, &la));
    CALL(getpeername(client, (void *)&b, &lb));
    SAY("%d %s", la, inet_ntop(AF_INET6, &a.sin6_addr, text, sizeof text));
    SAY("%d %s", lb, inet_ntop(AF_INET6, &b.sin6_addr, text, sizeof text));
    SAY("domain %d only %d", number(client, SOL_SOCKET, SO_DOMAIN),
        number(client, IPPROTO_IPV6, IPV6_V6ONLY));
    close(client); close(server);
}

static void hosts(void) {
    struct addrinfo *found, wishes = { .ai_family = AF_INET, .ai_socktype = SOCK_STREAM };
    CALL(getaddrinfo("127.0.0.1", "80", &wishes, &found));
    freeaddrinfo(found);
    CALL(getaddrinfo("no such host", "80", &wishes, &found));
    CALL(getaddrinfo(NULL, "80", &wishes, &found));
    freeaddrinfo(found);
    SAY("%d", gethostbyname("127.0.0.1") != NULL);
}

int main(int count, char **given) {
    if (count == 3 && !strcmp(given[1], "--options")) {
        topic = "options";
        show_options(atoi(given[2]), "after exec");
        return 0;
    }
    static const struct topic topics[] = {
        { "names", names }, { "bound", bound }, { "basics", basics }, { "options", options },
        { "nonblocking", nonblocking }, { "refused", refused }, { "ends", ends },
        { "aborts", aborts }, { "epolls", epolls }, { "twins", twins }, { "crowds", crowds },
        { "excess", excess }, { "devices", devices }, { "inherited", inherited },
        { "inheritor", inheritor }, { "arguments", arguments },
        { "again", again }, { "waits", waits }, { "cancels", cancels }, { "bulk", bulk },
        { "fast_open", fast_open }, { "six", six }, { "hosts", hosts }, { 0, 0 },
    };
    return run_topics(topics, count, given);
}
