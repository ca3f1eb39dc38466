# Functions that the scripts in harness/ share. Source it: it changes to the repository's root and defines, but
# starts nothing.
# shellcheck shell=bash disable=SC2034 # constants are for the scripts that source this

HARNESS_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$HARNESS_ROOT" || exit 1

# stdout is data, stderr is talk.
say() { printf '%s\n' "$*" >&2; }
heading() { printf '\n== %s\n' "$*" >&2; }
die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# What the build, the tests and the benchmark need beyond Swift and a C compiler.
BUILD_PACKAGES=(libxxhash-dev libzstd-dev liburing-dev pkg-config)
TEST_PACKAGES=("${BUILD_PACKAGES[@]}" qemu-system-x86 shellcheck busybox-static cpio gcc libc6-dev)

# Installs those of the named Debian packages that are missing, and says so; without the right to do that, says
# what to install and stops.
need_packages() {
    local package missing=()
    if ! command -v dpkg-query > /dev/null; then
        say "This is not Debian: make sure that you have the equivalents of: $*"
        return 0
    fi
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null || true)" = installed ] \
            || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0

    local -a as_root=()
    if [ "$(id -u)" != 0 ]; then
        if command -v sudo > /dev/null && sudo -n true 2> /dev/null; then
            as_root=(sudo -n)
        else
            die "missing Debian packages; install them and try again: sudo apt-get install ${missing[*]}"
        fi
    fi
    say "Installing Debian packages: ${missing[*]}"
    local log
    log=$(mktemp)
    if ! { "${as_root[@]}" apt-get update -q \
        && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -q --no-install-recommends "${missing[@]}"; } > "$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        die "could not install: ${missing[*]}"
    fi
    rm -f "$log"
}

need_swift() {
    command -v swift > /dev/null \
        || die "no swift in PATH; install Swift 6.2 or newer from https://www.swift.org/install/linux/"
}

# Where build_product leaves programs. Swift's runtime is linked in: such a program runs where no Swift is installed,
# starts in a third of the time and needs half the memory. (`swift test` cannot build so, hence the folder of its own.)
BUILD_FOLDER=.build-static
PROGRAMS=$BUILD_FOLDER/release

# Builds one product in release; prints nothing but errors.
build_product() {
    say "Building $1 (release)..."
    local log
    log=$(mktemp)
    if ! swift build -c release --static-swift-stdlib --scratch-path "$BUILD_FOLDER" --product "$1" > "$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        die "building $1 failed"
    fi
    rm -f "$log"
}

# True where VMs can run. Otherwise `kvm_problem` says why not, in one line.
kvm_problem() {
    if [ ! -e /dev/kvm ]; then
        printf '%s' "there is no /dev/kvm (no hardware virtualisation, or the kvm module is not loaded)"
    elif [ ! -r /dev/kvm ] || [ ! -w /dev/kvm ]; then
        printf '%s' "no right to open /dev/kvm (as root: usermod -aG kvm $(id -un), then log in again)"
    fi
}
have_kvm() { [ -z "$(kvm_problem)" ]; }

# Runs a script again where there is no /dev/kvm, and does not return. Needs root.
hide_kvm() { # hide_kvm SCRIPT
    [ "$(id -u)" = 0 ] || die "only root can hide /dev/kvm"
    # shellcheck disable=SC2016 # expanded by the inner shell
    exec unshare --mount bash -euc '
        new=$(mktemp -d)
        mount -t tmpfs -o mode=755 none "$new"
        for name in null zero full random urandom tty ptmx fd stdin stdout stderr; do cp -a "/dev/$name" "$new/"; done
        mkdir "$new/pts" "$new/shm"
        mount --bind /dev/pts "$new/pts"
        mount --bind /dev/shm "$new/shm"
        mount --move "$new" /dev
        exec "$1"' hide_kvm "$1"
}

# Processes that this script started, by id. They are ended, gently and then for good, when the script ends,
# however it ends; nothing else ever is.
CHILDREN=()
SCRATCH=

start_child() { # start_child OUTPUT-FILE COMMAND...; the id is in $CHILD
    local output=$1
    shift
    "$@" > "$output" 2>&1 &
    CHILD=$!
    CHILDREN+=("$CHILD")
}

stop_children() {
    local pid waited
    for pid in "${CHILDREN[@]}"; do kill -TERM "$pid" 2> /dev/null || true; done
    for pid in "${CHILDREN[@]}"; do
        waited=0
        while kill -0 "$pid" 2> /dev/null && [ $waited -lt 50 ]; do
            sleep 0.1
            waited=$((waited + 1))
        done
        kill -KILL "$pid" 2> /dev/null || true
        wait "$pid" 2> /dev/null || true
    done
    CHILDREN=()
    [ -z "$SCRATCH" ] || rm -rf "$SCRATCH"
}

# A scratch folder in $SCRATCH and the promise that everything started is ended.
tidy_up_at_exit() {
    SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/migratectl-harness.XXXXXX")
    trap stop_children EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}
