# Debian's kernel package, unpacked and never installed; module lists; static C programs; packing an initramfs. For the
# lab's emulated hosts and for the Linux guests of tests. Source it after common.sh.
# shellcheck shell=bash disable=SC2034 # KERNEL_* are for the scripts that source this

# Everything that is fetched or built for the lab lies here; git ignores it, and removing it costs a download.
LAB_CACHE=${MIGRATECTL_LAB_CACHE:-$HARNESS_ROOT/.lab}
KERNEL_PACKAGES=(busybox-static cpio)

# The newest stock kernel that the archive offers. 6.1 first: that is what the lab was tried with (docs/lab.md).
newest_kernel_package() {
    local all
    all=$(apt-cache search --names-only '^linux-image-[0-9][0-9.]*[+~a-z0-9.-]*-amd64$' 2> /dev/null \
        | cut -d ' ' -f 1 | grep -Ev -- '-(cloud|rt|unsigned|dbg)' | sort -V)
    grep -E '^linux-image-6\.1\.0-[0-9]+-amd64$' <<< "$all" | tail -n 1 | grep . || tail -n 1 <<< "$all" | grep . || true
}

# Sets KERNEL_FOLDER, KERNEL_RELEASE and KERNEL_IMAGE; fetches the package first where it is not there yet. Without an
# archive to ask, the newest one that was fetched before serves.
need_kernel() {
    local package folder
    mkdir -p "$LAB_CACHE"
    package=$(newest_kernel_package)
    if [ -z "$package" ]; then
        if [ "$(id -u)" = 0 ]; then
            say "apt-cache knows no kernel package: apt-get update"
            apt-get update -q > /dev/null || true
            package=$(newest_kernel_package)
        fi
        if [ -z "$package" ]; then
            package=$(cd "$LAB_CACHE" && printf '%s\n' linux-image-* | grep -v '[*.]part$\|\*' | sort -V | tail -n 1)
            [ -n "$package" ] || die "apt-cache shows no linux-image-...-amd64; try: sudo apt-get update"
            say "No package archive: using $package, which was fetched before"
        fi
    fi
    folder=$LAB_CACHE/$package
    if [ ! -e "$folder/complete" ]; then
        # Of a list that is some days old, the archive may have dropped the package.
        if [ "$(id -u)" = 0 ]; then
            apt-get update -q > /dev/null || true
            package=$(newest_kernel_package)
            folder=$LAB_CACHE/$package
        fi
        [ -e "$folder/complete" ] || fetch_kernel "$package" "$folder"
    fi
    KERNEL_FOLDER=$folder
    KERNEL_RELEASE=${package#linux-image-}
    KERNEL_IMAGE=$folder/boot/vmlinuz-$KERNEL_RELEASE
    [ -r "$KERNEL_IMAGE" ] || die "$folder holds no $KERNEL_IMAGE; remove that folder and try again"
}

fetch_kernel() { # fetch_kernel PACKAGE FOLDER
    local part=$2.part.$$
    rm -rf "$part"
    mkdir -p "$part"
    say "Fetching $1 (70 MB, once; kept in $LAB_CACHE)"
    if ! (cd "$part" && apt-get download -q "$1") > "$part.log" 2>&1; then
        cat "$part.log" >&2
        rm -rf "$part" "$part.log"
        die "cannot fetch $1; its archive may have moved on: sudo apt-get update"
    fi
    # What neither a host nor a guest of the lab can have is not unpacked.
    dpkg --fsys-tarfile "$part"/*.deb | tar -x -C "$part" --exclude='*/kernel/sound' \
        --exclude='*/kernel/drivers/gpu' --exclude='*/kernel/drivers/media' --exclude='*/kernel/drivers/infiniband' \
        --exclude='*/kernel/drivers/staging' --exclude='*/kernel/drivers/iio' --exclude='*/kernel/drivers/isdn' \
        --exclude='*/kernel/drivers/net/wireless' --exclude='*/kernel/drivers/net/ethernet' \
        --exclude='*/kernel/drivers/usb' --exclude='*/kernel/drivers/scsi' --exclude='*/usr'
    rm -f "$part"/*.deb "$part.log"
    # Newer Debians compress modules; insmod of busybox wants them plain.
    find "$part/lib/modules" -name '*.ko.xz' -exec unxz {} +
    busybox depmod -b "$part" "${1#linux-image-}"
    : > "$part/complete"
    rm -rf "$2"
    mv "$part" "$2" 2> /dev/null || rm -rf "$part" # somebody else was faster
    [ -e "$2/complete" ] || die "cannot write $2"
}

# Copies modules with all they depend on into FOLDER/modules, and writes FOLDER/modules/order: load from top to bottom.
# A module that this kernel has built in is left out.
copy_modules() { # copy_modules FOLDER NAME...
    local target=$1/modules base=$KERNEL_FOLDER/lib/modules/$KERNEL_RELEASE name line path file
    shift
    mkdir -p "$target"
    for name in "$@"; do
        line=$(grep -E "/${name//[-_]/[-_]}\\.ko:" "$base/modules.dep" || true)
        if [ -z "$line" ]; then
            grep -qE "/${name//[-_]/[-_]}\\.ko\$" "$base/modules.builtin" \
                || die "$KERNEL_RELEASE has no module $name"
            continue
        fi
        # modules.dep names what is needed in the order of unloading.
        # shellcheck disable=SC2086 # words
        for path in $(printf '%s\n' ${line#*:} | tac) "${line%%:*}"; do
            file=${path##*/}
            [ ! -e "$target/$file" ] || continue
            cp "$base/$path" "$target/$file"
            printf '%s\n' "$file" >> "$target/order"
        done
    done
}

# Compiles a program that needs no library where it runs.
build_static() { # build_static OUTPUT SOURCE...
    local output=$1 compiler
    shift
    compiler=$(command -v cc || command -v gcc || command -v clang) || die "no C compiler; install gcc"
    if [ -e "$output" ] && [ -z "$(find "$@" -newer "$output")" ]; then return 0; fi
    mkdir -p "$(dirname "$output")"
    "$compiler" -std=gnu11 -O2 -Wall -Wextra -Werror -static -o "$output.$$" "$@" || die "compiling $1 failed"
    mv "$output.$$" "$output"
}

# Packs a folder. Not compressed: the kernel would need longer to unpack it than to read it.
pack_initramfs() { # pack_initramfs FOLDER OUTPUT
    (cd "$1" && find . | cpio -o -H newc -R 0:0 --quiet) > "$2.$$"
    mv "$2.$$" "$2"
}
