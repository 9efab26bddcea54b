package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// docs/troubleshooting.md names messages that the program says.
func TestTroubleshootingTellsTheTruth(t *testing.T) {
	read, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(read)
	source := goSource(t)
	for _, pattern := range []string{"../../internal/*/*.go", "../../bridge/*.go", "../../broker/spool/*.go"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			code, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			source += string(code)
		}
	}
	for _, said := range []string{
		"no gateway is running", "never", "bytes come, but", "it answers, but broken", "is open in", "the kernel writes its messages to", "a login waits on",
		"no port", "have the same name", "may not open", "takes up to that much longer", "cannot be reached", "expired",
		"readings wait for the clock to be set", "no bridge of the configuration", "is mounted read-only", "everyone on this machine may read", "is neither in",
		"another gateway is running", "is newer than this program", "cannot listen at",
	} {
		if !strings.Contains(text, said) || !strings.Contains(source, said) {
			t.Errorf("%q is not both in the page and in the program", said)
		}
	}
}
