# The initramfs of Linux test guests: busybox, harness/guest/init, the workloads, and the modules of a VM that migratectl
# makes. Source it after kernel.sh and need_kernel.
# shellcheck shell=bash disable=SC2034 # GUEST_* are for the scripts that source this

# crc32c_generic: ext4 asks for it by an alias, which insmod does not follow.
GUEST_MODULES=(virtio_mmio virtio_pci virtio_blk virtio_net virtio_console virtio_balloon virtio-rng crc32c_generic ext4)
GUEST_TOOL=$LAB_CACHE/bin/guest-tool

# Sets GUEST_INITRAMFS; built again when a source changed.
build_guest_initramfs() {
    local folder source=$HARNESS_ROOT/harness/guest
    if [ -e "$GUEST_TOOL" ] && [ -n "$(find "$source"/*.h -newer "$GUEST_TOOL")" ]; then rm -f "$GUEST_TOOL"; fi
    build_static "$GUEST_TOOL" "$source"/*.c
    GUEST_INITRAMFS=$KERNEL_FOLDER/guest.cpio
    if [ -e "$GUEST_INITRAMFS" ] \
        && [ -z "$(find "$GUEST_TOOL" "$source/init" "${BASH_SOURCE[0]}" -newer "$GUEST_INITRAMFS")" ]; then
        return 0
    fi
    folder=$(mktemp -d "$LAB_CACHE/guest.XXXXXX")
    mkdir -p "$folder/bin"
    cp "$(command -v busybox)" "$folder/bin/busybox"
    cp "$GUEST_TOOL" "$folder/bin/guest-tool"
    cp "$source/init" "$folder/init"
    copy_modules "$folder" "${GUEST_MODULES[@]}"
    pack_initramfs "$folder" "$GUEST_INITRAMFS"
    rm -rf "$folder"
}
