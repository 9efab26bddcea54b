package config

import (
	"net"
	"strconv"
	"strings"
)

const exampleWeb = "127.0.0.1:9273"

// readWeb reads where metrics and health are shown. Whoever reaches that place
// needs no password, so that other machines must not.
func (l *loader) readWeb(raw *rawWeb) {
	listen := raw.Listen
	if !listen.set() {
		if raw.at != nil && raw.at.child("listen") == nil {
			l.errorKey(raw.at, `[web] needs listen = "%s"`, exampleWeb)
		}
		return
	}
	host, port, err := net.SplitHostPort(listen.V)
	if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 {
		hint := ""
		if strings.Contains(listen.V, "://") {
			hint = ", without the scheme"
		}
		l.errorAt(listen.at, `%q is no address and port; write "%s"%s`, listen.V, exampleWeb, hint)
		return
	}
	if !loopback(host) {
		l.errorAt(listen.at, `other machines can reach %s, and nobody would have to prove who it is: listen at "127.0.0.1:%s" and put a reverse proxy with TLS and a password before it (docs/watching.md shows one)`, listen.V, port)
		return
	}
	l.cfg.Web, l.cfg.WebValues = listen.V, raw.Values.V
}
