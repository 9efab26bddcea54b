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
	if err := check(&options{}, dir, false, true, false); err != nil {
		t.Errorf("the README's configuration: %v", err)
	}
	checkCommands(t, "the README", string(text))
	for _, link := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(string(text), -1) {
		if _, err := os.Stat("../../" + link[1]); err != nil && !strings.Contains(link[1], "://") {
			t.Errorf("the README leads to %s: %v", link[1], err)
		}
	}
}

// checkCommands finds commands that a text shows and that do not exist.
func checkCommands(t *testing.T, what, text string) {
	t.Helper()
	root := newRoot()
	for _, line := range regexp.MustCompile("(?m)(?:^|`|ctl )gateway ([a-z]+)").FindAllStringSubmatch(text, -1) {
		if cmd, _, err := root.Find([]string{line[1]}); err != nil || cmd == root {
			t.Errorf("%s shows `gateway %s`, which does not exist", what, line[1])
		}
	}
}

// The walk through commissioning: its configuration is right, its commands
// exist, and the messages that it explains are those of the program.
func TestCommissioningTellsTheTruth(t *testing.T) {
	read, err := os.ReadFile("../../docs/commissioning.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(read)
	dir := t.TempDir()
	blocks := regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllStringSubmatch(text, -1)
	if len(blocks) != 2 {
		t.Fatalf("%d TOML blocks, this test knows 2", len(blocks))
	}
	writeFile(t, filepath.Join(dir, "gateway.toml"), blocks[0][1])
	writeFile(t, filepath.Join(dir, "devices.d", "meters.toml"), blocks[1][1])
	if err := check(&options{}, dir, false, true, false); err != nil {
		t.Errorf("its configuration: %v", err)
	}
	checkCommands(t, "docs/commissioning.md", text)
	var source strings.Builder
	for _, pattern := range []string{"*.go", "../../devices/*/*.go", "../../internal/*/*.go"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			code, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			source.Write(code)
		}
	}
	_, table, _ := strings.Cut(text, "| It says |")
	said := regexp.MustCompile("`([^`]+)`")
	messages := 0
	for row := range strings.Lines(table) {
		cells := strings.Split(row, "|")
		if len(cells) < 4 || strings.HasPrefix(cells[1], "---") {
			continue
		}
		for _, m := range said.FindAllStringSubmatch(cells[1], -1) {
			messages++
			// What a message fills in is not in the source.
			for _, part := range regexp.MustCompile(`…|minicom.*|mbpoll.*|rs485|139 %|CDAB`).Split(m[1], -1) {
				if part = strings.TrimSpace(part); part != "" && !strings.Contains(source.String(), part) {
					t.Errorf("no message of the program says %q", part)
				}
			}
		}
	}
	if messages < 15 {
		t.Errorf("only %d messages are explained", messages)
	}
}
