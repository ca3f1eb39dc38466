#include "CHarness.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>
#include <x86intrin.h>

static volatile sig_atomic_t caught;

static void remember(int number) { caught = number; }

void harness_catch_signals(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = remember; // without SA_RESTART: waits end at once
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL);
}

int harness_caught_signal(void) { return caught; }

uint64_t harness_tsc(void) { return __rdtsc(); }

pid_t harness_spawn(
    const char *path, char *const *arguments, char *const *environment, int input, int output, int error) {
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid < 0) {
        return -errno;
    }
    if (pid > 0) {
        return pid;
    }
    // From here to exec only calls that are safe between fork and exec.
    setpgid(0, 0); // Ctrl-C reaches the harness, which stops its children in order
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) {
        _exit(127);
    }
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = SIG_DFL;
    sigaction(SIGPIPE, &action, NULL); // an ignored signal would stay ignored
    if (dup2(input, 0) < 0 || dup2(output, 1) < 0 || dup2(error, 2) < 0) {
        _exit(127);
    }
    for (int descriptor = 3; descriptor < 256; descriptor++) {
        close(descriptor);
    }
    execve(path, arguments, environment);
    _exit(127);
}
