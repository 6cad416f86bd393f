#!/bin/bash
# A stand-in for the docker command and its daemon: `run` starts a container that descends from nobody here, in a cgroup named as
# Docker names them where one can be made, and stays with it; TERM is passed on. State lies in $STAND_IN_DOCKER.
set -u
home=$STAND_IN_DOCKER
id=$(cat "$home/id")
cgroup=$(cat "$home/cgroup")

alive() { [ -s "$home/pid" ] && [ -d "/proc/$(cat "$home/pid")" ]; }

case "$1" in
run)
    printf '%s\n' "$@" > "$home/words"
    for word in "$@"; do
        case "$word" in --cidfile=*) printf '%s' "$id" > "${word#--cidfile=}" ;; esac
    done
    (setsid env -i PATH="$PATH" sh -c 'echo $$ > "$1/cgroup.procs"; echo $$ > "$0/pid"; exec sleep 1000' "$home" "$cgroup" \
        < /dev/null > /dev/null 2>&1 &)
    trap 'kill -TERM "$(cat "$home/pid")"' TERM
    until [ -s "$home/pid" ]; do sleep 0.02; done
    while alive; do
        [ -e "$home/leave" ] && exit 3
        sleep 0.02
    done
    exit 143
    ;;
stop | kill)
    printf '%s\n' "$*" >> "$home/ended"
    [ "${*: -1}" = "$id" ] && kill -KILL "$(cat "$home/pid")"
    ;;
esac
