package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What docs/install.md shows is right: its configuration, its commands, the files
// it copies, what it quotes of the log, and the times it gives.
func TestInstallTellsTheTruth(t *testing.T) {
	read, err := os.ReadFile("../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	text, dir := string(read), t.TempDir()
	blocks := regexp.MustCompile("(?s)```toml\n# /etc/gateway/(\\S+)\n(.*?)```").FindAllStringSubmatch(text, -1)
	if len(blocks) != 2 {
		t.Fatalf("%d TOML blocks, this test knows 2", len(blocks))
	}
	for _, b := range blocks {
		writeFile(t, filepath.Join(dir, b[1]), b[2])
	}
	if err := check(&options{}, dir, false, true, false); err != nil {
		t.Errorf("its configuration: %v", err)
	}
	checkCommands(t, "docs/install.md", text)
	contents, err := os.ReadFile("../../packaging/contents.go")
	if err != nil {
		t.Fatal(err)
	}
	files := regexp.MustCompile(`examples/([\w.]+)`).FindAllStringSubmatch(text, -1)
	for _, f := range files {
		if !strings.Contains(string(contents), `"examples/`+f[1]+`"`) {
			t.Errorf("the packages hold no examples/%s", f[1])
		}
	}
	if len(files) < 4 {
		t.Errorf("only %d files are named", len(files))
	}
	source := goSource(t)
	for _, said := range []string{"takes long to come round", "this part hangs", "Another keeper of the time"} {
		if !strings.Contains(text, said) || !strings.Contains(source, said) {
			t.Errorf("%q is not both in the page and in the program", said)
		}
	}
	if got := []float64{busAllowance.Minutes(), bridgeAllowance.Minutes(), spoolAllowance.Minutes(), otherAllowance.Minutes()}; got[0] != 2 || got[1] != 2 || got[2] != 5 || got[3] != 1 {
		t.Errorf("the allowances are %v minutes, the page says 2, 2, 5 and 1", got)
	}
	unit, err := os.ReadFile("../../systemd/gateway.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"MemoryMax=256M", "DeviceAllow=char-188 rw", "RuntimeDirectoryPreserve=yes", "WatchdogSec="} {
		if !strings.Contains(string(unit), line) {
			t.Errorf("the unit has no %s any more", line)
		}
	}
}
