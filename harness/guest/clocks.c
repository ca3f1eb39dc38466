// Watches the clocks from every CPU: neither CLOCK_MONOTONIC nor CLOCK_REALTIME may ever go back, whichever CPU looks.
//
//     guest-tool clocks cpus=2 status=FILE
//
// The largest step between two looks is reported too: it holds the downtime, and what the scheduler adds to it.

#define _GNU_SOURCE
#include "tool.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int64_t latest[2], largest_step, back[2], largest_back;
static unsigned long looks;
static const clockid_t clocks[2] = {CLOCK_MONOTONIC, CLOCK_REALTIME};

static void look(void) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < 2; i++) {
        struct timespec now;
        clock_gettime(clocks[i], &now);
        int64_t value = now.tv_sec * 1000000000LL + now.tv_nsec, step = value - latest[i];
        if (latest[i] != 0 && step < 0) {
            back[i]++;
            if (-step > largest_back) largest_back = -step;
        }
        if (latest[i] != 0 && i == 0 && step > largest_step) largest_step = step;
        latest[i] = value;
    }
    looks++;
    pthread_mutex_unlock(&lock);
}

static void *watch(void *argument) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET((size_t)argument, &cpus);
    sched_setaffinity(0, sizeof cpus, &cpus);
    for (;;) {
        for (int i = 0; i < 20; i++) look();
        usleep(50000);
    }
    return NULL;
}

int clocks_main(int argc, char **argv) {
    const char *status = text_option(argc, argv, "status", "/dev/null");
    long count = option(argc, argv, "cpus", 1);
    for (long i = 0; i < count; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, watch, (void *)(size_t)i) != 0) fail("thread");
    }
    for (;;) {
        usleep(500000);
        char text[200];
        pthread_mutex_lock(&lock);
        snprintf(text, sizeof text, "looks=%lu monotonic_back=%lld realtime_back=%lld largest_back_us=%lld largest_step_ms=%lld\n",
            looks, (long long)back[0], (long long)back[1], (long long)largest_back / 1000, (long long)largest_step / 1000000);
        pthread_mutex_unlock(&lock);
        publish(status, text);
    }
}
