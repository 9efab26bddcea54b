package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The configuration that the README builds up, step by step, is right at each
// step, and the commands it shows exist.
func TestReadmeTellsTheTruth(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	steps := []string{"gateway.toml", "devices.d/meters.toml", "devices.d/boiler.toml", "devices.d/boiler.toml", "gateway.toml"}
	blocks := regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) != len(steps) {
		t.Fatalf("%d TOML blocks in the README, this test knows %d", len(blocks), len(steps))
	}
	for i, file := range steps {
		path := filepath.Join(dir, file)
		before, _ := os.ReadFile(path)
		writeFile(t, path, string(before)+blocks[i][1])
	}
	if err := check(dir, false, true); err != nil {
		t.Errorf("the README's configuration: %v", err)
	}
	root := newRoot()
	for _, line := range regexp.MustCompile("(?m)(?:^|`|ctl )gateway ([a-z]+)").FindAllStringSubmatch(string(text), -1) {
		if cmd, _, err := root.Find([]string{line[1]}); err != nil || cmd == root {
			t.Errorf("the README shows `gateway %s`, which does not exist", line[1])
		}
	}
	for _, link := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(string(text), -1) {
		if _, err := os.Stat("../../" + link[1]); err != nil && !strings.Contains(link[1], "://") {
			t.Errorf("the README leads to %s: %v", link[1], err)
		}
	}
}
