#include "CHarness.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

union address {
    struct sockaddr any;
    struct sockaddr_in ip;
    struct sockaddr_un local;
};

static int new_socket(const char *path, uint16_t port, union address *address, socklen_t *size) {
    memset(address, 0, sizeof *address);
    if (path != NULL) {
        if (strlen(path) >= sizeof address->local.sun_path) {
            return -ENAMETOOLONG;
        }
        address->local.sun_family = AF_UNIX;
        strcpy(address->local.sun_path, path);
        *size = sizeof address->local;
    } else {
        address->ip.sin_family = AF_INET;
        address->ip.sin_port = htons(port);
        address->ip.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        *size = sizeof address->ip;
    }
    int descriptor = socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (descriptor < 0) {
        return -errno;
    }
    if (path != NULL) {
        // The default of a UNIX socket is less than one chunk. TCP grows by itself, and does so no more once asked.
        int bytes = 1 << 20;
        setsockopt(descriptor, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    }
    return descriptor;
}

static int failed(int descriptor) {
    int error = errno;
    close(descriptor);
    return -error;
}

int harness_listen(const char *path, uint16_t *port) {
    union address address;
    socklen_t size;
    int descriptor = new_socket(path, 0, &address, &size);
    if (descriptor < 0) {
        return descriptor;
    }
    if (bind(descriptor, &address.any, size) != 0 || listen(descriptor, 16) != 0
        || getsockname(descriptor, &address.any, &size) != 0) {
        return failed(descriptor);
    }
    *port = path == NULL ? ntohs(address.ip.sin_port) : 0;
    return descriptor;
}

int harness_accept(int listener) {
    int descriptor;
    do {
        descriptor = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    } while (descriptor < 0 && errno == EINTR && harness_caught_signal() == 0);
    return descriptor < 0 ? -errno : descriptor;
}

int harness_connect(const char *path, uint16_t port) {
    union address address;
    socklen_t size;
    int descriptor = new_socket(path, port, &address, &size);
    if (descriptor < 0) {
        return descriptor;
    }
    if (connect(descriptor, &address.any, size) != 0) {
        return failed(descriptor);
    }
    int one = 1;
    if (path == NULL) {
        setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    return descriptor;
}
