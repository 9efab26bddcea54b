package config

import (
	"path/filepath"
	"strings"
	"testing"
)

// What other machines can reach is refused, and nothing listens unless asked to.
func TestWebListensOnThisMachineOnly(t *testing.T) {
	const reach, form = "other machines can reach", "is no address and port"
	for _, test := range []struct{ table, listen, fault string }{
		{"", "", ""},
		{"[web]\nlisten = \"127.0.0.1:9273\"\n", "127.0.0.1:9273", ""},
		{"[web]\nlisten = \"[::1]:9273\"\n", "[::1]:9273", ""},
		{"[web]\nlisten = \"localhost:80\"\n", "localhost:80", ""},
		{"[web]\nlisten = \":9273\"\n", "", reach},
		{"[web]\nlisten = \"0.0.0.0:9273\"\n", "", reach},
		{"[web]\nlisten = \"[::]:9273\"\n", "", reach},
		{"[web]\nlisten = \"192.168.1.5:9273\"\n", "", reach},
		{"[web]\nlisten = \"localhost.example:9273\"\n", "", reach},
		{"[web]\nlisten = \"127.0.0.1\"\n", "", form},
		{"[web]\nlisten = \"127.0.0.1:0\"\n", "", form},
		{"[web]\nlisten = \"127.0.0.1:http\"\n", "", form},
		{"[web]\nlisten = \"http://127.0.0.1:9273\"\n", "", "without the scheme"},
		{"[web]\nlisten = \"\"\n", "", form},
		{"[web]\n", "", "needs listen"},
	} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "gateway.toml"), "name = \"plant-a\"\n"+test.table)
		cfg, report := Load(dir, testOptions(nil))
		switch {
		case test.fault == "" && (cfg == nil || cfg.Web != test.listen):
			t.Errorf("%q: %s", test.table, report.Summary())
		case test.fault != "" && (cfg != nil || !strings.Contains(report.Err().Error(), test.fault)):
			t.Errorf("%q: %v, want %q", test.table, report.Err(), test.fault)
		}
	}
}
