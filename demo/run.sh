#!/usr/bin/env bash
# What `make run` does once everything is built: start the collector, let the
# demo mesh report to it, show the audit records, verify the log, and show that
# an edit of one byte is found.
#
#   ONCE=1             stop at the end, even on a terminal
#   MESHAUDIT_RUN_DIR  where the log goes, default run
#   MESHAUDIT_*_PORT   ports on 127.0.0.1, see below
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

collector=${MESHAUDIT_COLLECTOR:-_build/otelcol-meshaudit}
meshaudit=${MESHAUDIT_CLI:-bin/meshaudit}
config=distributions/otelcol-meshaudit/try-out.yaml
run=${MESHAUDIT_RUN_DIR:-run}
typed=${meshaudit#"$PWD"/} # as a person types it
log=$run/collector.log

# The story makes this many calls, and each becomes one record.
calls=26

export MESHAUDIT_OTLP_GRPC_PORT=${MESHAUDIT_OTLP_GRPC_PORT:-24317}
export MESHAUDIT_OTLP_HTTP_PORT=${MESHAUDIT_OTLP_HTTP_PORT:-24318}
export MESHAUDIT_ALS_PORT=${MESHAUDIT_ALS_PORT:-24319}
export MESHAUDIT_OPA_PORT=${MESHAUDIT_OPA_PORT:-24320}
export MESHAUDIT_HEALTH_PORT=${MESHAUDIT_HEALTH_PORT:-24321}
export MESHAUDIT_METRICS_PORT=${MESHAUDIT_METRICS_PORT:-24322}
export MESHAUDIT_STORE=$run/store

die() {
	echo "make run: $*" >&2
	exit 1
}
title() { printf '\n== %s\n' "$*"; }

# answers PORT: somebody listens there.
answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# healthy: the collector's health check says 200.
healthy() {
	(
		exec 3<>"/dev/tcp/127.0.0.1/$MESHAUDIT_HEALTH_PORT"
		printf 'GET / HTTP/1.0\r\n\r\n' >&3
		IFS= read -r status <&3
		[[ $status == *" 200 "* ]]
	) 2>/dev/null
}

collector_pid=
stop_collector() {
	[ -n "$collector_pid" ] || return 0
	kill -TERM "$collector_pid" 2>/dev/null || true
	wait "$collector_pid" || { collector_pid= && die "the collector did not stop cleanly, see $log"; }
	collector_pid=
}
cleanup() { # whatever happened, leave nothing running
	[ -z "$collector_pid" ] || kill -TERM "$collector_pid" 2>/dev/null || true
}
trap cleanup EXIT

for port in MESHAUDIT_OTLP_GRPC_PORT MESHAUDIT_OTLP_HTTP_PORT MESHAUDIT_ALS_PORT MESHAUDIT_OPA_PORT \
	MESHAUDIT_HEALTH_PORT MESHAUDIT_METRICS_PORT; do
	! answers "${!port}" || die "port ${!port} on 127.0.0.1 is in use (another make run?); choose another with $port=..."
done

# Each run gets a fresh log; the ones before stay.
if [ -e "$run/store" ] || [ -e "$run/keys" ]; then
	n=1
	while [ -e "$run/earlier/$n" ]; do n=$((n + 1)); done
	mkdir -p "$run/earlier/$n"
	for item in store keys tampered collector.log; do
		[ ! -e "$run/$item" ] || mv "$run/$item" "$run/earlier/$n/"
	done
	echo "The log of the run before is now in $run/earlier/$n."
fi
mkdir -p "$run"

title "The collector starts ($config)"
"$collector" --config "$config" >"$log" 2>&1 &
collector_pid=$!
deadline=$((SECONDS + 30))
until healthy; do
	if ! kill -0 "$collector_pid" 2>/dev/null; then
		collector_pid=
		tail -n 20 "$log" >&2
		die "the collector stopped at once, see above and $log"
	fi
	[ $SECONDS -lt $deadline ] || die "the collector is not healthy after 30 s, see $log"
	sleep 0.1
done
echo "It logs to $log and made its keys in $run/keys."

title "A small mesh goes to work"
bin/demo --otlp "127.0.0.1:$MESHAUDIT_OTLP_GRPC_PORT" --als "127.0.0.1:$MESHAUDIT_ALS_PORT" \
	--opa "http://127.0.0.1:$MESHAUDIT_OPA_PORT"

records() { "$meshaudit" query "$run/store" --event mesh.request -o json 2>/dev/null | wc -l; }
deadline=$((SECONDS + 60))
until [ "$(records)" -ge "$calls" ]; do
	[ $SECONDS -lt $deadline ] || die "$(records) of $calls records came out within a minute, see $log"
	sleep 0.2
done

serve=
[ -n "${ONCE:-}" ] || [ ! -t 0 ] || [ ! -t 1 ] || serve=yes
[ -n "$serve" ] || stop_collector

title "The audit records: $typed query $run/store"
"$meshaudit" query "$run/store"

verify="$typed verify $run/store --trust $run/keys/trust --auditor $run/keys/auditor.key"
title "The proof: $verify"
"$meshaudit" verify "$run/store" --trust "$run/keys/trust" --auditor "$run/keys/auditor.key" ||
	die "verify says $? of a log that nobody touched"

# flip FILE OFFSET changes the lowest bit of one byte.
flip() {
	local byte
	byte=$(od -An -tu1 -j "$2" -N 1 "$1")
	# shellcheck disable=SC2059 # the byte is the format
	printf "\\x$(printf '%02x' $((byte ^ 1)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

rm -rf "$run/tampered"
cp -R "$run/store" "$run/tampered"
segment=$(find "$run/tampered" -name '*.seal' | sort | head -n 1)
offset=$(($(wc -c <"$segment") / 2))
flip "$segment" "$offset"
title "One bit of a copy is flipped: byte $offset of $segment"
found=0
"$meshaudit" verify "$run/tampered" --trust "$run/keys/trust" --auditor "$run/keys/auditor.key" || found=$?
[ $found -eq 1 ] || die "verify answers $found to an edited log, it must be 1"

title "What is left"
cat <<TXT
  $run/store              the sealed log
  $run/keys/trust         what a verifier has to trust; to hand out
  $run/keys/auditor.key   the auditor's key; in earnest it is kept elsewhere
  $run/tampered           the edited copy
TXT
[ -n "$serve" ] || exit 0

title "The collector keeps serving; Ctrl-C stops it"
cat <<TXT
  Send it OTLP:      OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:$MESHAUDIT_OTLP_GRPC_PORT (gRPC), :$MESHAUDIT_OTLP_HTTP_PORT (HTTP)
  Envoy access logs: 127.0.0.1:$MESHAUDIT_ALS_PORT (ALS v3, gRPC)
  OPA decision logs: http://127.0.0.1:$MESHAUDIT_OPA_PORT

  Try next, in another terminal:
    $typed query $run/store --verdict deny
    $typed query $run/store --to '*/sa/payments' -o json
    $typed show $run/store
    $verify
TXT
trap stop_collector INT TERM
wait "$collector_pid" || true
trap - INT TERM
