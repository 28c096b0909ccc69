/*
 * For programs that know of sessions. libsession.so has these functions; a program that runs
 * without it (not started by `session run`) can look for them with dlsym(), or link to it.
 *
 * Every function takes the program's own socket, as connect() was given it, and returns 0 or a
 * negative errno:
 *   -EBADF      no descriptor
 *   -ENOTCONN   not the socket of a session
 *   -EHOSTDOWN  no broker answers
 *   -ESHUTDOWN  the session has ended, or is just too busy to be told
 *   -EFAULT     no place for the answer
 *   -ETIMEDOUT  session_wait: its state is still the same
 */
#ifndef SESSION_H
#define SESSION_H

#include <stdint.h>

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

#ifdef __cplusplus
}
#endif

#endif
