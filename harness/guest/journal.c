// A journal of numbered, checksummed records on a disk (or in a file), written by several threads at once so that
// requests are in flight when the VM is stopped; and its checker, which also runs outside, on the raw image.
//
//     guest-tool journal disk=/dev/vda status=FILE lanes=4 slots=64 rate=50 [stop=FILE]
//     guest-tool check-journal disk=FILE [synced=N,N,N,N]
//
// Block 0 says how many lanes and slots there are. Record n of a lane goes to slot n mod slots of that lane, so a slot
// is written again soon: a request that is done a second time, later, leaves an old record where a newer one should be.
// A record is 4 KiB: magic, lane, number, content that follows from both, sum. Records are written with O_DIRECT, eight
// between two flushes; `synced` in the status file counts, lane by lane, records that a flush has made durable, and so
// must be found whatever happens to the guest. Before a slot is written again, its old record is read and checked.

#define _GNU_SOURCE
#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { block = 4096, words = block / 8, most_lanes = 16, batch = 8 };
static const uint64_t head_magic = 0x314c4e524a4b4d00ULL, record_magic = 0x31434552524b4d00ULL;

static int disk;
static long lanes, slots, rate;
static uint64_t synced[most_lanes], wrong[most_lanes];
static volatile bool stopping;
static bool stopped[most_lanes];

static off_t place(long lane, uint64_t number) {
    return (off_t)block * (1 + lane * slots + (off_t)(number % (uint64_t)slots));
}

static void make_record(uint64_t *record, long lane, uint64_t number) {
    fill(record + 3, words - 4, number * most_lanes + (uint64_t)lane);
    record[0] = record_magic;
    record[1] = (uint64_t)lane;
    record[2] = number;
    record[words - 1] = sum(record, words - 1);
}

// Empty: nothing was ever written. Torn: does not agree with itself. Otherwise its number.
enum { record_empty = -1, record_torn = -2 };
static int64_t number_of(const uint64_t *record, long lane) {
    bool zero = true;
    for (int i = 0; zero && i < words; i++) zero = record[i] == 0;
    if (zero) return record_empty;
    if (record[0] != record_magic || record[1] != (uint64_t)lane || record[words - 1] != sum(record, words - 1))
        return record_torn;
    return (int64_t)record[2];
}

static void complain(long lane, const char *what, uint64_t number, int64_t found) {
    wrong[lane]++;
    printf("mk: journal lane %ld: %s of record %llu: %lld %s\n", lane, what, (unsigned long long)number,
        (long long)found, errno != 0 ? strerror(errno) : "");
    fflush(stdout);
}

static void *write_lane(void *argument) {
    long lane = (long)argument;
    uint64_t *record = aligned_alloc(block, block);
    if (record == NULL) fail("memory");
    for (uint64_t number = 0; !stopping; number++) {
        errno = 0;
        if (number >= (uint64_t)slots) {
            ssize_t n = pread(disk, record, block, place(lane, number));
            int64_t found = n == block ? number_of(record, lane) : -3;
            if (found != (int64_t)number - slots) complain(lane, "read before the rewrite", number, found);
        }
        make_record(record, lane, number);
        ssize_t n = pwrite(disk, record, block, place(lane, number));
        if (n != block) complain(lane, "write", number, n);
        if (number % batch == batch - 1) {
            if (fdatasync(disk) != 0) complain(lane, "flush", number, -1);
            else synced[lane] = number + 1;
            usleep((useconds_t)(1000000 * batch / rate));
        }
    }
    if (fdatasync(disk) != 0) complain(lane, "flush", 0, -1);
    stopped[lane] = true;
    return NULL;
}

static void publish_status(const char *path) {
    char text[512] = "synced=";
    uint64_t total_wrong = 0;
    for (long lane = 0; lane < lanes; lane++) {
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%llu", lane > 0 ? "," : "",
            (unsigned long long)synced[lane]);
        total_wrong += wrong[lane];
    }
    snprintf(text + strlen(text), sizeof text - strlen(text), " wrong=%llu\n", (unsigned long long)total_wrong);
    publish(path, text);
}

int journal_main(int argc, char **argv) {
    const char *path = text_option(argc, argv, "disk", "/dev/vda"), *stop = text_option(argc, argv, "stop", "");
    const char *status = text_option(argc, argv, "status", "/dev/null");
    lanes = option(argc, argv, "lanes", 4);
    slots = option(argc, argv, "slots", 64);
    rate = option(argc, argv, "rate", 50);
    if (lanes < 1 || lanes > most_lanes || slots < batch || rate < 1) {
        errno = EINVAL;
        fail("lanes, slots or rate");
    }
    disk = open(path, O_RDWR | O_DIRECT | O_CREAT, 0600);
    if (disk < 0) fail(path);
    uint64_t *head = aligned_alloc(block, block);
    if (head == NULL) fail("memory");
    memset(head, 0, block);
    // What an earlier run left there is none of ours.
    for (long i = 0; i <= lanes * slots; i++) {
        if (pwrite(disk, head, block, (off_t)block * i) != block) fail("clearing the disk");
    }
    head[0] = head_magic;
    head[1] = (uint64_t)lanes;
    head[2] = (uint64_t)slots;
    if (pwrite(disk, head, block, 0) != block || fdatasync(disk) != 0) fail("writing the journal's head");
    for (long lane = 0; lane < lanes; lane++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, write_lane, (void *)lane) != 0) fail("thread");
    }
    for (;;) {
        usleep(500000);
        if (stop[0] != 0 && access(stop, F_OK) == 0) stopping = true;
        bool all = true;
        for (long lane = 0; lane < lanes; lane++) all = all && stopped[lane];
        publish_status(status);
        if (all) return 0;
    }
}

int check_journal_main(int argc, char **argv) {
    const char *path = text_option(argc, argv, "disk", ""), *promised = text_option(argc, argv, "synced", "");
    disk = open(path, O_RDONLY | O_DIRECT);
    if (disk < 0) disk = open(path, O_RDONLY); // a file system without O_DIRECT
    if (disk < 0) fail(path);
    uint64_t *record = aligned_alloc(block, block);
    if (record == NULL || pread(disk, record, block, 0) != block) fail("reading the journal's head");
    lanes = (long)record[1];
    slots = (long)record[2];
    if (record[0] != head_magic || record[1] < 1 || record[1] > most_lanes || record[2] < batch || record[2] > 1 << 20) {
        printf("journal: no journal begins here\n");
        return 1;
    }
    uint64_t problems = 0, records = 0;
    for (long lane = 0; lane < lanes; lane++) {
        uint64_t durable = *promised != 0 ? strtoull(promised, (char **)&promised, 10) : 0;
        if (*promised == ',') promised++;
        int64_t *found = calloc((size_t)slots, sizeof *found), highest = record_empty;
        if (found == NULL) fail("memory");
        for (long slot = 0; slot < slots; slot++) {
            if (pread(disk, record, block, place(lane, (uint64_t)slot)) != block) fail("reading a record");
            found[slot] = number_of(record, lane);
            if (found[slot] > highest) highest = found[slot];
            if (found[slot] >= 0 && found[slot] % slots != slot) found[slot] = record_torn;
        }
        // Records are written one after the other: all up to the highest are there. The one after it may be half written
        // where the guest was killed (a 4 KiB write is not promised to be whole).
        for (int64_t number = highest < slots ? 0 : highest - slots + 1; number <= highest; number++) {
            int64_t here = found[number % slots];
            records++;
            if (here == number || (here == record_torn && number == highest - slots + 1)) continue;
            problems++;
            printf("journal: lane %ld: record %lld is %s (%lld)\n", lane, (long long)number,
                here == record_torn ? "torn" : here == record_empty ? "lost" : "replaced by an older one", (long long)here);
        }
        if (highest + 1 < (int64_t)durable) {
            problems++;
            printf("journal: lane %ld: %llu records were flushed, %lld are there\n", lane, (unsigned long long)durable,
                (long long)(highest + 1));
        }
        printf("journal: lane %ld: %lld records written, %llu of them known to be flushed\n", lane, (long long)(highest + 1),
            (unsigned long long)durable);
        free(found);
    }
    printf("journal: %llu records looked at, %llu problems\n", (unsigned long long)records, (unsigned long long)problems);
    return problems == 0 ? 0 : 1;
}
