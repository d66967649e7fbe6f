/* Traffic for the network benches: one server and three kinds of clients. Built when a bench runs.
 *
 *   traffic serve PORT                    echoes on PORT, swallows on PORT + 1, until it is killed
 *   traffic ask ADDRESS PORT SECONDS      one byte there and back on one connection, again and again
 *   traffic call ADDRESS PORT SECONDS     connect, one byte there and back, close; again and again
 *   traffic push ADDRESS PORT SECONDS     as much as will go to PORT + 1
 *
 * A client prints: operations (of push: bytes), seconds, median latency in microseconds, failures.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 1 << 17, SAMPLES = 1 << 21, EVENTS = 64, FAILURES_MAX = 50 };
static char chunk[CHUNK];
static float samples[SAMPLES];

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec * 1e-9;
}

static int by_size(const void *left, const void *right) {
    float difference = *(const float *)left - *(const float *)right;
    return (difference > 0) - (difference < 0);
}

static socklen_t parse(const char *text, int port, struct sockaddr_storage *to) {
    memset(to, 0, sizeof *to);
    struct sockaddr_in6 *six = (void *)to;
    struct sockaddr_in *four = (void *)to;
    if (inet_pton(AF_INET6, text, &six->sin6_addr) == 1) {
        six->sin6_family = AF_INET6;
        six->sin6_port = htons(port);
        return sizeof *six;
    }
    if (inet_pton(AF_INET, text, &four->sin_addr) != 1) {
        fprintf(stderr, "%s is no address\n", text);
        exit(2);
    }
    four->sin_family = AF_INET;
    four->sin_port = htons(port);
    return sizeof *four;
}

static int listen_on(int port) {
    int one = 1, listener = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&any, sizeof any) || listen(listener, 4096)) {
        perror("listen");
        exit(1);
    }
    return listener;
}

static void watch(int poll, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
}

static void serve(int port) {
    int poll = epoll_create1(0), echo = listen_on(port), sink = listen_on(port + 1), one = 1;
    static char is_sink[1 << 20];
    struct epoll_event events[EVENTS];
    watch(poll, echo);
    watch(poll, sink);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(poll, events, EVENTS, -1);
        for (int each = 0; each < count; each++) {
            int fd = events[each].data.fd;
            if (fd == echo || fd == sink) {
                int client;
                while ((client = accept4(fd, 0, 0, SOCK_NONBLOCK)) >= 0) {
                    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    is_sink[client] = fd == sink;
                    watch(poll, client);
                }
                continue;
            }
            ssize_t size = read(fd, chunk, CHUNK);
            if (size == 0 || (size < 0 && errno != EAGAIN))
                close(fd);
            else if (size > 0 && !is_sink[fd] && write(fd, chunk, size) < 0)
                close(fd);
        }
    }
}

static int dial(const struct sockaddr_storage *to, socklen_t size) {
    int one = 1, client = socket(to->ss_family, SOCK_STREAM, 0);
    struct timeval patience = {2, 0};
    struct linger reset = {1, 0}; /* no TIME_WAIT: a bench has more connections than ports */
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    if (connect(client, (const void *)to, size) == 0)
        return client;
    close(client);
    return -1;
}

static int exchange(int client) {
    char byte = 'x';
    return write(client, &byte, 1) == 1 && read(client, &byte, 1) == 1;
}

int main(int count, char **words) {
    signal(SIGPIPE, SIG_IGN);
    if (count == 3 && !strcmp(words[1], "serve"))
        serve(atoi(words[2]));
    if (count != 5)
        return 2;
    int is_call = !strcmp(words[1], "call"), is_push = !strcmp(words[1], "push");
    struct sockaddr_storage to;
    socklen_t size = parse(words[2], atoi(words[3]) + is_push, &to);
    long done = 0, failed = 0, taken = 0;
    int client = is_call ? -1 : dial(&to, size);
    if (!is_call && client < 0) {
        perror("connect");
        return 1;
    }
    double began = now(), end = began + atof(words[4]), before = began;
    while (before < end && failed < FAILURES_MAX) {
        if (is_call)
            client = dial(&to, size);
        ssize_t moved = is_push ? write(client, chunk, CHUNK) : client >= 0 && exchange(client);
        if (is_call && client >= 0)
            close(client);
        double after = now();
        if (moved > 0) {
            done += moved;
            if (taken < SAMPLES)
                samples[taken++] = (after - before) * 1e6;
        } else
            failed++;
        before = after;
    }
    qsort(samples, taken, sizeof *samples, by_size);
    printf("%ld %.4f %.2f %ld\n", done, now() - began, taken ? samples[taken / 2] : 0.0, failed);
    return 0;
}
