package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var pc = targets[2:]

func TestVersions(t *testing.T) {
	at := time.Date(2026, 11, 26, 1, 2, 3, 0, time.UTC)
	inOrder := []struct{ described, version string }{
		{"e7dac94", "0~20261126010203.ge7dac94"},
		{"v1.2.3-rc1-0-ge7dac94", "1.2.3~rc1"},
		{"v1.2.3-0-ge7dac94", "1.2.3"},
		{"v1.2.3-0-ge7dac94-dirty", "1.2.3+dirty"},
		{"v1.2.3-5-ge7dac94", "1.2.3+5.ge7dac94"},
		{"v1.2.4-0-ge7dac94", "1.2.4"},
	}
	for i, c := range inOrder {
		if got := versionOf(c.described, at); got != c.version {
			t.Errorf("%s gives %s, want %s", c.described, got, c.version)
		}
		if i == 0 {
			continue
		}
		before := inOrder[i-1].version
		if c.version == "1.2.3+5.ge7dac94" {
			before = "1.2.3" // what is not committed has no order
		}
		if err := exec.Command("dpkg", "--compare-versions", before+"-1", "lt", c.version+"-1").Run(); err != nil {
			t.Errorf("Debian does not take %s to be older than %s: %v", before, c.version, err)
		}
	}
}

// packageOf builds the packages of a version for PCs, with more in the packaged
// configuration, and returns the Debian one.
func packageOf(t *testing.T, version, more string) string {
	t.Helper()
	repo, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	b := &build{repo: repo, out: t.TempDir(), work: t.TempDir(), version: version, time: time.Unix(1_700_000_000, 0).UTC()}
	binary := filepath.Join(b.work, "binary")
	if err := b.compile(binary, pc[0]); err != nil {
		t.Fatal(err)
	}
	c, err := b.common(binary)
	if err != nil {
		t.Fatal(err)
	}
	c.config = append(c.config, more...)
	code, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	deb, err := b.deb(pc[0], code, c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.tarball(pc[0], code, c); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(b.out, deb)
}

// Two builds, from two folders, are the same bytes.
func TestBuildIsReproducible(t *testing.T) {
	t.Setenv("VERSION", "v1.2.3")
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	copied := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.CopyFS(copied, os.DirFS("..")); err != nil {
		t.Fatal(err)
	}
	one, two := t.TempDir(), t.TempDir()
	if err := run("..", one, pc); err != nil {
		t.Fatal(err)
	}
	if err := run(copied, two, pc); err != nil {
		t.Fatal(err)
	}
	made, err := os.ReadDir(one)
	if err != nil || len(made) != 4 {
		t.Fatalf("made %v: %v", made, err)
	}
	for _, e := range made {
		x, err := os.ReadFile(filepath.Join(one, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		y, err := os.ReadFile(filepath.Join(two, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(x, y) {
			t.Errorf("%s differs between two builds", e.Name())
		}
	}
	check := exec.Command("sha256sum", "--check", "--strict", "SHA256SUMS")
	check.Dir = two
	if _, err := output(check); err != nil {
		t.Error(err)
	}
	t.Run("SBOM", func(t *testing.T) {
		text, err := os.ReadFile(filepath.Join(one, "gateway_1.2.3_linux_amd64.cdx.json"))
		if err != nil {
			t.Fatal(err)
		}
		var bom struct {
			BOMFormat  string `json:"bomFormat"`
			Components []struct{ Name, Version string }
		}
		if err := json.Unmarshal(text, &bom); err != nil {
			t.Fatal(err)
		}
		found := map[string]string{}
		for _, c := range bom.Components {
			found[c.Name] = c.Version
		}
		if bom.BOMFormat != "CycloneDX" || found["go.bug.st/serial"] == "" || found["github.com/eclipse/paho.golang"] == "" {
			t.Errorf("%s with %v", bom.BOMFormat, found)
		}
	})
	t.Run("Debian package", func(t *testing.T) {
		deb := filepath.Join(one, "gateway_1.2.3-1_amd64.deb")
		list, err := output(exec.Command("dpkg-deb", "--contents", deb))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{
			"/usr/bin/gateway", "/usr/lib/systemd/system/gateway.service", "/usr/lib/sysusers.d/gateway.conf", "/etc/gateway/gateway.toml",
			"/etc/gateway/devices.d/README", "/usr/share/doc/gateway/copyright", "/usr/share/doc/gateway/examples/reference.toml",
			"/usr/share/doc/gateway/examples/observe/dashboard.json", "/usr/share/doc/gateway/docs/install.md", "/usr/share/doc/gateway/examples/gateway.rules", "/usr/share/man/man1/gateway.1.gz",
			"/usr/share/bash-completion/completions/gateway",
		} {
			if !strings.Contains(list+"\n", " ."+path+"\n") {
				t.Errorf("%s is missing in\n%s", path, list)
			}
		}
		if conffiles, err := output(exec.Command("dpkg-deb", "--info", deb, "conffiles")); err != nil || conffiles != "/etc/gateway/gateway.toml" {
			t.Errorf("conffiles %q: %v", conffiles, err)
		}
	})
	t.Run("lintian", func(t *testing.T) {
		lintian := exec.Command("lintian", "--fail-on", "error,warning", "--tag-display-limit", "0", "gateway_1.2.3-1_amd64.deb")
		lintian.Dir = one
		if _, err := exec.LookPath("lintian"); err != nil {
			t.Fatalf("%v (./test.sh installs what the tests need)", err)
		}
		if _, err := output(lintian); err != nil {
			said, _ := lintian.Output()
			t.Errorf("%v %s", err, said)
		}
	})
}

// The packaged configuration is right, and the command says of it what the next
// step is.
func TestPackagedConfiguration(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "gateway")
	b := &build{repo: "..", version: "1.0.0"}
	if err := b.compile(binary, pc[0]); err != nil {
		t.Fatal(err)
	}
	said, err := output(exec.Command(binary, "check", "gateway.toml"))
	if err != nil || !strings.Contains(said, "0 errors, 1 warning") || !strings.Contains(said, "devices.d") {
		t.Errorf("check says %q: %v", said, err)
	}
	// As it is when what it proposes is taken.
	text, err := os.ReadFile("gateway.toml")
	if err != nil {
		t.Fatal(err)
	}
	proposed := filepath.Join(t.TempDir(), "gateway.toml")
	taken := strings.NewReplacer("#name", "name", "#[", "[", "#address", "address", "#baud", "baud", "#format", "format").Replace(string(text))
	if err := os.WriteFile(proposed, []byte(taken), 0o644); err != nil {
		t.Fatal(err)
	}
	if said, err := output(exec.Command(binary, "check", proposed)); err != nil || !strings.Contains(said, "0 errors") {
		t.Errorf("check says %q of what is proposed: %v", said, err)
	}
}
