#!/bin/sh
# Run the same simulated clusters under two Pythons: every seed must give the same digest.
set -eu

digests() { # COMMAND
    "$1" sim --nodes 10 --minutes 0.5 --seed 1-4 2>/dev/null | awk '/^seed / { print $2, $NF }' | sort
}

scratch=$(mktemp)
trap 'rm -f "$scratch"' EXIT
digests "$2" >"$scratch" & # beside the first: neither uses more than a core
one=$(digests "$1")
wait $!
other=$(cat "$scratch")
if [ -z "$one" ] || [ "$one" != "$other" ]; then
    printf 'the runs differ\n%s:\n%s\n%s:\n%s\n' "$1" "$one" "$2" "$other" >&2
    exit 1
fi
printf '%s\n' "$one"
