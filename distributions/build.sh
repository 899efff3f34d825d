#!/usr/bin/env bash
# Builds with progress to look at: from cold caches this takes minutes.
#
#   build.sh program DIR PACKAGE OUT   go build of one program, from the module in DIR
#   build.sh collector OCB             _build/otelcol-meshaudit, with the builder OCB;
#                                      `ocb --config builder-config.yaml` gives the same
#
# OUT is relative to the repository's root, PACKAGE to DIR.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

log=$(mktemp)
trap 'rm -f "$log"' EXIT

failed() {
	cat "$log" >&2
	echo "the build failed, see above" >&2
	exit 1
}

# show TEXT: in place on a terminal, else one line each time.
show() {
	if [ -t 1 ]; then printf '\r  %s\033[K' "$1"; else printf '  %s\n' "$1"; fi
}
done_showing() { [ ! -t 1 ] || printf '\r\033[K'; }

# counted says how many packages are compiled as `go build -v` names them.
counted() {
	local n=0 line
	while IFS= read -r line; do
		case $line in
		"go: downloading "*) show "${line#go: }" ;;
		*)
			n=$((n + 1))
			if [ -t 1 ] || [ $((n % 200)) -eq 0 ]; then show "$n packages compiled"; fi
			;;
		esac
	done
	done_showing
}

program() {
	local dir=$1 package=$2 out=$3
	(cd "$dir" && CGO_ENABLED="${CGO_ENABLED:-0}" go build -v -trimpath -ldflags='-s -w' -o "$root/$out" "$package") 2>&1 |
		tee "$log" | counted || failed
}

collector() {
	local ocb=$1 started=$SECONDS pid
	mkdir -p _build
	if [ ! -f _build/go.sum ] || [ builder-config.yaml -nt _build/go.sum ] || [ go.mod -nt _build/go.sum ]; then
		"$ocb" --config builder-config.yaml --skip-compilation >"$log" 2>&1 &
		pid=$!
		while kill -0 $pid 2>/dev/null; do
			if [ -t 1 ] || [ $(((SECONDS - started) % 20)) -eq 5 ]; then
				show "fetching the collector's modules, $((SECONDS - started)) s"
			fi
			sleep 1
		done
		wait $pid || failed
		touch _build/go.sum
		done_showing
	fi
	program _build . _build/otelcol-meshaudit
}

"$@"
