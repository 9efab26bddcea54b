package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// docs/troubleshooting.md names commands and flags that exist, messages that the
// program says, and chapters that are there.
func TestTroubleshootingTellsTheTruth(t *testing.T) {
	read, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(read)
	checkCommands(t, "docs/troubleshooting.md", text)
	commands := 0
	for _, m := range regexp.MustCompile("(?m)(?:^|`)(?:sudo )?gateway ([a-z][^`\n]*)").FindAllStringSubmatch(text, -1) {
		commands++
		words := strings.Fields(m[1])
		cmd, rest, err := newRoot().Find(words)
		if err != nil {
			t.Errorf("gateway %s: %v", m[1], err)
			continue
		}
		if len(rest) > 0 && cmd.HasSubCommands() {
			t.Errorf("gateway %s: there is no such command", m[1])
		}
		for _, word := range rest {
			if name, isFlag := strings.CutPrefix(word, "--"); isFlag && cmd.Flag(strings.Split(name, "=")[0]) == nil {
				t.Errorf("gateway %s: it has no %s", m[1], word)
			}
		}
	}
	if commands < 25 {
		t.Errorf("only %d commands are shown", commands)
	}

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

	chapter := regexp.MustCompile("(?m)^#+ (.*)$")
	for _, link := range regexp.MustCompile(`\]\(([\w.-]*)(?:#([\w-]+))?\)`).FindAllStringSubmatch(text, -1) {
		page := text
		if link[1] != "" {
			other, err := os.ReadFile("../../docs/" + link[1])
			if err != nil {
				t.Error(err)
				continue
			}
			page = string(other)
		}
		found := link[2] == ""
		for _, h := range chapter.FindAllStringSubmatch(page, -1) {
			name := regexp.MustCompile(`[^\w -]`).ReplaceAllString(strings.ToLower(h[1]), "")
			found = found || strings.ReplaceAll(name, " ", "-") == link[2]
		}
		if !found {
			t.Errorf("there is no chapter %s#%s", link[1], link[2])
		}
	}
}
