package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"edgegateway/internal/config"
)

// What the running gateway goes by is kept in a file of its runtime folder, so
// that `check --diff` can tell what a reload would do. No secret is in it.

func appliedPath(at places) string { return filepath.Join(at.runtime, "applied.json") }

// An appliedFile is the file: the settings at the start and now.
type appliedFile struct {
	Start []config.Setting `json:"start"`
	Now   []config.Setting `json:"now,omitempty"` // none: as at the start
}

// saveApplied notes what a reload has put into force.
func saveApplied(settings []config.Setting, at places, log *slog.Logger) {
	file, err := readApplied(at)
	if err == nil {
		file.Now = settings
		err = writeApplied(at, file)
	}
	if err != nil {
		log.Warn("`gateway check --diff` will not know what was reloaded", "err", err)
	}
}

// startApplied notes what the gateway was started with.
func startApplied(settings []config.Setting, at places, log *slog.Logger) {
	if err := writeApplied(at, &appliedFile{Start: settings}); err != nil {
		log.Warn("`gateway check --diff` will not know what the gateway runs with", "err", err)
	}
}

func writeApplied(at places, file *appliedFile) error {
	text, err := json.Marshal(file)
	if err != nil {
		return err
	}
	path := appliedPath(at)
	if err := os.WriteFile(path+".new", text, 0o640); err != nil {
		os.Remove(path + ".new") // what fitted of it
		return err
	}
	return os.Rename(path+".new", path)
}

func readApplied(at places) (*appliedFile, error) {
	text, err := os.ReadFile(appliedPath(at))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no gateway has run with this state folder since the machine was started: there is nothing to compare with")
	}
	file := new(appliedFile)
	if err == nil {
		err = json.Unmarshal(text, file)
	}
	if err != nil {
		return nil, fmt.Errorf("read what the gateway runs with: %w", err)
	}
	return file, nil
}

// texts joins the settings of each part.
func texts(list []config.Setting) map[string]string {
	lines := make(map[string][]string)
	for _, s := range list {
		lines[s.Part] = append(lines[s.Part], s.String())
	}
	all := make(map[string]string, len(lines))
	for part, l := range lines {
		all[part] = strings.Join(l, "\n")
	}
	return all
}

// printDiff says what a reload would do with other settings, part by part.
func printDiff(out io.Writer, settings []config.Setting, at places) error {
	file, err := readApplied(at)
	if err != nil {
		return err
	}
	old := file.Now
	if old == nil {
		old = file.Start
	}
	start, before, now := texts(file.Start), texts(old), texts(settings)
	c := compare(start, before, now)
	said := false
	tell := func(parts []string, what string, before map[string]string) {
		for _, part := range parts {
			said = true
			fmt.Fprintf(out, "%s %s\n", part, what)
			printLines(out, before[part], now[part])
		}
	}
	tell(c.anew, "begins anew", before)
	tell(c.begun, "begins", before)
	tell(c.ended, "ends", before)
	for _, part := range []string{"publish", "homeassistant", config.UsersPart} {
		if before[part] != now[part] {
			tell([]string{part}, "changes at once", before)
		}
	}
	tell(c.restart, "needs a restart: systemctl restart gateway", start)
	if !said {
		fmt.Fprintln(out, "A reload would change nothing. (Passwords, and what files hold that are named in the configuration, are not compared.)")
		return nil
	}
	if len(c.kept) > 0 {
		fmt.Fprintf(out, "All else goes on undisturbed: %s.\n", strings.Join(c.kept, ", "))
	}
	return nil
}

// printLines shows the lines that are only in one of two texts.
func printLines(out io.Writer, before, now string) {
	a, b := strings.Split(before, "\n"), strings.Split(now, "\n")
	for _, side := range []struct {
		mark        string
		lines, rest []string
	}{{"-", a, b}, {"+", b, a}} {
		other := make(map[string]bool)
		for _, l := range side.rest {
			other[l] = true
		}
		for _, l := range side.lines {
			if l != "" && !other[l] {
				fmt.Fprintf(out, "  %s %s\n", side.mark, l)
			}
		}
	}
}
