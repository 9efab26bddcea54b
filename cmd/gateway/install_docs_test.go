package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// What docs/install.md shows is right: the files it copies, what it quotes of the log, and the times it gives.
func TestInstallTellsTheTruth(t *testing.T) {
	read, err := os.ReadFile("../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(read)
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
