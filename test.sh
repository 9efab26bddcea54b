#!/usr/bin/env bash
# ./test.sh          everything a change must pass, in under ten minutes on two cores
# ./test.sh --long   the long forms too: more seeds, more kills, more crash states
#
# Programs that the tests talk to come from Debian, mqtt.js from npm; they are
# installed where this may be done and named where it may not.
set -euo pipefail
cd "$(dirname "$0")"

long=
case "${1-}" in
"") ;;
--long) long=1 ;;
*) echo "usage: ./test.sh [--long]" >&2; exit 2 ;;
esac

step() { printf '\n== %s\n' "$*"; }

# --- what the tests need ------------------------------------------------------
need_commands=(gcc strace qemu-storage-daemon mkfs.ext4 losetup mosquitto mosquitto_pub mosquitto_sub mbpoll openssl promtool nginx node npm systemd-analyze lintian)
need_packages=(gcc strace qemu-system-common fuse3 e2fsprogs mount libc6-dev libmodbus-dev mosquitto mosquitto-clients mbpoll openssl prometheus nginx-light python3 python3-pymodbus python3-serial-asyncio python3-six python3-jsonschema python3-jinja2 systemd lintian)
# A Node.js from elsewhere has its npm with it and does not go with Debian's.
command -v npm >/dev/null || need_packages+=(nodejs npm)
python='import pymodbus, serial_asyncio, six, jsonschema, jinja2'

export PATH="$PATH:/usr/sbin:/sbin" # where Debian puts mosquitto

# The long run boots Debians, and emulates the processors of Pis.
if [ -n "$long" ]; then
	need_commands+=(debootstrap qemu-arm-static)
	need_packages+=(debootstrap qemu-user-static)
fi

missing() {
	local c
	for c in "${need_commands[@]}"; do command -v "$c" >/dev/null || echo "$c"; done
	/usr/bin/python3 -c "$python" 2>/dev/null || echo python3-pymodbus python3-jsonschema python3-jinja2
	[ -e /usr/include/modbus/modbus.h ] || echo libmodbus-dev
}

if [ -n "$(missing)" ]; then
	step "installing $(missing | tr '\n' ' ')"
	sudo=
	[ "$(id -u)" = 0 ] || sudo="sudo -n"
	if command -v apt-get >/dev/null; then
		log=$(mktemp)
		(
			export DEBIAN_FRONTEND=noninteractive
			$sudo apt-get update -q && $sudo apt-get install -q -y --no-install-recommends "${need_packages[@]}"
		) >"$log" 2>&1 || tail -20 "$log" >&2
		rm -f "$log"
	fi
	if [ -n "$(missing)" ]; then
		echo "test.sh: cannot test without: $(missing | tr '\n' ' ')" >&2
		echo "install: apt-get install ${need_packages[*]}" >&2
		exit 1
	fi
fi
command -v go >/dev/null || { echo "test.sh: Go is missing: https://go.dev/dl/" >&2; exit 1; }
export CGO_ENABLED=0

# --- what the code must look like ---------------------------------------------
step gofmt
unformatted=$(gofmt -l .)
[ -z "$unformatted" ] || { echo "not formatted: $unformatted" >&2; exit 1; }
step vet
go vet ./...
step staticcheck
go tool -modfile=tools/go.mod staticcheck ./...

# --- static builds for every Pi -----------------------------------------------
step "sandbox of the service"
systemd-analyze security --offline=yes --no-pager --threshold=15 systemd/gateway.service | tail -1

step builds
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for target in arm/6 arm64/ amd64/; do
	GOOS=linux GOARCH=${target%/*} GOARM=${target#*/} \
		go build -trimpath -ldflags="-s -w" -o "$out/gateway-${target%/*}" ./cmd/gateway
	echo "linux/${target%/*}: $(stat -c %s "$out/gateway-${target%/*}") bytes"
done

# --- the tests ----------------------------------------------------------------
packages() {
	step packages
	# The long run boots Debians with them where this is root, and says so where not.
	export CGO_ENABLED=0 GATEWAY_LONG=${long:+1}
	cd packaging || return
	unformatted=$(gofmt -l .) || return
	[ -z "$unformatted" ] || { echo "not formatted: $unformatted" >&2; return 1; }
	go vet ./... && go test -vet=off -count=1 ${long:+-v} -timeout 60m ./...
}

others() {
	step "tests with parsers and clients of others"
	cd tools/interop || return
	# They mostly wait for programs: more at once than there are cores.
	go vet ./... && go test -vet=off -count=1 -parallel 8 ./...
}

(
	cd tools/interop/clients/testdata/mqttjs
	[ node_modules/.package-lock.json -nt package-lock.json ] || npm ci --ignore-scripts --no-audit --no-fund
)

# Beside the tests of the product, which often wait; the figures of the long run
# are measured alone. What it says is shown when those are through.
beside=
if [ -z "$long" ]; then
	set -m # a process group of its own, so that nothing of it is left behind
	(
		failed=
		(packages) || failed=1
		(others) || failed=1
		[ -z "$failed" ]
	) >"$out/beside" 2>&1 </dev/null &
	beside=$!
	set +m
	trap 'kill -- "-$beside" 2>/dev/null || true; rm -rf "$out"' EXIT
fi

# The race detector needs cgo, and so gcc; the product never does.
step tests
failed=
if [ -n "$long" ]; then
	# Their figures go into docs/testing.md.
	CGO_ENABLED=1 GATEWAY_LONG=1 go test -race -vet=off -count=1 -v -timeout 80m ./... |
		grep -E '^(ok|FAIL|panic|WARNING)|^ *--- FAIL|^ +[a-z0-9_]+_test\.go:[0-9]+: ' || failed=1
	(packages) || failed=1
	(others) || failed=1
else
	CGO_ENABLED=1 go test -race -vet=off -count=1 -p 3 -parallel 6 -timeout 9m ./... || failed=1
	wait "$beside" || failed=1
	cat "$out/beside"
fi
[ -z "$failed" ] || { echo "test.sh: failed, see above" >&2; exit 1; }
