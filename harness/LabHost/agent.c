// Runs commands in an emulated host. One program, two ends of a virtio serial port:
//
//     agent serve ROOT COUNT                   in the host: serves all ports, one command a port, in ROOT
//     agent exec [-i] [-e NAME=VALUE]... SOCKET-PREFIX COUNT FOLDER -- COMMAND...
//                                             outside: runs one command on a free port, passes on what it says
//     agent tsc-khz                           outside: this machine's TSC frequency
//
// Bytes on the port: the client says START with a number drawn at random, folder, environment and command; the server
// answers with ACK and that number, so that what an earlier, broken session left behind is skipped. Then frames: a
// type, three zeros, a length, and so many bytes. From the client: 'i' input, 'c' end of input, 's' signal. From the
// server: 'o' output, 'e' error output, 'x' exit status, last. A client that goes away ends its command.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

enum { magic_size = 8, greeting_size = 24, frame_size = 8, chunk = 32768, largest_command = 1 << 20, most_ports = 64 };
static const char start_magic[magic_size] = "LABRUN1", ack_magic[magic_size] = "LABACK1";

static void fail(const char *what) {
    fprintf(stderr, "lab agent: %s: %s\n", what, strerror(errno));
    exit(125);
}

// Writes all of it; false when the other end is gone.
static bool put(int port, const void *bytes, size_t count) {
    const char *at = bytes;
    while (count > 0) {
        ssize_t n = write(port, at, count);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) {
            struct pollfd one = {port, POLLOUT, 0};
            poll(&one, 1, 1000);
            if (one.revents & (POLLHUP | POLLERR)) return false;
            continue;
        }
        if (n <= 0) return false;
        at += n;
        count -= (size_t)n;
    }
    return true;
}

// Reads all of it; false when the other end is gone.
static bool get(int port, void *bytes, size_t count) {
    char *at = bytes;
    while (count > 0) {
        ssize_t n = read(port, at, count);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) {
            struct pollfd one = {port, POLLIN, 0};
            poll(&one, 1, 1000);
            if ((one.revents & (POLLHUP | POLLERR)) && !(one.revents & POLLIN)) return false;
            continue;
        }
        if (n <= 0) return false;
        at += n;
        count -= (size_t)n;
    }
    return true;
}

static bool put_frame(int port, char type, const void *bytes, uint32_t count) {
    static char whole[frame_size + chunk];
    memset(whole, 0, frame_size);
    whole[0] = type;
    memcpy(whole + 4, &count, 4);
    if (count > 0) memcpy(whole + frame_size, bytes, count);
    return put(port, whole, frame_size + count);
}

// Skips bytes until the greeting with this magic (and nonce, if not zero) has been read; `rest` gets nonce and length.
static bool find_greeting(int port, const char *magic, uint64_t nonce, uint64_t rest[2]) {
    char window[greeting_size];
    if (!get(port, window, sizeof window)) return false;
    for (;;) {
        memcpy(rest, window + magic_size, 16);
        if (memcmp(window, magic, magic_size) == 0 && (nonce == 0 || rest[0] == nonce)) return true;
        memmove(window, window + 1, sizeof window - 1);
        if (!get(port, window + sizeof window - 1, 1)) return false;
    }
}

// --- In the host

// The command's text: folder, a count of variables, variables, arguments, each ended by a zero byte.
static void become(const char *root, char *text, size_t count) {
    static char *words[4096];
    size_t n = 0;
    for (char *at = text; at < text + count && n < 4000; at += strlen(at) + 1) words[n++] = at;
    words[n] = NULL;
    if (n < 3) exit(125);
    size_t variables = strtoul(words[1], NULL, 10);
    if (variables > n - 3) exit(125);
    if (chroot(root) != 0 || chdir("/") != 0) fail(root);
    if (chdir(words[0]) != 0) fprintf(stderr, "lab agent: no folder %s here, running in /\n", words[0]);
    for (size_t i = 0; i < variables; i++) putenv(words[2 + i]);
    char **arguments = words + 2 + variables;
    execvp(arguments[0], arguments);
    fprintf(stderr, "lab agent: cannot run %s: %s\n", arguments[0], strerror(errno));
    _exit(errno == ENOENT ? 127 : 126);
}

static void session(int port, const char *root) {
    uint64_t rest[2];
    if (!find_greeting(port, start_magic, 0, rest)) return;
    if (rest[1] == 0 || rest[1] > largest_command) return;
    char *text = calloc(1, rest[1] + 1);
    if (text == NULL || !get(port, text, rest[1])) return;
    int in[2], out[2], err[2];
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0) return;
    pid_t child = fork();
    if (child < 0) return;
    if (child == 0) {
        setsid();
        dup2(in[0], 0);
        dup2(out[1], 1);
        dup2(err[1], 2);
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        signal(SIGPIPE, SIG_DFL);
        become(root, text, rest[1]);
    }
    close(in[0]);
    close(out[1]);
    close(err[1]);
    fcntl(in[1], F_SETFL, O_NONBLOCK);
    char ack[greeting_size] = {0};
    memcpy(ack, ack_magic, magic_size);
    memcpy(ack + magic_size, &rest[0], 8);
    bool there = put(port, ack, sizeof ack);

    int status = 0;
    bool ended = false;
    int grace = 0;
    static char buffer[chunk];
    while (there) {
        struct pollfd all[3] = {{port, POLLIN, 0}, {out[0], POLLIN, 0}, {err[0], POLLIN, 0}};
        // Whoever still holds the pipes after the command has ended (a daemon) is not waited for.
        if (!ended && waitpid(child, &status, WNOHANG) == child) ended = true;
        int ready = poll(all, 3, ended ? 50 : 500);
        if (ready < 0 && errno != EINTR) break;
        if (ready <= 0) {
            if (ended && ++grace > 1) break;
            continue;
        }
        for (int i = 1; i < 3; i++) {
            if (all[i].revents == 0) continue;
            int *end = i == 1 ? &out[0] : &err[0];
            ssize_t n = read(*end, buffer, sizeof buffer);
            if (n > 0) {
                there = there && put_frame(port, i == 1 ? 'o' : 'e', buffer, (uint32_t)n);
            } else if (n == 0) {
                close(*end);
                *end = -1;
            }
        }
        if (out[0] < 0 && err[0] < 0 && !ended) {
            // Said its last word; it may still run.
            struct pollfd one = {port, POLLIN, 0};
            poll(&one, 1, 20);
            all[0].revents = one.revents;
        }
        if (all[0].revents & POLLIN) {
            char head[frame_size];
            uint32_t count;
            if (!get(port, head, sizeof head)) break;
            memcpy(&count, head + 4, 4);
            if (count > chunk || !get(port, buffer, count)) break;
            if (head[0] == 'i' && in[1] >= 0 && !put(in[1], buffer, count)) {
                close(in[1]);
                in[1] = -1;
            } else if (head[0] == 'c' && in[1] >= 0) {
                close(in[1]);
                in[1] = -1;
            } else if (head[0] == 's' && count == 1 && !ended) {
                kill(-child, buffer[0]);
            }
        } else if (all[0].revents & (POLLHUP | POLLERR)) {
            there = false;
        }
        if (ended && out[0] < 0 && err[0] < 0) break;
    }
    if (!ended) {
        for (int tries = 0; tries < 40; tries++) {
            kill(-child, tries == 0 ? SIGTERM : tries == 30 ? SIGKILL : 0);
            if (waitpid(child, &status, WNOHANG) == child) break;
            usleep(100000);
        }
    }
    uint32_t code = WIFEXITED(status) ? (uint32_t)WEXITSTATUS(status) : 128u + (uint32_t)WTERMSIG(status);
    if (there) put_frame(port, 'x', &code, 4);
    // The client closes once it has the status. A port that is handed on too early would show it this session's end.
    char rubbish;
    struct pollfd one = {port, POLLIN, 0};
    for (int tries = 0; there && tries < 100; tries++) {
        one.revents = 0;
        poll(&one, 1, 100);
        if (one.revents & POLLIN) {
            if (read(port, &rubbish, 1) <= 0) break;
        } else if (one.revents & (POLLHUP | POLLERR)) {
            break;
        }
    }
}

static int serve(const char *root, int wanted_ports) {
    int ports[most_ports];
    if (wanted_ports < 1 || wanted_ports > most_ports) return 125;
    pid_t sessions[most_ports] = {0};
    int count = 0, device = 0;
    sigset_t wanted;
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGIO);
    sigaddset(&wanted, SIGCHLD);
    sigprocmask(SIG_BLOCK, &wanted, NULL);
    signal(SIGPIPE, SIG_IGN);
    setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
    setenv("HOME", "/root", 1);
    setenv("LAB_SHARED", "/run/lab", 1);
    // The ports appear one by one after the driver was loaded. Their device's number depends on the others.
    for (int tries = 0; count < wanted_ports && tries < 600; tries++) {
        char path[64];
        snprintf(path, sizeof path, "/dev/vport%dp%d", device, count + 1);
        int port = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
        if (port < 0) {
            if (count == 0) device = (device + 1) % 16;
            if (count > 0 || device == 0) usleep(50000);
            continue;
        }
        // The driver says by SIGIO that a client came or went.
        fcntl(port, F_SETOWN, getpid());
        fcntl(port, F_SETFL, O_NONBLOCK | O_ASYNC);
        ports[count++] = port;
    }
    if (count < wanted_ports) fail("virtio serial ports are missing");
    for (;;) {
        for (pid_t ended; (ended = waitpid(-1, NULL, WNOHANG)) > 0;) {
            for (int i = 0; i < count; i++) {
                if (sessions[i] == ended) sessions[i] = 0;
            }
        }
        for (int i = 0; i < count; i++) {
            struct pollfd one = {ports[i], POLLIN, 0};
            if (sessions[i] != 0 || poll(&one, 1, 0) != 1 || !(one.revents & POLLIN) || (one.revents & POLLHUP))
                continue;
            pid_t child = fork();
            if (child == 0) {
                session(ports[i], root);
                _exit(0);
            }
            if (child > 0) sessions[i] = child;
        }
        struct timespec second = {1, 0};
        sigtimedwait(&wanted, NULL, &second);
    }
}

// --- Outside

// Takes a port that no other client holds. The locks lie beside the sockets and go with their holder.
static int take_port(const char *prefix, int count) {
    for (int round = 0; round < 600; round++) {
        int first = (int)(getpid() % count);
        for (int i = 0; i < count; i++) {
            int number = (first + i) % count + 1;
            char path[96];
            snprintf(path, sizeof path, "%s%d.lock", prefix, number);
            int lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
            if (lock < 0) fail(path);
            if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
                close(lock);
                continue;
            }
            struct sockaddr_un address = {.sun_family = AF_UNIX};
            snprintf(address.sun_path, sizeof address.sun_path, "%s%d", prefix, number);
            int port = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
            if (connect(port, (struct sockaddr *)&address, sizeof address) == 0) return port;
            close(port);
            close(lock);
            errno = ECONNREFUSED;
            fail("the host is not up");
        }
        usleep(100000);
    }
    errno = EBUSY;
    fail("every port of the host is taken");
    return -1;
}

static volatile sig_atomic_t signal_to_pass_on;
static void note_signal(int number) { signal_to_pass_on = number; }

static int execute(int argc, char **argv) {
    bool with_input = false;
    char *variables[64];
    int variable_count = 0;
    int at = 0;
    for (; at < argc && argv[at][0] == '-'; at++) {
        if (strcmp(argv[at], "-i") == 0) with_input = true;
        else if (strcmp(argv[at], "-e") == 0 && at + 1 < argc && variable_count < 60) variables[variable_count++] = argv[++at];
        else break;
    }
    if (argc - at < 5 || strcmp(argv[at + 3], "--") != 0) {
        fprintf(stderr, "usage: agent exec [-i] [-e NAME=VALUE]... SOCKET-PREFIX COUNT FOLDER -- COMMAND...\n");
        return 125;
    }
    const char *prefix = argv[at], *folder = argv[at + 2];
    int count = atoi(argv[at + 1]);
    if (count < 1) return 125;
    char *text = NULL;
    size_t size = 0;
    FILE *writer = open_memstream(&text, &size);
    fprintf(writer, "%s%c%d%c", folder, 0, variable_count, 0);
    for (int i = 0; i < variable_count; i++) fprintf(writer, "%s%c", variables[i], 0);
    for (int i = at + 4; i < argc; i++) fprintf(writer, "%s%c", argv[i], 0);
    fclose(writer);
    if (size > largest_command) {
        errno = E2BIG;
        fail("the command");
    }

    signal(SIGPIPE, SIG_IGN);
    int port = take_port(prefix, count);
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t rest[2] = {((uint64_t)getpid() << 40) ^ (uint64_t)now.tv_nsec ^ ((uint64_t)now.tv_sec << 30), size};
    char greeting[greeting_size];
    memcpy(greeting, start_magic, magic_size);
    memcpy(greeting + magic_size, rest, 16);
    uint64_t answer[2];
    errno = EPIPE;
    if (!put(port, greeting, sizeof greeting) || !put(port, text, size)
        || !find_greeting(port, ack_magic, rest[0], answer))
        fail("the host does not answer");
    if (!with_input) put_frame(port, 'c', NULL, 0);
    // Signals come in only while nothing is half written: in ppoll.
    static const int passed_on[] = {SIGTERM, SIGINT, SIGHUP};
    sigset_t blocked, before;
    sigemptyset(&blocked);
    for (int i = 0; i < 3; i++) {
        struct sigaction action = {.sa_handler = note_signal};
        sigaddset(&blocked, passed_on[i]);
        sigaction(passed_on[i], &action, NULL);
    }
    sigprocmask(SIG_BLOCK, &blocked, &before);

    static char buffer[chunk];
    for (;;) {
        struct pollfd both[2] = {{port, POLLIN, 0}, {with_input ? 0 : -1, POLLIN, 0}};
        if (ppoll(both, 2, NULL, &before) < 0) {
            if (errno != EINTR) fail("ppoll");
            char number = (char)signal_to_pass_on;
            signal_to_pass_on = 0;
            if (number != 0) put_frame(port, 's', &number, 1);
            continue;
        }
        if (both[1].revents != 0) {
            ssize_t n = read(0, buffer, 4096);
            if (n > 0) {
                put_frame(port, 'i', buffer, (uint32_t)n);
            } else {
                put_frame(port, 'c', NULL, 0);
                with_input = false;
            }
        }
        if (both[0].revents == 0) continue;
        char head[frame_size];
        uint32_t length;
        errno = EPIPE;
        if (!get(port, head, sizeof head)) fail("the host went away");
        memcpy(&length, head + 4, 4);
        if (length > chunk || !get(port, buffer, length)) fail("the host went away");
        if (head[0] == 'o') put(1, buffer, length);
        if (head[0] == 'e') put(2, buffer, length);
        if (head[0] == 'x' && length == 4) {
            uint32_t code;
            memcpy(&code, buffer, 4);
            return (int)code;
        }
    }
}

static int tsc_khz(void) {
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC_RAW, &from);
    uint64_t first = __rdtsc();
    usleep(200000);
    clock_gettime(CLOCK_MONOTONIC_RAW, &to);
    uint64_t ticks = __rdtsc() - first;
    int64_t nanoseconds = (to.tv_sec - from.tv_sec) * 1000000000LL + (to.tv_nsec - from.tv_nsec);
    printf("%llu\n", (unsigned long long)(ticks * 1000000ULL / (uint64_t)nanoseconds));
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "serve") == 0) return serve(argv[2], atoi(argv[3]));
    if (argc >= 2 && strcmp(argv[1], "exec") == 0) return execute(argc - 2, argv + 2);
    if (argc == 2 && strcmp(argv[1], "tsc-khz") == 0) return tsc_khz();
    fprintf(stderr, "usage: agent serve ROOT COUNT | exec ... | tsc-khz\n");
    return 125;
}
