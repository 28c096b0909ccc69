/* What a program sees whose clock would stand still in a pause, when there is none: its alarms
 * ring, and what waits for a point in time waits until then. */
#include "probe.h"
#include <semaphore.h>
#include <sys/timerfd.h>
#include <time.h>

static volatile sig_atomic_t rang;
static void ring(int number) { rang++; }

static void on_alarm(int flags) {
    struct sigaction action = { .sa_handler = ring, .sa_flags = flags };
    sigaction(SIGALRM, &action, 0);
}

/* At most 3 s, also when nothing rings. */
static int rings(int wanted) {
    for (int i = 0; i < 300 && rang < wanted; i++) nap(10);
    return rang >= wanted;
}

static void alarms(void) {
    int client, server;
    char byte;
    struct itimerval soon = { { 0, 0 }, { 0, 100000 } }, often = { { 0, 50000 }, { 0, 50000 } };
    struct itimerval left, wrong = { { 0, 0 }, { 0, 1000000 } }, never = { { 0, 0 }, { 0, 0 } };
    pair(&client, &server);
    alarm(100);
    CALL(alarm(50));
    CALL(alarm(0));
    CALL(alarm(0));
    on_alarm(SA_RESTART);
    setitimer(ITIMER_REAL, &soon, 0);
    getitimer(ITIMER_REAL, &left);
    long left_us = left.it_value.tv_sec * 1000000 + left.it_value.tv_usec;
    SAY("left %d", left_us > 0 && left_us <= 100000);
    SAY("rang %d", rings(1));
    getitimer(ITIMER_REAL, &left);
    SAY("left %ld %ld", (long)left.it_value.tv_sec, (long)left.it_value.tv_usec);
    setitimer(ITIMER_REAL, &often, 0);
    SAY("rang again %d", rings(4));
    CALL(setitimer(ITIMER_REAL, &never, &left));
    SAY("every %ld", (long)left.it_interval.tv_usec);
    CALL(setitimer(ITIMER_REAL, &wrong, 0));
    on_alarm(0);
    rang = 0;
    setitimer(ITIMER_REAL, &soon, 0);
    CALL(recv(client, &byte, 1, 0));
    SAY("rang %d", (int)rang);
    setitimer(ITIMER_REAL, &soon, 0);
    if (!fork()) {
        getitimer(ITIMER_REAL, &left);
        SAY("a child's %ld", (long)left.it_value.tv_usec);
        _exit(0);
    }
    wait(0);
    SAY("rang %d", rings(2));
    close(client); close(server);
}

static struct timespec in_ms(clockid_t clock, int ms) {
    struct timespec at;
    clock_gettime(clock, &at);
    /* A second back and forth, as the rest may not be below 0. */
    at.tv_nsec += ms * 1000000L + 1000000000L;
    at.tv_sec += at.tv_nsec / 1000000000L - 1;
    at.tv_nsec %= 1000000000L;
    return at;
}

static int is_past(clockid_t clock, struct timespec at) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec > at.tv_sec || (now.tv_sec == at.tv_sec && now.tv_nsec >= at.tv_nsec);
}

static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;
static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;

/* The locks are held by another thread until this one is done. */
static sem_t taken, done;
static void *holds(void *unused) {
    pthread_mutex_lock(&held);
    pthread_rwlock_wrlock(&lock);
    sem_post(&taken);
    sem_wait(&done);
    pthread_rwlock_unlock(&lock);
    pthread_mutex_unlock(&held);
    return 0;
}

static void conditions(clockid_t clock) {
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_condattr_t attribute;
    pthread_cond_t condition;
    int result = 0;
    pthread_condattr_init(&attribute);
    pthread_condattr_setclock(&attribute, clock);
    pthread_cond_init(&condition, &attribute);
    pthread_mutex_lock(&mutex);
    struct timespec at = in_ms(clock, 60);
    while (!result) result = pthread_cond_timedwait(&condition, &mutex, &at);
    SAY("condition %s %d", strerrorname_np(result), is_past(clock, at));
    at = in_ms(clock, 60);
    for (result = 0; !result;) result = pthread_cond_clockwait(&condition, &mutex, clock, &at);
    SAY("condition %s %d", strerrorname_np(result), is_past(clock, at));
    pthread_mutex_unlock(&mutex);
}

static void timers(clockid_t clock) {
    struct itimerspec setting = { { 0, 0 }, in_ms(clock, 60) }, never = { { 0, 0 }, { 0, 0 } };
    struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM };
    uint64_t count = 0;
    timer_t timer;
    int fd = timerfd_create(clock, 0);
    CALL(timerfd_settime(fd, TFD_TIMER_ABSTIME, &setting, 0));
    CALL(read(fd, &count, sizeof count));
    SAY("count %d past %d", (int)count, is_past(clock, setting.it_value));
    CALL(timerfd_settime(fd, TFD_TIMER_ABSTIME, &never, 0));
    close(fd);
    on_alarm(SA_RESTART);
    rang = 0;
    timer_create(clock, &event, &timer);
    setting.it_value = in_ms(clock, 60);
    CALL(timer_settime(timer, TIMER_ABSTIME, &setting, 0));
    SAY("rang %d past %d", rings(1), is_past(clock, setting.it_value));
    timer_delete(timer);
}

static void deadlines(void) {
    static const clockid_t clocks[] = { CLOCK_MONOTONIC, CLOCK_REALTIME };
    pthread_t thread;
    int client, server;
    sem_t empty;
    pair(&client, &server);
    sem_init(&empty, 0, 0);
    sem_init(&taken, 0, 0);
    sem_init(&done, 0, 0);
    pthread_create(&thread, 0, holds, 0);
    sem_wait(&taken);
    for (size_t i = 0; i < sizeof clocks / sizeof *clocks; i++) {
        clockid_t clock = clocks[i];
        struct timespec at = in_ms(clock, 60), past = in_ms(clock, -60);
        CALL(clock_nanosleep(clock, TIMER_ABSTIME, &at, 0));
        SAY("past %d", is_past(clock, at));
        CALL(clock_nanosleep(clock, TIMER_ABSTIME, &past, 0));
        conditions(clock);
        at = in_ms(clock, 60);
        CALL(sem_clockwait(&empty, clock, &at));
        SAY("past %d", is_past(clock, at));
        CALL(sem_clockwait(&empty, clock, &past));
        sem_post(&empty);
        CALL(sem_clockwait(&empty, clock, &past));
        at = in_ms(clock, 60);
        SAY("%s", strerrorname_np(pthread_mutex_clocklock(&held, clock, &at)));
        at = in_ms(clock, 60);
        SAY("%s", strerrorname_np(pthread_rwlock_clockrdlock(&lock, clock, &at)));
        at = in_ms(clock, 60);
        SAY("%s", strerrorname_np(pthread_rwlock_clockwrlock(&lock, clock, &at)));
        SAY("past %d", is_past(clock, at));
        timers(clock);
    }
    struct timespec boot = in_ms(CLOCK_BOOTTIME, 60);
    CALL(clock_nanosleep(CLOCK_BOOTTIME, TIMER_ABSTIME, &boot, 0));
    SAY("past %d", is_past(CLOCK_BOOTTIME, boot));
    sem_post(&done);
    pthread_join(thread, 0);
    close(client); close(server);
}

/* Four threads look at the clock: it never goes back. */
static void *looks(void *unused) {
    struct timespec before = { 0, 0 }, now;
    for (int i = 0; i < 200000; i++) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec < before.tv_sec ||
            (now.tv_sec == before.tv_sec && now.tv_nsec < before.tv_nsec)) return (void *)1;
        before = now;
    }
    return 0;
}

static void clocks(void) {
    pthread_t threads[4];
    int client, server, back = 0;
    pair(&client, &server);
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], 0, looks, 0);
    for (int i = 0; i < 4; i++) {
        void *went;
        pthread_join(threads[i], &went);
        back += went != 0;
    }
    SAY("went back %d", back);
    close(client); close(server);
}

int main(int count, char **given) {
    static const struct topic topics[] = {
        { "alarms", alarms }, { "deadlines", deadlines }, { "clocks", clocks }, { 0, 0 },
    };
    return run_topics(topics, count, given);
}
