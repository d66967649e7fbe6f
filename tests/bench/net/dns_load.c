/* A closed loop of DNS queries: so many under way at a time from one socket, for so many seconds.
 * Usage: dns_load ADDRESS PORT NAME TYPE WINDOW SECONDS; prints "answers seconds lost". */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int write_query(unsigned char *query, const char *name, int type) {
    static const unsigned char header[12] = {0, 0, 1, 0, 0, 1};
    unsigned char *end = query + sizeof header;
    memcpy(query, header, sizeof header);
    while (*name) {
        size_t length = strcspn(name, ".");
        *end++ = (unsigned char)length;
        memcpy(end, name, length);
        end += length;
        name += length + (name[length] == '.');
    }
    *end++ = 0;
    *end++ = type >> 8;
    *end++ = type & 255;
    *end++ = 0;
    *end++ = 1;
    return (int)(end - query);
}

int main(int argc, char **argv) {
    if (argc != 7) return 2;
    int window = atoi(argv[5]);
    double span = atof(argv[6]);
    unsigned char query[512], answer[65536];
    int size = write_query(query, argv[3], atoi(argv[4]));
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    inet_aton(argv[1], &server.sin_addr);
    int sock = socket(AF_INET, SOCK_DGRAM, 0);
    struct timeval patience = {.tv_usec = 200000};
    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(sock, (struct sockaddr *)&server, sizeof server)) return 1;
    unsigned id = 0;
    long answers = 0, lost = 0;
    double start = now(), end = start + span;
    for (int sent = 0; sent < window; sent++) {
        query[0] = id >> 8 & 255, query[1] = id & 255, id++;
        if (send(sock, query, size, 0) < 0) return 1;
    }
    while (now() < end) {
        long got = recv(sock, answer, sizeof answer, 0);
        if (got < 0) lost++;
        else if (got < size || answer[7] == 0) return 3; /* no record in the answer */
        else answers++;
        query[0] = id >> 8 & 255, query[1] = id & 255, id++;
        if (send(sock, query, size, 0) < 0) lost++;
    }
    printf("%ld %.6f %ld\n", answers, now() - start, lost);
    return 0;
}
