#!/bin/sh
# Installs the gateway on a Linux without dpkg; an older version is replaced, the
# configuration kept.
#
#   sudo ./install.sh            install or upgrade
#   sudo ./install.sh remove     stop and remove it; configuration and buffers stay
#
# PREFIX=/opt/gateway puts the command elsewhere than below /usr/local.
set -eu
cd "$(dirname "$0")"
prefix=${PREFIX:-/usr/local}
units=/etc/systemd/system

if [ "$(id -u)" != 0 ]; then
	echo "install.sh: run it as root: sudo $0" >&2
	exit 1
fi
systemd=
[ ! -d /run/systemd/system ] || systemd=yes

if [ "${1-}" = remove ]; then
	[ -z "$systemd" ] || systemctl disable --now gateway.service || true
	rm -f "$prefix/bin/gateway" "$units/gateway.service" /usr/lib/sysusers.d/gateway.conf
	rm -rf "$prefix/share/doc/gateway"
	[ -z "$systemd" ] || systemctl daemon-reload
	echo "Removed. /etc/gateway and /var/lib/gateway hold your configuration and what is"
	echo "buffered; delete them when you need neither."
	exit
elif [ $# -gt 0 ]; then
	echo "usage: $0 [remove]" >&2
	exit 2
fi

if ! ./gateway version >/dev/null; then
	echo "install.sh: this tarball is for another kind of processor than $(uname -m)" >&2
	exit 1
fi

# Renamed into place, for the old one may be running.
mkdir -p "$prefix/bin" "$prefix/share/doc/gateway"
cp gateway "$prefix/bin/gateway.new"
chmod 755 "$prefix/bin/gateway.new"
mv -f "$prefix/bin/gateway.new" "$prefix/bin/gateway"
cp -r README.md docs examples copyright "$prefix/share/doc/gateway/"

if ! id gateway >/dev/null 2>&1; then
	if command -v systemd-sysusers >/dev/null; then
		mkdir -p /usr/lib/sysusers.d
		cp gateway.sysusers /usr/lib/sysusers.d/gateway.conf
		systemd-sysusers gateway.conf
	elif command -v useradd >/dev/null; then
		useradd --system --user-group --no-create-home --home-dir /var/lib/gateway --shell /usr/sbin/nologin gateway
	else
		adduser -S -D -H -h /var/lib/gateway gateway # BusyBox
	fi
fi

mkdir -p /etc/gateway/devices.d /etc/gateway/credentials
chmod 750 /etc/gateway/credentials
chgrp gateway /etc/gateway/credentials 2>/dev/null || true
[ -e /etc/gateway/gateway.toml ] || cp gateway.toml /etc/gateway/gateway.toml
cp devices.d.README /etc/gateway/devices.d/README

wrong=
"$prefix/bin/gateway" check --quiet || wrong=yes

if [ -n "$systemd" ]; then
	sed "s|/usr/bin/gateway|$prefix/bin/gateway|g; s|/usr/share/doc|$prefix/share/doc|" gateway.service >"$units/gateway.service"
	if ! getent group dialout >/dev/null; then
		# Serial ports belong to uucp where there is no dialout.
		sed -i 's/^SupplementaryGroups=dialout/SupplementaryGroups=uucp/' "$units/gateway.service"
	fi
	systemctl daemon-reload
	systemctl enable gateway.service
	if [ -n "$wrong" ] && systemctl --quiet is-active gateway.service; then
		echo "The version from before goes on running. Correct the errors, then:"
		echo "  gateway check && sudo systemctl restart gateway"
	else
		systemctl restart gateway.service || true
	fi
else
	echo "There is no systemd here. Have your init system run, as the user gateway:"
	echo "  $prefix/bin/gateway run"
	echo "with /var/lib/gateway and, on a tmpfs, /run/gateway belonging to that user."
fi
echo "Next step, from the port to the first value: sudo gateway init"
