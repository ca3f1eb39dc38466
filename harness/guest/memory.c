// Writes pages and checks each before it is written again.
//
//     guest-tool memory mib=16 rate=200 cpu=0 status=FILE
//
// A page holds its number, a generation, content that follows from both, and a sum over all of it. What generation a
// page should have is kept elsewhere, so that a page that agrees with itself but is old is noticed. SIGUSR1 has every
// page checked; the status file then says so (`verified`).

#define _GNU_SOURCE
#include "tool.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { page_words = 512 };

static uint64_t *pages;
static uint32_t *generations;
static size_t page_count;
static unsigned long wrong, checks, writes, verified;
static volatile sig_atomic_t verification_wanted;

static void want_verification(int number) {
    (void)number;
    verification_wanted++;
}

static uint64_t seed(size_t number, uint32_t generation) { return ((uint64_t)generation << 32) ^ (number + 1); }

static void write_page(size_t number) {
    uint64_t *page = pages + number * page_words;
    uint32_t generation = ++generations[number];
    fill(page + 3, page_words - 3, seed(number, generation));
    page[0] = number;
    page[1] = generation;
    page[2] = sum(page + 3, page_words - 3) ^ seed(number, generation);
    writes++;
}

static void check_page(size_t number) {
    const uint64_t *page = pages + number * page_words;
    uint32_t generation = generations[number];
    checks++;
    if (page[0] == number && page[1] == generation
        && page[2] == (sum(page + 3, page_words - 3) ^ seed(number, generation)))
        return;
    wrong++;
    printf("mk: memory wrong page %zu: holds %llu generation %llu, expected generation %u\n", number,
        (unsigned long long)page[0], (unsigned long long)page[1], generation);
    fflush(stdout);
}

int memory_main(int argc, char **argv) {
    long mib = option(argc, argv, "mib", 16), rate = option(argc, argv, "rate", 200);
    const char *status = text_option(argc, argv, "status", "/dev/null");
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET((size_t)option(argc, argv, "cpu", 0), &cpus);
    sched_setaffinity(0, sizeof cpus, &cpus);
    signal(SIGUSR1, want_verification);
    page_count = (size_t)mib * 256;
    pages = mmap(NULL, page_count * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    generations = calloc(page_count, sizeof *generations);
    if (pages == MAP_FAILED || generations == NULL) fail("memory");
    for (size_t i = 0; i < page_count; i++) write_page(i);

    uint64_t random = 88172645463325252ULL, last_published = 0;
    int verifications = 0;
    for (;;) {
        // Some twenty bursts a second: a short burst at each tick would cost more in timers than in work.
        for (long i = 0; i < rate / 20 + 1; i++) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            size_t number = (size_t)(random % page_count);
            check_page(number);
            write_page(number);
        }
        if (verifications != verification_wanted) {
            verifications = verification_wanted;
            for (size_t i = 0; i < page_count; i++) check_page(i);
            verified++;
            last_published = 0;
        }
        uint64_t now = monotonic_nanoseconds();
        if (now - last_published > 1000000000ULL) {
            last_published = now;
            char text[160];
            snprintf(text, sizeof text, "pages=%zu writes=%lu checks=%lu wrong=%lu verified=%lu\n", page_count, writes,
                checks, wrong, verified);
            publish(status, text);
        }
        usleep(50000);
    }
}
