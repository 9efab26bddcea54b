#!/usr/bin/env bash
# broker/load/run.sh [FLAG...] MODE...    see main.go; as it stands it needs the
# mosquitto package. PROFILE=FILE builds a gateway that writes a CPU profile of
# three seconds there, for one figure: -only gateway -runs 1 -window 5s -shape 1-1.
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
			"runtime/pprof"
			"time"
		)

		func init() {
			f, err := os.Create(os.Getenv("PROFILE"))
			if err != nil {
				panic(err)
			}
			time.AfterFunc(time.Second, func() {
				pprof.StartCPUProfile(f)
				time.Sleep(3 * time.Second)
				pprof.StopCPUProfile()
				f.Close()
			})
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
