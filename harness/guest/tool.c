// `guest-tool`: dispatch and helpers.

#include "tool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void fail(const char *what) {
    fprintf(stderr, "guest-tool: %s: %s\n", what, strerror(errno));
    exit(2);
}

const char *text_option(int argc, char **argv, const char *name, const char *otherwise) {
    size_t length = strlen(name);
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], name, length) == 0 && argv[i][length] == '=') return argv[i] + length + 1;
    }
    return otherwise;
}

long option(int argc, char **argv, const char *name, long otherwise) {
    const char *text = text_option(argc, argv, name, NULL);
    return text != NULL ? strtol(text, NULL, 10) : otherwise;
}

void fill(uint64_t *words, size_t count, uint64_t seed) {
    uint64_t state = seed * 0x9e3779b97f4a7c15ULL + 1;
    for (size_t i = 0; i < count; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        words[i] = state;
    }
}

uint64_t sum(const uint64_t *words, size_t count) {
    uint64_t total = 0x6a09e667f3bcc909ULL;
    for (size_t i = 0; i < count; i++) total = (total ^ words[i]) * 0x100000001b3ULL + (total >> 47);
    return total;
}

uint64_t monotonic_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

void publish(const char *path, const char *text) {
    char temporary[256];
    snprintf(temporary, sizeof temporary, "%s.new", path);
    FILE *file = fopen(temporary, "w");
    if (file == NULL) return;
    fputs(text, file);
    if (fclose(file) == 0) rename(temporary, path);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        int (*run)(int, char **);
    } commands[] = {
        {"memory", memory_main}, {"journal", journal_main}, {"check-journal", check_journal_main},
        {"serve", serve_main},   {"ask", ask_main},         {"clocks", clocks_main},
    };
    for (size_t i = 0; argc >= 2 && i < sizeof commands / sizeof commands[0]; i++) {
        if (strcmp(argv[1], commands[i].name) == 0) return commands[i].run(argc - 2, argv + 2);
    }
    fprintf(stderr, "usage: guest-tool memory|journal|check-journal|serve|ask|clocks [name=value]...\n");
    return 2;
}
