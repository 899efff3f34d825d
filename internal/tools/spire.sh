#!/usr/bin/env bash
# spire.sh DIR: builds spire-server and spire-agent into DIR, from cold caches in some ten minutes.
# SPIRE's module cannot be installed by version, and its requirements are no business of ours: they are
# taken from its own go.mod.
set -euo pipefail
version=v1.13.3
mkdir -p "$1"
bin=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
module=$(go mod download -json "github.com/spiffe/spire@$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
cp "$module/go.mod" "$module/go.sum" .
chmod u+w go.mod go.sum
go mod edit -module spire-build -require "github.com/spiffe/spire@$version"
for program in server agent; do
	echo "Building spire-$program"
	go build -mod=mod -trimpath -ldflags='-s -w' -o "$bin/spire-$program" "github.com/spiffe/spire/cmd/spire-$program"
done
