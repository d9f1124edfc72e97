#!/usr/bin/env bash
# A session with minirun on the embedded image: what `make run` shows. It keeps
# everything in a directory of its own and removes it at the end.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
bin=$PWD/bin
dir=$(mktemp -d "${TMPDIR:-/tmp}/minirun-demo.XXXXXX") || exit 1
export MINIRUN_STORE=$dir/store
failed=0

minirun() { "$bin/minirun" --root "$dir/state" "$@"; }

finish() {
	for id in demo web hog; do minirun delete --force "$id" >/dev/null 2>&1; done
	rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT TERM

if [ "$(id -u)" -ne 0 ]; then
	echo "minirun makes namespaces and mounts: run this as root (sudo make run)" >&2
	exit 1
fi

# show COMMAND...: print the command as a user would type it, and run it.
show() {
	printf '\n\033[1m# minirun %s\033[0m\n' "$*" | { [ -t 1 ] && cat || sed 's/\x1b\[[0-9]*m//g'; }
	minirun "$@"
}
must() {
	show "$@" || { echo "demo: minirun $1 failed" >&2; failed=1; }
}

echo "== a container from the image minirun/demo, which minirun makes of itself"
must run --image minirun/demo --rm demo

echo
echo "== what a process in it can see and do"
must run --image minirun/demo --rm demo sandbox >"$dir/sandbox" || failed=1
grep -E '^(hostname|pid|uid|gid|Cap(Eff|Bnd)|cap|no_new_privs|NoNewPrivs|seccomp|Seccomp|masked /proc/(kcore|keys)|root|readonly|writable|mount /:|mount /proc:)' "$dir/sandbox" | cut -c1-120

echo
echo "== detached: a web server, a second process in it, its log, its end"
must run --image minirun/demo --detach web httpd -p 8080
must list
must exec web id
must kill web TERM
for _ in $(seq 50); do minirun state web | grep -q '"stopped"' && break; sleep 0.1; done
must logs web
must delete web

echo
echo "== a limit: 32 MB of memory for a program that wants 256 MB"
show run --image minirun/demo --rm --memory 32m hog eat 256M
status=$?
case $status in
137) echo "(killed at the limit: exit status 137)" ;;
1) echo "(refused rather than run without the limit: exit status 1)" ;;
*) echo "demo: the limit had no effect, exit status $status" >&2; failed=1 ;;
esac

echo
echo "== what would happen, without doing it"
must explain --image minirun/demo demo >"$dir/plan"
sed -n '1,12p' "$dir/plan"; echo "  ..."; tail -n 1 "$dir/plan"
exit $failed
