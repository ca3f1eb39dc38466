# Linux guests under migratectl, on the lab's hosts or on this machine: starting them, talking to them over their serial
# line, moving them. Source it after common.sh, kernel.sh and guest-initramfs.sh; LINUX_VM_PROGRAM is the program to use,
# SCRATCH a folder, and `on HOST COMMAND...` runs a command on a host.
# shellcheck shell=bash disable=SC2034 # VM_* are for the scripts that source this

# Waits until a file has a line that matches; fails, with what was said, when it takes too long or the process ends.
wait_for_line() { # wait_for_line FILE EXPRESSION SECONDS [PROCESS-ID]
    local file=$1 expression=$2 deadline=$((SECONDS + $3)) pid=${4-}
    until grep -qE -- "$expression" "$file" 2> /dev/null; do
        if [ -n "$pid" ] && ! kill -0 "$pid" 2> /dev/null; then
            grep -qE -- "$expression" "$file" 2> /dev/null && return 0
            say "The process ended before it said '$expression':"
            tail -n 15 "$file" "${file%.out}.err" >&2
            return 1
        fi
        if [ $SECONDS -ge $deadline ]; then
            say "Waited $3 s in vain for '$expression':"
            tail -n 15 "$file" "${file%.out}.err" >&2
            return 1
        fi
        sleep 0.2
    done
}

declare -A VM_INPUTS=() # the descriptor of each guest's serial line

# Starts migratectl on a host with the guest's serial line in files: $SCRATCH/NAME.out, and $SCRATCH/NAME.in to write to.
# Sets VM_PID (of the process here that stands for it) and adds it to the children.
start_vm() { # start_vm NAME HOST ARGUMENTS...
    local name=$1 host=$2 input=$SCRATCH/$1.in descriptor
    shift 2
    rm -f "$input" "$SCRATCH/$name".{out,err}
    mkfifo "$input"
    # Open for both ways: opening does not wait, and the reader sees no end while this script lives.
    exec {descriptor}<> "$input"
    on_with_input "$host" "$LINUX_VM_PROGRAM" "$@" --serial stdio <&"$descriptor" \
        > "$SCRATCH/$name.out" 2> "$SCRATCH/$name.err" &
    VM_PID=$!
    CHILDREN+=("$VM_PID")
    VM_INPUTS[$name]=$descriptor
}

# Types a line on the guest's serial line.
type_line() { # type_line NAME LINE
    printf '%s\n' "$2" >&"${VM_INPUTS[$1]}"
}

# The exit code of a VM's process, which must end within so many seconds. In VM_STATUS.
wait_for_end() { # wait_for_end PROCESS-ID SECONDS
    local deadline=$((SECONDS + $2))
    while kill -0 "$1" 2> /dev/null; do
        if [ $SECONDS -ge $deadline ]; then
            say "Process $1 does not end"
            return 1
        fi
        sleep 0.2
    done
    VM_STATUS=0
    wait "$1" || VM_STATUS=$?
}

# Makes a tap that is a port of the host's switch.
make_tap() { # make_tap HOST TAP
    on "$1" busybox sh -c "busybox tunctl -t $2 > /dev/null && busybox brctl addif br0 $2 && busybox ip link set $2 up"
}

# A field of `migratectl send`'s table.
send_field() { # send_field FILE NAME
    sed -n "s/^$2  *//p" "$1" | head -n 1
}
