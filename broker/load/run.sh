#!/usr/bin/env bash
# broker/load/run.sh [FLAG...] MODE...    see main.go; as it stands it needs the
# mosquitto package. PROFILE=FILE builds a gateway that writes a CPU profile of
# its whole run there, for measuring with -only gateway.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PATH:/usr/sbin" CGO_ENABLED=0
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
overlay=
if [ -n "${PROFILE-}" ]; then
	cat >"$out/profile.go" <<-GO
		package main

		import (
			"os"
			"os/signal"
			"runtime/pprof"
			"syscall"
		)

		func init() {
			f, err := os.Create(os.Getenv("PROFILE"))
			if err != nil {
				panic(err)
			}
			stop := make(chan os.Signal, 1)
			signal.Notify(stop, syscall.SIGTERM)
			pprof.StartCPUProfile(f)
			go func() { <-stop; pprof.StopCPUProfile(); f.Close() }()
		}
	GO
	echo "{\"Replace\": {\"$PWD/cmd/gateway/profile_overlay.go\": \"$out/profile.go\"}}" >"$out/overlay.json"
	overlay="-overlay=$out/overlay.json"
	export PROFILE
fi
go build -trimpath $overlay -o "$out/gateway" ./cmd/gateway
go build -o "$out/load" ./broker/load
ulimit -n "$(ulimit -Hn)"
"$out/load" -gateway "${GATEWAY:-$out/gateway}" "$@"
