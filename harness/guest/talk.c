// A TCP conversation that a move must not break.
//
//     guest-tool serve port=7                              in the guest: answers each number with the next one
//     guest-tool ask host=10.77.0.10 port=7 stop=FILE      outside: asks until FILE is there (or for seconds=N)
//
// `ask` keeps one connection and four questions in flight; an answer that is wrong, missing for `patience` seconds, or a
// connection that ends is a failure. It says how many it got and the longest it waited.

#define _GNU_SOURCE
#include "tool.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static bool get_number(int connection, uint64_t *number) {
    char *at = (char *)number;
    for (size_t missing = sizeof *number; missing > 0;) {
        ssize_t n = read(connection, at, missing);
        if (n <= 0) return false;
        at += n;
        missing -= (size_t)n;
    }
    return true;
}

int serve_main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_IGN);
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((uint16_t)option(argc, argv, "port", 7))};
    if (bind(listener, (struct sockaddr *)&here, sizeof here) != 0 || listen(listener, 8) != 0) fail("listen");
    for (;;) {
        int connection = accept(listener, NULL, NULL);
        if (connection < 0) continue;
        if (fork() == 0) {
            setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            for (uint64_t number; get_number(connection, &number);) {
                number++;
                if (write(connection, &number, sizeof number) != sizeof number) break;
            }
            _exit(0);
        }
        close(connection);
    }
}

int ask_main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    const char *stop = text_option(argc, argv, "stop", "");
    long seconds = option(argc, argv, "seconds", 0), patience = option(argc, argv, "patience", 120);
    long pace = option(argc, argv, "pace_ms", 20);
    int connection = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons((uint16_t)option(argc, argv, "port", 7))};
    if (inet_pton(AF_INET, text_option(argc, argv, "host", "127.0.0.1"), &there.sin_addr) != 1) fail("host=");
    // The guest may still be starting.
    uint64_t begin = monotonic_nanoseconds();
    while (connect(connection, (struct sockaddr *)&there, sizeof there) != 0) {
        if (monotonic_nanoseconds() - begin > (uint64_t)patience * 1000000000ULL) fail("connect");
        close(connection);
        usleep(300000);
        connection = socket(AF_INET, SOCK_STREAM, 0);
    }
    setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    printf("ask: connected\n");
    fflush(stdout);
    begin = monotonic_nanoseconds();
    uint64_t sent = 0, answered = 0, last = begin, longest = 0;
    for (;;) {
        bool more = !(stop[0] != 0 && access(stop, F_OK) == 0)
            && !(seconds > 0 && monotonic_nanoseconds() - begin > (uint64_t)seconds * 1000000000ULL);
        if (!more && sent == answered) break;
        while (more && sent < answered + 4) {
            uint64_t number = sent++ * 2;
            if (write(connection, &number, sizeof number) != sizeof number) fail("write");
        }
        struct pollfd readable = {connection, POLLIN, 0};
        if (poll(&readable, 1, (int)patience * 1000) != 1) {
            errno = ETIMEDOUT;
            fail("no answer");
        }
        uint64_t number, now;
        errno = ECONNRESET;
        if (!get_number(connection, &number)) fail("the connection ended");
        if (number != answered * 2 + 1) {
            printf("ask: wrong answer %llu to question %llu\n", (unsigned long long)number, (unsigned long long)answered);
            return 1;
        }
        answered++;
        now = monotonic_nanoseconds();
        if (now - last > longest) longest = now - last;
        last = now;
        usleep((useconds_t)pace * 1000);
    }
    printf("ask: %llu answers, all right, longest wait %llu ms\n", (unsigned long long)answered,
        (unsigned long long)longest / 1000000);
    return 0;
}
