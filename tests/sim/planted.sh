#!/bin/sh
# Plants each known mistake of tests/sim/planted/ into a copy of the tree, builds trireme-sim there, and looks for it.
#
#     tests/sim/planted.sh [--seeds COUNT] [--from-known] [NAME]...
#
# A mistake is found by the first seed, out of COUNT (500), that violates with it and does not without it.
# --from-known begins at the seed that the patch names (it found it once). Prints a table; exit 1 when one was not
# found, or a patch does not apply any more.
set -u

root=$(cd "$(dirname "$0")/../.." && pwd)
count=500
known=
while [ $# -gt 0 ]; do
    case $1 in
    --seeds) count=$2; shift 2 ;;
    --from-known) known=1; shift ;;
    *) break ;;
    esac
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
tree=$work/tree
mkdir "$tree"
(cd "$root" && if git rev-parse --git-dir >/dev/null 2>&1; then
    git ls-files --cached --others --exclude-standard
else
    find . -type f -not -path './build*'
fi) | while read -r file; do
    [ -f "$root/$file" ] && (cd "$root" && cp --parents -p "$file" "$tree")
done

build() {
    ninja -C "$work/build" trireme-sim >"$work/log" 2>&1 || { tail -20 "$work/log"; return 1; }
}

meson setup "$work/build" "$tree" --buildtype=debugoptimized -Dwerror=false >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
build || exit 1
cp "$work/build/trireme-sim" "$work/whole"

# Prints the first seed from $2 to $3 at which the scenario $1 fails in the build directory; nothing: none.
first_failure() {
    "$work/build/trireme-sim" --scenario "$1" --seed "$2" --seeds $(($3 - $2 + 1)) >"$work/out" 2>"$work/err"
    status=$?
    [ $status -eq 0 ] && return
    if [ $status -eq 1 ]; then
        sed -n 's/.* seed=\([0-9]*\) .*violations=[1-9].*/\1/p' "$work/out" | head -1
    else # It died: the seed is in its last words.
        sed -n 's/^trireme-sim: signal.* seed=\([0-9]*\) .*/\1/p' "$work/err" | head -1
    fi
}

why() {
    { sed -n 's/^  violation at [^:]*: //p' "$work/out"; grep -E 'assertion failed|^trireme-sim: signal' "$work/err"; } |
        head -1 | cut -c1-100
}

failed=0
printf '%-26s %-8s %6s %6s  %s\n' planted scenario seed runs 'found by'
for patch in "$root"/tests/sim/planted/*.patch; do
    name=$(basename "$patch" .patch)
    case " $* " in *" $name "* | "  ") ;; *) continue ;; esac
    scenario=$(sed -n 's/^Scenario: //p' "$patch")
    first=1
    [ -n "$known" ] && first=$(sed -n 's/^Seed: //p' "$patch")
    last=$((first + count - 1))
    if ! (cd "$tree" && patch -s -p1 --no-backup-if-mismatch <"$patch") || ! build; then
        printf '%-26s %-8s does not apply, or does not build\n' "$name" "$scenario"
        failed=1
    else
        seed=$(first_failure "$scenario" "$first" "$last")
        while [ -n "$seed" ] && ! "$work/whole" --scenario "$scenario" --seed "$seed" >/dev/null 2>&1; do
            [ "$seed" -ge "$last" ] && seed= && break
            seed=$(first_failure "$scenario" $((seed + 1)) "$last")
        done
        if [ -n "$seed" ]; then
            printf '%-26s %-8s %6s %6s  %s\n' "$name" "$scenario" "$seed" $((seed - first + 1)) "$(why)"
        else
            printf '%-26s %-8s %6s %6s  NOT FOUND\n' "$name" "$scenario" - "$count"
            failed=1
        fi
    fi
    (cd "$tree" && patch -s -R -p1 --no-backup-if-mismatch <"$patch" >/dev/null 2>&1)
done
exit $failed
