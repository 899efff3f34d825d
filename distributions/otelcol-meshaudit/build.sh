#!/usr/bin/env bash
# Builds _build/otelcol-meshaudit from builder-config.yaml and shows how far it
# is: from a cold cache this takes minutes. Without progress to show, `ocb
# --config builder-config.yaml` does the same.
#
#   build.sh OCB    OCB is the builder's binary
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
ocb=$1
log=_build/build.log
mkdir -p _build

# counted LABEL prints how many lines have come in, in place on a terminal and
# every hundred lines elsewhere.
counted() {
	local n=0
	while IFS= read -r _; do
		n=$((n + 1))
		if [ -t 1 ]; then
			printf '\r  %s: %d' "$1" "$n"
		elif [ $((n % 100)) -eq 0 ]; then
			printf '  %s: %d\n' "$1" "$n"
		fi
	done
	if [ -t 1 ] && [ "$n" -gt 0 ]; then printf '\n'; fi
}

failed() {
	echo "the build failed:" >&2
	tail -n 40 "$log" >&2
	exit 1
}

# ocb writes the program's source and its go.mod, and fetches modules.
if [ ! -f _build/main.go ] || [ builder-config.yaml -nt _build/main.go ] || [ go.mod -nt _build/main.go ]; then
	echo "  fetching the collector's modules"
	"$ocb" --config builder-config.yaml --skip-compilation >"$log" 2>&1 || failed
fi

packages=$(cd _build && go list -deps . 2>/dev/null | wc -l) || failed
cd _build
log=build.log
CGO_ENABLED=0 go build -v -trimpath -ldflags='-s -w' -o otelcol-meshaudit . 2>&1 | tee "$log" |
	counted "packages compiled, of $((packages))" || failed
