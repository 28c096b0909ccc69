/*
 * For programs that know of sessions. libsession.so has these functions; a program that runs
 * without it (not started by `session run`) can look for them with dlsym(), or link to it.
 *
 * Every function but session_connect() takes the program's own socket, as connect() was given it.
 * All of them return 0, or a descriptor, or a negative errno:
 *   -EBADF      no descriptor
 *   -ENOTCONN   not the socket of a session
 *   -EHOSTDOWN  no broker answers
 *   -ESHUTDOWN  the session has ended, or is just too busy to be told
 *   -EMOVED     its endpoint was saved, to go on elsewhere: save your own state, close it and exit
 *   -EFAULT     no place for the answer
 *   -ETIMEDOUT  session_wait: its state is still the same
 *   -ENOBUFS    session_events: there are too many
 *   -EINVAL     session_connect: that is no name, or no flag
 *   -ENOENT     session_connect: nobody offers such a service
 *   -EAGAIN     session_connect: that cannot be said now
 * and what socket() and connect() fail with.
 */
#ifndef SESSION_H
#define SESSION_H

#include <stdint.h>

/* No errno of Linux (KTH 4.4). */
#ifndef EMOVED
#define EMOVED 4001
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The states of a session's end (KTH 3.8). */
enum session_state {
    SESSION_ACTIVE = 0,       /* it has a link, and data moves */
    SESSION_READY_RESUME = 1, /* it has none, and wants one */
    SESSION_SENT_RESUME = 2,  /* an answer is awaited on a new one */
    SESSION_SUSPENDED = 3,    /* it has none until it is resumed */
    SESSION_CLOSED = 4        /* it is over */
};

struct session_status {
    int32_t state;         /* one of enum session_state */
    uint32_t rtt_us;       /* round trip of the link, microseconds; 0 without one */
    uint64_t paused_ms;    /* for how long it has been without a link; 0 with one */
    uint64_t taken;        /* bytes taken from this program */
    uint64_t acknowledged; /* of these, bytes that the server has */
    uint64_t received;     /* bytes received for this program */
    uint64_t delivered;    /* of these, bytes that it has been given */
    char server[256];      /* the server that has the session, as it calls itself */
};

/* What the ends of a session are called; longer names are cut. */
struct session_names {
    char service[256];  /* the service at the other end, service.object@domain */
    char server[256];   /* the server that has the session, as it calls itself */
    char endpoint[256]; /* this end's endpoint, object@domain; "" if it belongs to none */
};

/* How the session fares. The numbers are at most 0.2 s old. */
int session_status(int fd, struct session_status *status);

/* Takes its link away until it is resumed: reads wait, and so do writes when its buffer is full.
 * It has begun when the function returns; session_wait() tells when it is done. */
int session_suspend(int fd);

/* Lets it have a link again. */
int session_resume(int fd);

/* Ends it: this program and the service see ECONNRESET. */
int session_abort(int fd);

/* Waits until its state is another one than `state`, at most `timeout_ms`, and tells how it fares
 * then. */
int session_wait(int fd, int state, int timeout_ms, struct session_status *status);

/* A descriptor for poll() and its kin, which can be read from when the state has changed: it gives
 * one byte for each change, the new state, but only the last one of several that follow each other
 * fast. At its end, when it gives 0 bytes, the session is over or the broker has begun anew: ask
 * session_status(), and for another descriptor if it lives. A change between two calls is not
 * missed if session_events() comes before session_status(). It does not block, exec() closes it,
 * and close() it yourself; a session may have several. */
int session_events(int fd);

/* What its ends are called. */
int session_names(int fd, struct session_names *names);

/* A new socket with a session to a service by its name, such as "www.mirror@example.org": one of
 * broker.toml, or one that the gateway or a name server knows. `flags` are SOCK_NONBLOCK and
 * SOCK_CLOEXEC of socket(); with the first one the connect may still be under way, as with
 * connect(). */
int session_connect(const char *name, int flags);

#ifdef __cplusplus
}
#endif

#endif
